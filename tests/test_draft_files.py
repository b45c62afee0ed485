"""gguf.draft: which models can guess for which others, by their headers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from llmrun.errors import GGUFError
from llmrun.gguf.draft import MOST_APART, check_draft
from llmrun.gguf.header import Entry, GGUFHeader, Scalar, SkippedArray, ValueType
from llmrun.gguf.source import read_header
from scripts.synthetic import RECURRENT, TINY, write_model

_TYPES = {bool: ValueType.BOOL, int: ValueType.UINT32, str: ValueType.STRING}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> GGUFHeader:
    header = read_header(write_model(tmp_path_factory.mktemp("models") / "base.gguf"))
    return having(header, add_bos_token=False, add_eos_token=False)


def having(header: GGUFHeader, **changes: Scalar | None) -> GGUFHeader:
    """A header with other keys of its tokenizer, None for one that it has not."""
    metadata = dict(header.metadata)
    for name, value in changes.items():
        metadata.pop(key := f"tokenizer.ggml.{name}", None)
        if value is not None:
            metadata[key] = Entry(_TYPES[type(value)], value)
    return replace(header, metadata=MappingProxyType(metadata))


def with_tokens(header: GGUFHeader, n: int) -> GGUFHeader:
    tokens = Entry(ValueType.ARRAY, SkippedArray(ValueType.STRING, n), ValueType.STRING)
    return replace(header, metadata=MappingProxyType({**header.metadata, "tokenizer.ggml.tokens": tokens}))


def test_a_model_can_guess_for_itself_and_a_shape_for_another_with_its_tokens(base: GGUFHeader, tmp_path: Path) -> None:
    check_draft(base, base)
    check_draft(base, read_header(write_model(tmp_path / "d.gguf", replace(TINY, n_layer=1, n_embd=128))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "its tokenizer is 'llama', and the model's is 'gpt2'"),
        ({"add_bos_token": True}, "it has a token bos before each text, which the model has not"),
        ({"add_eos_token": True}, "it has a token eos after each text, which the model has not"),
    ],
)
def test_another_way_to_make_tokens_is_refused(base: GGUFHeader, changes: dict[str, Scalar], message: str) -> None:
    with pytest.raises(GGUFError, match=message) as caught:
        check_draft(base, having(base, **changes))
    assert caught.value.hint is not None
    assert "same family" in caught.value.hint


def test_the_tokens_of_the_ends_are_the_same_where_they_are_put(base: GGUFHeader) -> None:
    """llama.cpp does not look at those that are put nowhere."""
    check_draft(base, having(base, bos_token_id=7, eos_token_id=9))
    putting = having(base, add_bos_token=True, add_eos_token=True, bos_token_id=1, eos_token_id=2)
    check_draft(putting, putting)
    with pytest.raises(GGUFError, match="its bos is token 7, and the model's is 1"):
        check_draft(putting, having(putting, bos_token_id=7))
    with pytest.raises(GGUFError, match="its eos is token 9, and the model's is 2"):
        check_draft(putting, having(putting, eos_token_id=9))


def test_what_a_file_does_not_say_is_left_to_the_engine(base: GGUFHeader) -> None:
    silent = having(base, add_bos_token=None, add_eos_token=None, bos_token_id=None, eos_token_id=None)
    check_draft(having(base, add_bos_token=True), silent)
    check_draft(silent, having(base, add_eos_token=True))


def test_vocabularies_may_be_a_little_longer_one_than_the_other(base: GGUFHeader) -> None:
    """As Qwen's are, which are padded to other lengths in other sizes."""
    wide = with_tokens(base, 151_936)
    for n in (151_936 - MOST_APART, 151_936 + MOST_APART):
        check_draft(wide, with_tokens(base, n))
    for n in (151_936 - MOST_APART - 1, 151_936 + MOST_APART + 1):
        with pytest.raises(GGUFError, match=f"it knows {n:,} tokens, and the model 151,936"):
            check_draft(wide, with_tokens(base, n))


def test_a_model_that_cannot_forget_a_guess_neither_makes_nor_takes_one(base: GGUFHeader, tmp_path: Path) -> None:
    state = read_header(write_model(tmp_path / "m.gguf", RECURRENT))
    with pytest.raises(GGUFError, match="it is of the architecture mamba, which cannot forget a wrong guess"):
        check_draft(base, state)
    with pytest.raises(GGUFError, match="a draft brings nothing to a model of the architecture mamba") as caught:
        check_draft(state, base)
    assert caught.value.hint == "leave --draft away"


def test_what_is_no_model_is_no_draft(base: GGUFHeader, tmp_path: Path) -> None:
    words = read_header(write_model(tmp_path / "v.gguf", with_tensors=False))
    with pytest.raises(GGUFError, match="there are no weights in it"):
        check_draft(base, words)
