"""A model that many ask at once from an event loop: the worker is real."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate
from llmrun.engine.shared import SharedEngine
from llmrun.errors import ContextOverflowError, UsageError, WorkerDiedError
from llmrun.message import Message, RawPrompt
from llmrun.settings import RunSettings
from tests.conftest import GREEDY, ONE_THREAD, request

TWO = replace(ONE_THREAD, n_ctx=2048, n_seq_max=2, n_outputs_max=2)
ENDLESS = request("go", max_tokens=None)


@pytest.fixture(scope="module")
def engine(endless_model: Path) -> Iterator[Engine]:
    """Two slots of a model that writes until its context of 1,024 tokens is full."""
    with Engine() as found:
        found.load(endless_model, TWO)
        yield found


def with_shared(engine: Engine, use: Callable[[SharedEngine], Awaitable[None]]) -> None:
    """Use an engine in an event loop of its own."""

    async def run() -> None:
        await asyncio.wait_for(use(SharedEngine(engine)), 60)

    asyncio.run(run())


async def whole(shared: SharedEngine, wanted: Generate, owner: str = "") -> list[Chunk]:
    return [event async for event in shared.answer(wanted, owner) if isinstance(event, Chunk)]


async def begun(shared: SharedEngine, wanted: Generate = ENDLESS) -> AsyncGenerator[Any, None]:
    """An answer of which the first chunk was read."""
    answer = shared.answer(wanted)
    await anext(answer)
    return answer


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_many_answers_come_at_once_and_whole(engine: Engine) -> None:
    async def use(shared: SharedEngine) -> None:
        alone = [text(await whole(shared, request(word, max_tokens=30))) for word in "abcdef"]
        together = await asyncio.gather(*(whole(shared, request(word, max_tokens=30)) for word in "abcdef"))
        assert [text(chunks) for chunks in together] == alone
        assert all(chunks[-1].finish_reason == "length" for chunks in together)
        assert shared.load.writing == shared.load.waiting == 0

    with_shared(engine, use)


def test_it_tells_how_busy_it_is(engine: Engine) -> None:
    async def use(shared: SharedEngine) -> None:
        assert shared.info.n_slots == 2
        first, second = await begun(shared), await begun(shared)
        third = asyncio.ensure_future(whole(shared, request("go", max_tokens=1)))
        await asyncio.sleep(0)
        assert (shared.load.writing, shared.load.waiting, shared.load.slots) == (2, 1, 2)
        await first.aclose()
        await third
        await second.aclose()

    with_shared(engine, use)


def test_an_answer_that_is_closed_frees_its_place(engine: Engine) -> None:
    async def use(shared: SharedEngine) -> None:
        first, second = await begun(shared), await begun(shared)
        waiting = asyncio.ensure_future(whole(shared, request("go", max_tokens=3)))
        async with aclosing(first):
            pass
        assert (await waiting)[-1].finish_reason == "length"
        await second.aclose()

    with_shared(engine, use)


def test_a_task_that_is_cancelled_frees_its_place(engine: Engine) -> None:
    async def use(shared: SharedEngine) -> None:
        tasks = [asyncio.ensure_future(whole(shared, ENDLESS)) for _ in range(2)]
        waiting = asyncio.ensure_future(whole(shared, request("go", max_tokens=3)))
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        assert (await waiting)[-1].finish_reason == "length"
        assert await asyncio.gather(*tasks, return_exceptions=True) != []
        assert all(task.cancelled() for task in tasks)

    with_shared(engine, use)


def test_tokens_are_counted_while_answers_are_written(engine: Engine) -> None:
    async def use(shared: SharedEngine) -> None:
        before = await shared.count([Message("user", "hello")])
        answer = await begun(shared)
        assert await shared.count([Message("user", "hello")]) == before
        assert before.total > before.messages[0] == 5
        await answer.aclose()

    with_shared(engine, use)


def test_errors_are_those_of_their_request(engine: Engine) -> None:
    async def use(shared: SharedEngine) -> None:
        good = asyncio.ensure_future(whole(shared, request("go", max_tokens=30)))
        with pytest.raises(ContextOverflowError, match=r"1,024"):
            await whole(shared, request("x" * 3000))
        with pytest.raises(UsageError, match="there is no token 99999"):
            await whole(shared, Generate((), GREEDY, raw=RawPrompt("", tokens=(99999,))))
        with pytest.raises(UsageError, match="not text"):
            await whole(shared, request("\ud800"))
        assert (await good)[-1].finish_reason == "length"
        assert shared.load.writing == 0

    with_shared(engine, use)


def test_what_one_owner_read_is_not_reused_for_another(engine: Engine) -> None:
    async def use(shared: SharedEngine) -> None:
        wanted = request("a long enough question", max_tokens=1)

        async def cached(owner: str) -> int:
            usage = (await whole(shared, wanted, owner))[-1].usage
            assert usage is not None
            return usage.cached_tokens

        assert await cached("one") == 0
        assert await cached("two") == 0
        assert await cached("one") > 20
        assert await cached("three") == 0, "there are two slots"

    with_shared(engine, use)


def test_the_engine_answers_alone_again_afterwards(start_engine: Callable[..., Engine], endless_model: Path) -> None:
    """Commands that need the whole context wait until nothing is written."""
    engine = start_engine(endless_model, TWO)
    wanted = request("go", max_tokens=20)
    alone = "".join(event.text for event in engine.answer(wanted) if isinstance(event, Chunk))

    async def use(shared: SharedEngine) -> None:
        assert text(await whole(shared, wanted)) == alone

    with_shared(engine, use)


def test_the_death_of_the_worker_fails_all(start_engine: Callable[..., Engine], endless_model: Path) -> None:
    engine = start_engine(endless_model, TWO)

    async def use(shared: SharedEngine) -> None:
        await begun(shared)
        tasks = [asyncio.ensure_future(whole(shared, ENDLESS)) for _ in range(4)]
        counting = asyncio.ensure_future(shared.count([Message("user", "x")]))
        await asyncio.sleep(0)
        assert not shared.has_ended
        os.kill(engine.pid, signal.SIGKILL)
        failures = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(failure) for failure in failures] == [WorkerDiedError] * 4
        await asyncio.gather(counting, return_exceptions=True)
        assert shared.has_ended
        with pytest.raises(WorkerDiedError, match="was killed"):
            await whole(shared, ENDLESS)
        assert (shared.load.writing, shared.load.waiting) == (0, 0)

    with_shared(engine, use)


def test_who_asks_a_worker_that_died_before_anybody_asked_is_told(
    start_engine: Callable[..., Engine], tiny_model: Path
) -> None:
    engine = start_engine(tiny_model, TWO)

    async def use(shared: SharedEngine) -> None:
        os.kill(engine.pid, signal.SIGKILL)
        await asyncio.to_thread(engine.hand_over()._threads[0].join)  # its last word was heard, and told to nobody
        with pytest.raises(WorkerDiedError, match="was killed"):
            await whole(shared, ENDLESS)

    with_shared(engine, use)


def test_a_worker_that_does_not_read_can_be_ended(start_engine: Callable[..., Engine], tiny_model: Path) -> None:
    """However much it was sent: whoever sends would wait for ever."""
    engine = start_engine(tiny_model, TWO)

    async def use(shared: SharedEngine) -> None:
        await whole(shared, request("go", max_tokens=1))
        os.kill(engine.pid, signal.SIGSTOP)
        task = asyncio.ensure_future(whole(shared, request("x" * 1_000_000)))
        await asyncio.sleep(0)
        await shared.close()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], WorkerDiedError)

    with_shared(engine, use)


def test_closing_fails_who_still_waits(start_engine: Callable[..., Engine], tiny_model: Path) -> None:
    engine = start_engine(tiny_model, TWO)

    async def use(shared: SharedEngine) -> None:
        task = asyncio.ensure_future(whole(shared, ENDLESS))
        await asyncio.sleep(0)
        await shared.close()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], WorkerDiedError)

    with_shared(engine, use)


def test_a_long_prompt_that_is_withdrawn_is_broken_off(
    start_engine: Callable[..., Engine], endless_model: Path
) -> None:
    """Within a step, as nobody else would lose by it."""
    engine = start_engine(endless_model, RunSettings(n_ctx=2048))

    async def use(shared: SharedEngine) -> None:
        answer = shared.answer(request("x" * 1900, max_tokens=1))
        task = asyncio.ensure_future(anext(answer))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await whole(shared, request("go", max_tokens=2)))[-1].finish_reason == "length"

    with_shared(engine, use)
