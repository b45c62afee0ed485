"""worker.session and worker.llama: where oldest turns were dropped, those after them move up in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as lib

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Generate, PrefillProgress, Usage
from llmrun.message import Message
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.llama import Context, load_model, start_backend
from scripts.synthetic import LETTERS, RECURRENT, SLIDING, TINY, Shape, write_model
from tests.conftest import GREEDY, ONE_THREAD, chunks

SETTINGS = replace(ONE_THREAD, n_ctx=1024)
SYSTEM = Message("system", "be brief")
FIRST = (Message("user", "abcdefghij" * 20), Message("assistant", "no"))
SECOND = (Message("user", "zyxwvutsrq" * 20), Message("assistant", "yes"))
NEW = Message("user", "go on")


def model(folder: Path, shape: Shape = TINY) -> Path:
    path = folder / "m.gguf"
    return path if path.exists() else write_model(path, replace(shape, tied=False), writes=LETTERS)


def answer(engine: Engine, *messages: Message, shift: bool) -> tuple[str, Usage]:
    got = chunks(engine, Generate((SYSTEM, *messages), GREEDY, 12, shift=shift))
    assert got[-1].usage
    return "".join(chunk.text for chunk in got), got[-1].usage


def after_a_drop(engine: Engine, *, shift: bool) -> tuple[str, Usage]:
    answer(engine, *FIRST, *SECOND, NEW, shift=False)
    return answer(engine, *SECOND, NEW, shift=shift)


@pytest.mark.parametrize("type_kv", ["f16", "f32", "bf16", "q8_0"])
def test_turns_that_were_kept_are_not_read_again_where_keys_can_be_rotated_in_place(
    type_kv: str, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    """Other keys than f16 and f32 would be an abort (bf16), or take memory that nobody planned: they are read again."""
    engine = start_engine(model(tmp_path), replace(SETTINGS, type_k=type_kv, type_v=type_kv, flash_attn=True))
    text, usage = after_a_drop(engine, shift=True)
    assert (usage.cached_tokens > 200) == (type_kv in ("f16", "f32"))
    assert usage.read_tokens == usage.prompt_tokens - usage.cached_tokens
    # the conversation goes on from there as from any other
    _, following = answer(engine, *SECOND, NEW, Message("assistant", text), NEW, shift=True)
    assert following.cached_tokens == usage.prompt_tokens + usage.completion_tokens - 1


def test_who_does_not_ask_for_it_gets_the_answer_of_a_new_engine(
    tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    warm, cold = (start_engine(model(tmp_path), SETTINGS) for _ in range(2))
    text, usage = after_a_drop(warm, shift=False)
    assert text == answer(cold, *SECOND, NEW, shift=False)[0]
    assert usage.cached_tokens < 50


def test_where_nothing_was_dropped_shifting_changes_nothing(
    tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    warm, cold = (start_engine(model(tmp_path), SETTINGS) for _ in range(2))
    answer(warm, *FIRST, NEW, shift=True)
    text, usage = answer(warm, *FIRST, NEW, Message("assistant", "well"), NEW, shift=True)
    assert text == answer(cold, *FIRST, NEW, Message("assistant", "well"), NEW, shift=False)[0]
    assert usage.cached_tokens > 200


@pytest.mark.parametrize("shape", [SLIDING, RECURRENT], ids=["sliding windows", "recurrent state"])
def test_a_memory_that_cannot_be_shifted_is_read_again(
    shape: Shape, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    warm, cold = (start_engine(model(tmp_path, shape), SETTINGS) for _ in range(2))
    text, usage = after_a_drop(warm, shift=True)
    assert text == answer(cold, *SECOND, NEW, shift=False)[0]
    assert usage.cached_tokens < 50


def test_sliding_windows_are_shifted_where_all_of_them_is_kept(
    tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(model(tmp_path, SLIDING), replace(SETTINGS, swa_full=True))
    assert after_a_drop(engine, shift=True)[1].cached_tokens > 200


def logits(context: Context) -> list[float]:
    row = lib.llama_get_logits_ith(context.pointer, -1)
    return list(row[: context.model.vocabulary.n_tokens])


def furthest(some: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(some, others, strict=True))


def test_keys_of_one_layer_are_rotated_to_where_they_would_have_been_read(tmp_path: Path) -> None:
    """With one layer, keys and values depend on their own token alone: a rotation that is right is exact to rounding.

    With more, they remember the turns that were dropped (llama.cpp's context shift is so too): no equality holds there.
    """
    start_backend()
    settings = replace(SETTINGS, type_k="f32", type_v="f32", flash_attn=False)
    loaded = load_model(model(tmp_path, replace(TINY, n_layer=1)), settings)
    moved, fresh, cut = (Context(loaded, settings, CancelFlag()) for _ in range(3))
    head, dropped, tail, last = [10] * 40, [20] * 40, [30, 40, 50] * 16, [60]
    for tokens, position in ((head, 0), (dropped, 40), (tail, 80)):
        assert moved.decode(tokens, position, want_logits=True) == 0
        assert cut.decode(tokens, position, want_logits=True) == 0
    for tokens, position in ((head, 0), (tail, 40)):
        assert fresh.decode(tokens, position, want_logits=True) == 0
    moved.move(80, 40, len(tail))
    lib.llama_memory_seq_rm(lib.llama_get_memory(cut.pointer), 0, 40, 80)
    for context in (moved, fresh, cut):
        assert context.decode(last, context.n_past(), want_logits=True) == 0
    assert not moved.move_pending
    assert furthest(logits(moved), logits(fresh)) < 1e-5
    assert furthest(logits(cut), logits(fresh)) > 1e-2, "a rotation that is left out would be seen"
    for context in (moved, fresh, cut):
        context.close()
    loaded.close()


def test_a_shift_that_was_cancelled_before_it_was_computed_is_forgotten(
    tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    path = model(tmp_path)
    warm, cold = (start_engine(path, SETTINGS) for _ in range(2))
    answer(warm, *FIRST, *SECOND, NEW, shift=False)
    stopped = warm.answer(Generate((SYSTEM, *SECOND, NEW), GREEDY, 12, shift=True))
    stopped.cancel()
    assert [event for event in stopped if isinstance(event, PrefillProgress)] == []
    text, _ = answer(warm, *FIRST, NEW, shift=False)
    assert text == answer(cold, *FIRST, NEW, shift=False)[0]


def test_guide_answers_the_same_when_its_oldest_turns_were_dropped(
    guide_file: Path, start_engine: Callable[..., Engine]
) -> None:
    """Keys are rotated and values remember what was dropped, so that this is no law; of a model it is the hope."""
    warm, cold = (start_engine(guide_file, SETTINGS) for _ in range(2))
    said: list[Message] = []
    for question in ("what is a kv cache", "what is vram", "what is GGUF", "why is my model slow", "what is mmap"):
        said.append(Message("user", question))
        text, _ = answer(warm, *said, shift=False)
        said.append(Message("assistant", text))
    left = (*said[4:], Message("user", "what is a token"))
    (moved, usage), (fresh, _) = answer(warm, *left, shift=True), answer(cold, *left, shift=False)
    assert moved == fresh
    assert usage.cached_tokens > usage.prompt_tokens / 2
