"""Repositories as publishers make them: real models that answer, and headers of large ones with nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from llmrun.embedded import embedded_file
from llmrun.gguf.encode import build_header, encode_header, encode_tensor
from llmrun.gguf.header import Entry, GGUFHeader, ValueType
from llmrun.gguf.parse import parse_header
from llmrun.gguf.source import read_header
from scripts.architectures.quants import QUANTS, quantized
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost
from tests.hub_server.content import Content, of_bytes, of_file, sparse, text
from tests.hub_server.repo import Repo

_GUIDE = ("F16", "Q8_0", "Q4_K_M")
_UNSLOTH = ("UD-Q6_K_XL", "UD-Q5_K_XL", "UD-Q4_K_XL", "UD-Q3_K_XL", "UD-Q2_K_XL")


def _card(name: str) -> Content:
    return text(f"---\nlicense: apache-2.0\n---\n# {name}\n")


def guide_repo(repo_id: str = "guide/guide-GGUF", name: str = "guide") -> Repo:
    """The embedded model in its three quantizations."""
    files = {f"{name}-{quant}.gguf": of_file(embedded_file(quant)) for quant in _GUIDE}
    gguf = {"total": 3_500_000, "architecture": "llama", "context_length": 2048}
    return Repo(repo_id, {"README.md": _card(name), **files}, license="mit", downloads=120, likes=7, gguf=gguf)


def split_repo(repo_id: str = "acme/split-GGUF") -> Repo:
    """The embedded model in three parts."""
    return Repo(repo_id, {"README.md": _card("split"), **split_files("guide-F16", embedded_file("F16"), 3)})


def split_files(stem: str, path: Path, count: int) -> dict[str, Content]:
    """A file of one model as the files of its parts, as llama-gguf-split makes them."""
    whole, data = read_header(path), path.read_bytes()
    each = -(-len(whole.tensors) // count)
    files = {}
    for no in range(count):
        tensors = whole.tensors[no * each : (no + 1) * each]
        metadata = {**(whole.metadata if no == 0 else {}), **_split_metadata(no, count, len(whole.tensors))}
        header = build_header(whole.version, metadata, tensors)
        body = bytearray(encode_header(header))
        for placed, tensor in zip(header.tensors, tensors, strict=True):
            body += bytes(header.data_offset + placed.offset - len(body))
            start = whole.data_offset + tensor.offset
            body += data[start : start + tensor.size]
        files[f"{stem}-{no + 1:05d}-of-{count:05d}.gguf"] = of_bytes(bytes(body))
    return files


def _split_metadata(no: int, count: int, n_tensors: int) -> Mapping[str, Entry]:
    return {
        "split.no": Entry(ValueType.UINT16, no),
        "split.count": Entry(ValueType.UINT16, count),
        "split.tensors.count": Entry(ValueType.INT32, n_tensors),
    }


def vision_repo(repo_id: str = "acme/vision-GGUF") -> Repo:
    """A model with what publishers put beside it: a projector for images, an importance matrix, a model that drafts."""
    beside = {name: of_bytes(_small_model(name)) for name in ("mmproj-model-f16.gguf", "vision-imatrix.gguf")}
    files = {"vision-Q8_0.gguf": of_file(embedded_file("Q8_0")), "mtp-vision.gguf": of_bytes(_small_model("mtp"))}
    return Repo(repo_id, {"README.md": _card("vision"), **files, **beside})


def _small_model(name: str) -> bytes:
    """A header that says what a file is, and has no tensors."""
    kind = "mmproj" if "mmproj" in name else "imatrix" if "imatrix" in name else "model"
    metadata = {
        "general.architecture": Entry(ValueType.STRING, "clip" if kind == "mmproj" else "llama"),
        "general.type": Entry(ValueType.STRING, kind),
        "general.name": Entry(ValueType.STRING, name),
    }
    return encode_header(build_header(3, metadata, ()))


def gated_repo(repo_id: str = "acme/gated-GGUF") -> Repo:
    """A model that its owner gives to whom they like."""
    return Repo(repo_id, {"gated-Q8_0.gguf": of_file(embedded_file("Q8_0"))}, gated="manual", license="llama3.1")


def raw_split_repo(repo_id: str = "acme/old-GGUF") -> Repo:
    """A file cut into pieces, as was done before GGUF could be split."""
    data = embedded_file("Q8_0").read_bytes()
    half = len(data) // 2
    pieces = {"old.Q8_0.gguf-split-a": of_bytes(data[:half]), "old.Q8_0.gguf-split-b": of_bytes(data[half:])}
    return Repo(repo_id, pieces)


@cache
def _header(shape: str, quant: str) -> tuple[bytes, int]:
    """The header of a file with all its tokens, and the size of the file."""
    whole = parse_header(_with_tokens(shape))
    assert isinstance(whole, GGUFHeader)
    wanted = quantized(MODELS[shape], quant)
    types = {tensor.name: tensor.type.id for tensor in wanted.tensors}
    # the tokenizer's bytes as they are: the header in memory does not keep them
    start = _with_tokens(shape)[: _tensors_start(shape)]
    listed = b"".join(encode_tensor(tensor) for tensor in wanted.tensors)
    assert list(types) == [tensor.name for tensor in whole.tensors]
    data = start + listed
    data += bytes(-len(data) % whole.alignment)
    return data, len(data) + wanted.data_size


@cache
def _with_tokens(shape: str) -> bytes:
    return ghost(MODELS[shape], tokenizer=True)[0]


@cache
def _tensors_start(shape: str) -> int:
    data = _with_tokens(shape)
    header = parse_header(data)
    assert isinstance(header, GGUFHeader)
    return data.rfind(encode_tensor(header.tensors[0]))


def large_repo(repo_id: str, name: str, shape: str, quants: tuple[str, ...] = QUANTS, downloads: int = 1000) -> Repo:
    """Headers of a large model in many quantizations; of the weights there are zeros, and wrong checksums."""
    files = {f"{name}-{quant}.gguf": sparse(*_header(shape, quant), stand_in=True) for quant in quants}
    gguf = {"total": _n_elements(shape), "architecture": MODELS[shape].architecture, "context_length": 40960}
    return Repo(repo_id, {"README.md": _card(name), **files}, downloads=downloads, likes=downloads // 10, gguf=gguf)


def _n_elements(shape: str) -> int:
    return quantized(MODELS[shape], "F16").n_elements


def many_quants_repo(repo_id: str = "acme/Many-8B-GGUF") -> Repo:
    """Twenty-five quantizations of a model of 8 billion weights."""
    repo = large_repo(repo_id, "Many-8B", "qwen3-8b")
    files = dict(repo.files)
    for label, other in zip(_UNSLOTH, ("Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_L", "Q2_K"), strict=True):
        files[f"Many-8B-{label}.gguf"] = sparse(*_header("qwen3-8b", other), stand_in=True)
    return Repo(repo_id, files, downloads=5000, likes=90, gguf=repo.gguf)


# By name, made when they are asked for: what is large takes a second or two.
REPOS: Mapping[str, Callable[[], Repo]] = {
    "guide/guide-GGUF": guide_repo,
    "acme/split-GGUF": split_repo,
    "acme/vision-GGUF": vision_repo,
    "acme/gated-GGUF": gated_repo,
    "acme/old-GGUF": raw_split_repo,
    "acme/Many-8B-GGUF": many_quants_repo,
    "acme/Llama-3.1-70B-GGUF": lambda: large_repo("acme/Llama-3.1-70B-GGUF", "Llama-3.1-70B", "llama-3.1-70b"),
}
