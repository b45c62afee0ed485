"""worker.session and worker.llama: what stays in memory from turn to turn, for memories that cannot go back as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Usage
from scripts.synthetic import LETTERS, RECURRENT, SLIDING, TINY, Shape, write_model
from tests.conftest import ONE_THREAD, chunks, request

SHAPES = {"full attention": TINY, "sliding windows": SLIDING, "recurrent state": RECURRENT}
LONG = "abcdefghij" * 30  # five windows


@pytest.fixture(params=SHAPES)
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, start_engine: Callable[..., Engine]
) -> tuple[str, Engine, Engine]:
    """A kind of memory, and two engines with the same model: one to be warm, one to be asked once."""
    shape: Shape = SHAPES[request.param]
    path = write_model(tmp_path / "m.gguf", replace(shape, tied=False), writes=LETTERS)
    settings = replace(ONE_THREAD, n_ctx=1024)
    return request.param, start_engine(path, settings), start_engine(path, settings)


def answer(engine: Engine, *turns: str) -> tuple[str, Usage]:
    got = chunks(engine, request(*turns, max_tokens=12))
    assert got[-1].usage
    return "".join(chunk.text for chunk in got), got[-1].usage


def test_a_conversation_that_goes_on_reads_only_what_is_new(pair: tuple[str, Engine, Engine]) -> None:
    """The last token of an answer that was cut off is read with the next turn: it was drawn, but not decoded."""
    _, warm, cold = pair
    text, first = answer(warm, LONG)
    warm_text, second = answer(warm, LONG, text, "go on")
    cold_text, _ = answer(cold, LONG, text, "go on")
    assert second.cached_tokens == first.prompt_tokens + first.completion_tokens - 1
    assert warm_text == cold_text


def test_a_conversation_that_turns_off_early_is_answered_as_if_it_were_new(pair: tuple[str, Engine, Engine]) -> None:
    kind, warm, cold = pair
    answer(warm, LONG)
    other = LONG[:40] + "!" * 260
    (warm_text, usage), (cold_text, _) = answer(warm, other), answer(cold, other)
    assert warm_text == cold_text
    assert (usage.cached_tokens > 0) == (kind == "full attention")


def test_a_conversation_that_turns_off_within_the_window_is_reused_where_that_is_exact(
    pair: tuple[str, Engine, Engine],
) -> None:
    kind, warm, cold = pair
    answer(warm, LONG)
    other = LONG[:-1] + "!"
    (warm_text, usage), (cold_text, _) = answer(warm, other), answer(cold, other)
    assert warm_text == cold_text
    assert (usage.cached_tokens > 0) == (kind != "recurrent state")


def test_the_same_question_twice_is_answered_the_same(pair: tuple[str, Engine, Engine]) -> None:
    _, warm, _ = pair
    assert answer(warm, LONG)[0] == answer(warm, LONG)[0]
