"""hub_server: its repositories are as publishers make them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from llmrun.catalog import entries
from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.errors import GGUFError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.purpose import check_writes_text
from llmrun.gguf.source import read_header
from llmrun.gguf.splits import merge_splits
from scripts.architectures.quants import QUANTS
from tests.conftest import ask
from tests.hub_server.repo import Repo
from tests.hub_server.repos import RENAMED, REPOS

# hub.md says how long headers of real files are, MB: Qwen3 5.95, Llama 3 7.8
HEADER_SIZES = {"acme/Qwen3-8B-GGUF": 5_950_000, "acme/Llama-3.1-70B-GGUF": 7_800_000}


@cache
def repo(name: str) -> Repo:
    return REPOS[name]()


def header(name: str, path: str) -> GGUFHeader:
    """The header of a file, from as many bytes as it takes."""
    content = repo(name).contents[path]
    parsed = parse_header(b"".join(content.pieces(0, min(content.size, 10_000_000))))
    assert isinstance(parsed, GGUFHeader)
    return parsed


def test_each_is_what_it_is_called() -> None:
    assert {name: repo(name).id for name in REPOS} == {name: name for name in REPOS}
    assert set(RENAMED.values()) <= set(REPOS)
    assert not set(RENAMED) & set(REPOS)


def test_short_names_lead_to_some_of_them() -> None:
    known = {entry.repo_id: entry.name for entry in entries()}
    assert {known[name] for name in REPOS if name in known} == {"smollm2:135m", "qwen3:0.6b", "qwen3:8b", "llama3.1:8b"}


def test_a_model_in_three_parts_is_loaded_and_answers_as_in_one(
    tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    files = {path: data for path, data in repo("acme/split-GGUF").files.items() if path.endswith(".gguf")}
    for path, data in files.items():
        assert isinstance(data, bytes)
        (tmp_path / path).write_bytes(data)
    assert list(files) == [f"guide-F16-{no:05d}-of-00003.gguf" for no in (1, 2, 3)]
    question = "what is a KV cache?"
    whole = ask(start_engine(embedded_file("F16")), question, max_tokens=8)
    assert ask(start_engine(tmp_path / next(iter(files))), question, max_tokens=8) == whole != ""


@pytest.mark.parametrize("name", HEADER_SIZES)
def test_headers_are_as_long_as_real_ones_and_files_as_large_as_their_tensors(name: str) -> None:
    paths = [path for path in repo(name).contents if "Q4_K_M" in path or "Q2_K" in path]
    for path in paths:
        found = header(name, path)
        assert found.data_offset == pytest.approx(HEADER_SIZES[name], rel=0.01)
        assert found.file_size == repo(name).contents[path].size
    assert len(paths) == 2


def test_a_file_of_more_than_50_gb_is_in_parts() -> None:
    large = repo("acme/Llama-3.1-70B-GGUF")
    assert max(content.size for content in large.contents.values()) < 50_000_000_000
    parts = [path for path in large.contents if path.startswith("F16/")]
    assert parts == [f"F16/Llama-3.1-70B-F16-{no:05d}-of-00003.gguf" for no in (1, 2, 3)]
    merged = merge_splits([header(large.id, path) for path in parts])
    assert merged.n_elements == header(large.id, "Llama-3.1-70B-Q4_K_M.gguf").n_elements


def test_there_are_as_many_quantizations_as_real_repositories_have() -> None:
    assert len(QUANTS) == 20
    assert len([path for path in repo("acme/Qwen3-8B-GGUF").files if path.endswith(".gguf")]) == 20
    assert len([path for path in repo("acme/Many-8B-GGUF").files if path.endswith(".gguf")]) == 25


def test_each_file_of_a_large_model_has_a_checksum_of_its_own() -> None:
    contents = [*repo("acme/Qwen3-8B-GGUF").contents.values(), *repo("acme/Llama-3.1-70B-GGUF").contents.values()]
    assert len({content.sha256 for content in contents}) == len(contents)


def test_the_tokens_of_a_large_model_are_there_once() -> None:
    pieces = [content.head for content in repo("acme/Qwen3-8B-GGUF").contents.values() if len(content.head) == 3]
    assert len(pieces) == 20
    assert len({id(tokenizer) for _, tokenizer, _ in pieces}) == 1


@pytest.mark.parametrize(
    ("name", "path", "what"),
    [
        ("acme/vision-GGUF", "mmproj-model-f16.gguf", "the part of a model that sees"),
        ("acme/vision-GGUF", "vision-imatrix.gguf", "an importance matrix"),
        ("acme/embed-GGUF", "embed-Q8_0.gguf", "a model for embeddings"),
    ],
)
def test_what_writes_no_text_says_so(name: str, path: str, what: str) -> None:
    with pytest.raises(GGUFError, match=what):
        check_writes_text(header(name, path))


def test_a_raw_split_put_together_is_the_model() -> None:
    pieces = [data for path, data in repo("acme/old-GGUF").files.items() if ".part" in path]
    assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == embedded_file("Q8_0").read_bytes()


def test_the_hub_tells_of_guide_what_is_in_its_file() -> None:
    found = read_header(embedded_file("Q8_0"))
    told = repo("guide/guide-GGUF").gguf
    assert (told["total"], told["architecture"], told["totalFileSize"]) == (
        found.n_elements,
        found.architecture,
        embedded_file("Q8_0").stat().st_size,
    )
