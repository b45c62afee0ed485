"""A header kept as text: reading gives the value that was written."""

from __future__ import annotations

import pytest

from llmrun.embedded import embedded_file
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.source import read_header
from llmrun.gguf.stored import format_stored, parse_stored
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost


@pytest.mark.parametrize("shape", list(MODELS))
def test_writing_and_reading_are_inverse(shape: str) -> None:
    header = parse_header(ghost(MODELS[shape], tokenizer=True)[0])
    assert isinstance(header, GGUFHeader)
    assert parse_stored(format_stored(header)) == header


def test_the_header_of_a_real_file_is_kept_whole() -> None:
    header = read_header(embedded_file("Q8_0"))
    assert parse_stored(format_stored(header)) == header


def test_bytes_of_any_tokenizer_are_not_kept() -> None:
    data = ghost(MODELS["qwen3-8b"], tokenizer=True)[0]
    header = parse_header(data)
    assert isinstance(header, GGUFHeader)
    assert len(format_stored(header)) < len(data) // 10


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"format": 2}',
        b'{"format": 1, "version": 3}',
        b'{"format": 1, "version": 3, "metadata": []}',
        b"[" * 200_000,
        b"\xff",
    ],
    ids=lambda data: repr(data[:50]),
)
def test_anything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own words, or ours
        parse_stored(data)
