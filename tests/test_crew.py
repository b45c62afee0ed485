"""The threads of a context's steps: the real engine computes with as many as were chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from llama_cpp import llama_cpp as lib

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate
from llmrun.hardware.spare import Spare
from llmrun.message import Message
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.crew import SPLIT_FROM, Crew, is_divided, is_repeatable
from llmrun.worker.llama import Context, Model, load_model, start_backend

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTINGS = RunSettings(n_ctx=1024, n_threads=1, n_threads_batch=1, devices=())


class Scripted:
    """A watch that sees what it is told to."""

    def __init__(self) -> None:
        self.room: float | None = None
        self.is_due, self.age = True, 0.0

    def look(self) -> float | None:
        return self.room


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    start_backend()
    model = load_model(embedded_file("Q8_0"), SETTINGS)
    yield model
    model.close()


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    context = Context(model, SETTINGS, CancelFlag())
    yield context
    context.close()


class Clock:
    """Time that passes when it is looked at. crowded: two threads take three times as long as one, and not half."""

    def __init__(self, context: Context) -> None:
        self._context, self._now = context, 0.0
        self.crowded = 1.5

    def __call__(self) -> float:
        self._now += 0.01 if lib.llama_n_threads(self._context.pointer) == 1 else 0.005 * self.crowded
        return self._now

    def pass_by(self, seconds: float) -> None:
        self._now += seconds


def crew_for(context: Context, watch: Scripted, sleep: Callable[[float], None] = lambda _: None) -> Clock:
    """A crew of at most two, which begins with both; returns its clock."""
    context.set_threads(2, 2)
    clock = Clock(context)
    context.crew = Crew((2, 2), (2, 2), context.set_threads, watch, clock, sleep)
    return clock


def threads_of(context: Context, position: int) -> int:
    """Those that a step for one token was computed with."""
    assert context.decode((5,), position, want_logits=True) == 0
    return int(lib.llama_n_threads(context.pointer))


def test_threads_are_given_up_where_others_need_the_processors(context: Context) -> None:
    """And the engine is told so, and taken when they have gone."""
    watch = Scripted()
    clock = crew_for(context, watch)
    watch.room, clock.crowded = 1.0, 6.0
    numbers = [threads_of(context, position) for position in range(8)]
    assert numbers == [2, *[1] * 7]
    watch.room, clock.crowded = 2.0, 1.0
    assert [threads_of(context, position) for position in range(8, 16)][-4:] == [2] * 4
    assert lib.llama_n_threads_batch(context.pointer) == 2
    watch.room, clock.crowded = 1.0, 6.0
    assert context.decode((7, 8), 16, want_logits=True) == 0
    assert context.decode((7, 8), 18, want_logits=True) == 0
    assert lib.llama_n_threads_batch(context.pointer) == 1


@pytest.mark.parametrize(("now", "n_threads"), [(2.0, 2), (1.0, 1)])
def test_who_was_busy_in_a_pause_is_looked_at_again_before_it_counts(
    context: Context, now: float, n_threads: int
) -> None:
    """A program that ran until the question came leaves its average behind, and all processors."""
    watch, slept = Scripted(), list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        watch.room = now

    clock = crew_for(context, watch, sleep)
    assert threads_of(context, 0) == 2
    watch.room, watch.age = 0.0, 30.0
    clock.pass_by(30.0)
    assert threads_of(context, 1) == n_threads
    assert len(slept) == 1
    assert 0 < slept[0] < 0.1  # of which nobody notices


def test_an_answer_to_be_repeated_keeps_its_threads_where_they_would_show(context: Context) -> None:
    watch = Scripted()
    context.begin_answer(keeps_threads=True)
    for start in range(0, 256, 128):
        assert context.decode([7] * 128, start, want_logits=False) == 0
    clock = crew_for(context, watch)
    watch.room, clock.crowded = 1.0, 2.5
    assert [threads_of(context, position) for position in range(256, 264)] == [2] * 8
    context.begin_answer(keeps_threads=False)
    assert [threads_of(context, position) for position in range(264, 268)][1:] == [1] * 3


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_threads_that_were_given_up_are_there_again_for_the_next_answer_to_be_repeated(
    context: Context, seconds: float
) -> None:
    """Whether it comes at once, or after a pause in which nobody was busy."""
    watch = Scripted()
    for start in range(0, 256, 128):
        assert context.decode([7] * 128, start, want_logits=False) == 0
    clock = crew_for(context, watch)
    assert threads_of(context, 256) == 2
    context.begin_answer(keeps_threads=True)
    watch.room = 0.0
    clock.pass_by(30.0)
    assert [threads_of(context, position) for position in range(257, 260)] == [1] * 3
    watch.room, watch.age = 2.0, seconds
    clock.pass_by(seconds)
    context.begin_answer(keeps_threads=True)
    assert context.decode([7] * 32, 260, want_logits=False) == 0
    assert [threads_of(context, position) for position in range(292, 296)] == [2] * 4


def test_without_a_crew_the_threads_are_those_that_were_fixed(context: Context) -> None:
    for position in range(3):
        assert context.decode((5,), position, want_logits=True) == 0
        assert lib.llama_n_threads(context.pointer) == 1


def logits(context: Context, n_threads: int, n_past: int) -> list[NDArray[np.float32]]:
    """Those of a prompt and of two tokens after it, each computed with so many threads."""
    context.clear(data=True)
    context.set_threads(n_threads, n_threads)
    found = []
    for start in range(0, n_past, 120):
        n = min(120, n_past - start)
        assert context.decode([(start + i) % 90 + 5 for i in range(n)], start, want_logits=True) == 0
        found.append(context.logits(-1).copy())
    for position in (n_past, n_past + 1):
        assert context.decode((position % 90 + 5,), position, want_logits=True) == 0
        found.append(context.logits(-1).copy())
    return found


@pytest.mark.parametrize("n_past", [10, SPLIT_FROM - 2, 400])
def test_up_to_a_length_threads_do_not_change_a_bit(context: Context, n_past: int) -> None:
    """Of reading nowhere, of writing beyond 256 tokens only: there a greedy answer keeps its threads."""
    one, two = logits(context, 1, n_past), logits(context, 2, n_past)
    n_read = len(one) - 2
    assert all(np.array_equal(a, b) for a, b in zip(one[:n_read], two[:n_read], strict=True))
    same = all(np.array_equal(a, b) for a, b in zip(one[n_read:], two[n_read:], strict=True))
    assert same or n_past >= SPLIT_FROM


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SETTINGS, True),
        (replace(SETTINGS, flash_attn=False), False),
        (replace(SETTINGS, type_k="q8_0", type_v="q8_0"), False),
        (replace(SETTINGS, type_v="f32"), False),
    ],
)
def test_where_attention_is_divided(settings: RunSettings, *, expected: bool) -> None:
    assert is_divided(settings) is expected


def test_what_is_to_be_repeated() -> None:
    assert is_repeatable(Sampling(temperature=0))
    assert is_repeatable(Sampling(seed=7))
    assert not is_repeatable(Sampling())


def test_the_worker_answers_with_threads_that_adapt() -> None:
    """The same text as with one thread from start to end."""
    question = Generate((Message("user", "what is a token"),), Sampling(temperature=0), 24)

    def answer(most_threads: tuple[int, int] | None) -> str:
        with Engine() as engine:
            engine.load(embedded_file("Q8_0"), SETTINGS, most_threads=most_threads)
            return "".join(event.text for event in engine.answer(question) if isinstance(event, Chunk))

    assert answer((2, 2)) == answer(None) != ""


def test_what_others_leave_is_seen_without_waiting() -> None:
    spare = Spare()
    assert spare.age >= 0
    room = spare.look()
    assert room is None or room >= 0


def test_where_nothing_can_be_seen_nothing_is_said(tmp_path: Path) -> None:
    assert Spare(tmp_path).look() is None
