"""Repositories as publishers make them: real models that answer, and headers of large ones with nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from llmrun.embedded import embedded_file
from llmrun.gguf.encode import build_header, encode_header
from llmrun.gguf.header import Entry, ValueType
from llmrun.gguf.source import read_header
from llmrun.gguf.types import ggml_type_named
from scripts.architectures.quants import QUANTS, quantized
from scripts.architectures.shapes import MODELS
from tests.hub_server.content import Content
from tests.hub_server.headers import header_files, split_metadata
from tests.hub_server.repo import Repo

_GUIDE = ("F16", "Q8_0", "Q4_K_M")
_OFFICIAL = ("Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")  # what Qwen has of its own models
# labels of unsloth's, each with the types of another: how they differ does not matter here
_DYNAMIC = {
    "UD-Q6_K_XL": "Q6_K",
    "UD-Q5_K_XL": "Q5_K_M",
    "UD-Q4_K_XL": "Q4_K_M",
    "UD-Q3_K_XL": "Q3_K_L",
    "UD-Q2_K_XL": "Q2_K",
}
_TEXT = ValueType.STRING
Files = dict[str, bytes | Path | Content]


def _card(name: str, license_name: str = "apache-2.0") -> bytes:
    return f"---\nlicense: {license_name}\ntags:\n- gguf\n---\n# {name}\n".encode()


def guide_repo(repo_id: str = "guide/guide-GGUF", name: str = "guide", **more: Any) -> Repo:
    """The embedded model in its three quantizations, which loads and answers."""
    files: Files = {"README.md": _card(name), "config.json": b'{"model_type": "llama"}\n'}
    files |= {f"{name}-{quant}.gguf": embedded_file(quant) for quant in _GUIDE}
    told: dict[str, Any] = {"license": "mit", "downloads": 120, "likes": 7, **more}
    return Repo(repo_id, files, gguf=_told(embedded_file("Q8_0")), **told)


def _told(path: Path) -> dict[str, Any]:
    header = read_header(path)
    return {
        "total": header.n_elements,
        "architecture": header.architecture,
        "context_length": header.uint(header.arch("context_length")),
        "totalFileSize": path.stat().st_size,
    }


def split_repo(repo_id: str = "acme/split-GGUF") -> Repo:
    """The embedded model in three parts, which loads and answers."""
    return Repo(repo_id, {"README.md": _card("split"), **split_files("guide-F16", embedded_file("F16"), 3)})


def split_files(stem: str, path: Path, count: int) -> dict[str, bytes]:
    """Return a file of one model as the files of its parts, as llama-gguf-split makes them."""
    whole, data = read_header(path), path.read_bytes()
    each = -(-len(whole.tensors) // count)
    files = {}
    for no in range(count):
        tensors = whole.tensors[no * each : (no + 1) * each]
        split = split_metadata(no, count, len(whole.tensors))
        header = build_header(whole.version, {**(whole.metadata if no == 0 else {}), **split}, tensors)
        body = bytearray(encode_header(header))
        for placed, tensor in zip(header.tensors, tensors, strict=True):
            body += bytes(header.data_offset + placed.offset - len(body))
            start = whole.data_offset + tensor.offset
            body += data[start : start + tensor.size]
        files[f"{stem}-{no + 1:05d}-of-{count:05d}.gguf"] = bytes(body)
    return files


def vision_repo(repo_id: str = "acme/vision-GGUF") -> Repo:
    """A model with what publishers put beside it: a projector for images, an importance matrix, a model that drafts."""
    files: Files = {
        "README.md": _card("vision"),
        "vision-Q8_0.gguf": embedded_file("Q8_0"),
        "mmproj-model-f16.gguf": _small("clip", "mmproj"),
        "vision-imatrix.gguf": _small("llama", "imatrix"),
        "mtp-vision.gguf": _small("llama", "model"),
    }
    return Repo(repo_id, files, downloads=80, likes=4, gguf=_told(embedded_file("Q8_0")))


def _small(architecture: str, kind: str, more: Mapping[str, Entry] = {}) -> bytes:
    """A file that says what it is, and has one tensor."""
    metadata = {
        "general.architecture": Entry(_TEXT, architecture),
        "general.type": Entry(_TEXT, kind),
        **more,
    }
    tensor = replace(read_header(embedded_file("F16")).tensors[0], shape=(64,), type=ggml_type_named("F32"))
    return encode_header(build_header(3, metadata, (tensor,))) + bytes(tensor.size)


def embedding_repo(repo_id: str = "acme/embed-GGUF") -> Repo:
    """A model that turns text into numbers and writes none."""
    kind = {"bert.pooling_type": Entry(ValueType.UINT32, 1), "bert.attention.causal": Entry(ValueType.BOOL, False)}
    files: Files = {"README.md": _card("embed"), "embed-Q8_0.gguf": _small("bert", "model", kind)}
    return Repo(repo_id, files, pipeline_tag="feature-extraction", gguf={"total": 64, "architecture": "bert"})


def gated_repo(repo_id: str = "acme/gated-GGUF") -> Repo:
    """A model that its owner gives to whom they like."""
    files: Files = {"README.md": _card("gated", "llama3.1"), "gated-Q8_0.gguf": embedded_file("Q8_0")}
    return Repo(repo_id, files, gated="manual", license="llama3.1", gguf=_told(embedded_file("Q8_0")))


def raw_split_repo(repo_id: str = "acme/old-GGUF") -> Repo:
    """A file cut into pieces, as was done before GGUF could be split."""
    data = embedded_file("Q8_0").read_bytes()
    half = len(data) // 2
    pieces: Files = {"old.Q8_0.gguf.part1of2": data[:half], "old.Q8_0.gguf.part2of2": data[half:]}
    return Repo(repo_id, {"README.md": _card("old"), **pieces})


def large_repo(repo_id: str, name: str, shape: str, quants: tuple[str, ...] = QUANTS, **more: Any) -> Repo:
    """Headers of a large model in many quantizations, each as long as it really is; of the weights there are zeros."""
    files: Files = {"README.md": _card(name)}
    for quant in quants:
        files |= header_files(name, shape, quant)
    told: dict[str, Any] = {"downloads": 1000, "likes": 100, **more}
    return Repo(repo_id, files, gguf=_large_told(shape, quants[-1]), **told)


@cache
def _large_told(shape: str, quant: str) -> Mapping[str, Any]:
    header = quantized(MODELS[shape], quant)
    return {
        "total": header.n_elements,
        "architecture": header.architecture,
        "context_length": header.uint(header.arch("context_length")),
        "totalFileSize": header.file_size,
    }


def many_quants_repo(repo_id: str = "acme/Many-8B-GGUF") -> Repo:
    """Twenty-five quantizations of a model of 8 billion weights."""
    repo = large_repo(repo_id, "Many-8B", "qwen3-8b", downloads=5000, likes=90)
    files = dict(repo.files)
    for label, like in _DYNAMIC.items():
        files |= header_files("Many-8B", "qwen3-8b", label, like)
    return replace(repo, files=files)


def _large(repo_id: str, name: str, shape: str, quants: tuple[str, ...] = QUANTS, **more: Any) -> Callable[[], Repo]:
    return lambda: large_repo(repo_id, name, shape, quants, **more)


# By name, made when they are asked for: headers of large models take a second or two.
REPOS: Mapping[str, Callable[[], Repo]] = {
    "guide/guide-GGUF": guide_repo,
    "acme/split-GGUF": split_repo,
    "acme/vision-GGUF": vision_repo,
    "acme/embed-GGUF": embedding_repo,
    "acme/gated-GGUF": gated_repo,
    "acme/old-GGUF": raw_split_repo,
    "acme/private-GGUF": lambda: guide_repo("acme/private-GGUF", "private", private=True),
    "acme/renamed-GGUF": lambda: guide_repo("acme/renamed-GGUF", "renamed"),
    "acme/Many-8B-GGUF": many_quants_repo,
    "acme/Qwen3-8B-GGUF": _large("acme/Qwen3-8B-GGUF", "Qwen3-8B", "qwen3-8b"),
    "acme/Llama-3.1-70B-GGUF": _large("acme/Llama-3.1-70B-GGUF", "Llama-3.1-70B", "llama-3.1-70b"),
    # under the names that short names stand for (llmrun/catalog.json): smollm2:135m, qwen3:0.6b, qwen3:8b, llama3.1:8b
    "unsloth/SmolLM2-135M-Instruct-GGUF": lambda: guide_repo(
        "unsloth/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct", downloads=40_000, license="apache-2.0"
    ),
    "Qwen/Qwen3-0.6B-GGUF": _large("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B", "qwen3-0.6b", ("Q8_0",), downloads=60_000),
    "Qwen/Qwen3-8B-GGUF": _large("Qwen/Qwen3-8B-GGUF", "Qwen3-8B", "qwen3-8b", _OFFICIAL, downloads=90_000),
    "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF": _large(
        "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
        "Meta-Llama-3.1-8B-Instruct",
        "llama-3.1-8b",
        license="llama3.1",
        downloads=70_000,
    ),
}
RENAMED = {"acme/formerly-GGUF": "acme/renamed-GGUF"}
