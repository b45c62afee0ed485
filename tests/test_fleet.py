"""The fleet of models: real engines; only how many of them there is room for is the test's word."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmrun import pipeline
from llmrun.embedded import embedded_file
from llmrun.engine.protocol import Chunk, Usage
from llmrun.errors import (
    BusyError,
    EngineError,
    InsufficientMemoryError,
    NotFoundError,
    QueueFullError,
    WorkerDiedError,
)
from llmrun.neighbours import Neighbourhood
from llmrun.pipeline import Started
from llmrun.server.fleet import Fleet, Served
from llmrun.server.keeping import FOREVER, Keeping
from llmrun.server.names import Meant, Names
from llmrun.server.uses import Use, Uses, recorder
from llmrun.settings import Constraints
from tests.conftest import request
from tests.model_trees import HubCache

MODELS = ("acme/a-GGUF", "acme/b-GGUF", "acme/c-GGUF")
USAGE = Usage(10, 0, 10, 20, 0.1, 0.2, 1)
QUESTION = "What is a KV cache?"


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies of guide in the Hugging Face cache of a home of the test's."""
    home = tmp_path_factory.mktemp("home")
    small = embedded_file("Q4_K_M").read_bytes()
    for name in MODELS:  # each a file of its own: bytes behind the weights are no part of the model
        cache = HubCache(home / "hub")
        cache.add(name, {f"{name[5]}-Q4_K_M.gguf": small + name.encode()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(home / "hub"))
        patch.setenv("OLLAMA_MODELS", str(home / "ollama"))
        patch.setenv("HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@dataclass
class Machine:
    """Room for so many models; loads them as the program does, and remembers which. before: called in each load."""

    room: int = 9
    loads: list[str] = field(default_factory=list)
    before: Callable[[Meant], object] = lambda _: None

    def load(self, meant: Meant, beside: Neighbourhood) -> Started:
        self.loads.append(meant.name)
        self.before(meant)
        while len(around := beside.neighbours()) >= self.room:
            idle = [one for one in around if one.state == "idle"]
            if idle:
                beside.release(idle[0])
            elif any(one.state == "busy" for one in around):
                raise BusyError("no room")
            else:
                raise InsufficientMemoryError("it does not fit")
        return pipeline.start(meant.reference, Constraints(n_threads=1), offline=True, beside=beside)


@dataclass
class Clock:
    """A clock that goes as the test says; seconds."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def fleet_of(machine: Machine, *given: str, keeping: Keeping = Keeping(), **options: Any) -> AsyncIterator[Fleet]:
    """A fleet that nobody looks after but the test."""
    fleet = Fleet(Names(given or ("guide",)), machine.load, keeping, **options)
    try:
        yield fleet
    finally:
        await fleet.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(within())


async def text_of(served: Served, *, killing: bool = False) -> str:
    """The answer to the question; killing: its worker is killed at the first word."""
    text = ""
    async with aclosing(served.engine.answer(request(QUESTION))) as events:
        async for event in events:
            text += event.text if isinstance(event, Chunk) else ""
            if text and killing:
                os.kill(served.started.engine.pid, signal.SIGKILL)
    return text


async def ask(fleet: Fleet, name: str = "", keep_alive: float | None = None) -> str:
    async with fleet.borrow(name, keep_alive) as served:
        return await text_of(served)


async def touch(fleet: Fleet, *names: str, keep_alive: float | None = None) -> None:
    for name in names:
        async with fleet.borrow(name, keep_alive):
            pass


def loaded(fleet: Fleet) -> list[str]:
    return [one.name for one in fleet.loaded()]


async def until(condition: Callable[[], object]) -> None:
    """Wait for what will surely come; the test's own limit is the end of it."""
    while not condition():
        await asyncio.sleep(0.01)


def test_many_who_ask_at_once_wait_for_one_load() -> None:
    async def test() -> None:
        machine = Machine()
        async with fleet_of(machine) as fleet:
            answers = await asyncio.gather(*(ask(fleet, name) for name in ("", "guide", "guide:latest")))
            assert len(set(answers)) == 1
            assert "cache" in answers[0]
            assert machine.loads == ["guide"]

    run(test())


def test_one_file_under_several_names_is_loaded_once() -> None:
    async def test() -> None:
        machine = Machine()
        async with fleet_of(machine) as fleet:
            await touch(fleet, MODELS[0], f"{MODELS[0]}:Q4_K_M", f"hf:{MODELS[0]}")
            await touch(fleet, "guide:Q8_0", "guide")  # of which this one is chosen, by a plan
            assert loaded(fleet) == [MODELS[0], "guide:Q8_0"]
            assert set(fleet.loaded()[0].names) == {MODELS[0], f"{MODELS[0]}:Q4_K_M"}
            assert len({one.pid for one in fleet.loaded()}) == 2

    run(test())


def test_the_one_that_was_idle_longest_goes_first() -> None:
    async def test() -> None:
        machine, clock = Machine(room=2), Clock()
        async with fleet_of(machine, clock=clock) as fleet:
            for name in (MODELS[0], MODELS[1], MODELS[0], MODELS[2]):
                clock.now += 1
                await touch(fleet, name)
            assert loaded(fleet) == [MODELS[0], MODELS[2]]

    run(test())


def test_a_pinned_one_stays_and_whoever_would_need_its_room_is_refused_while_it_answers_on() -> None:
    async def test() -> None:
        machine = Machine(room=1)
        pinned = Keeping(0.0, frozenset({"guide"}))
        async with fleet_of(machine, keeping=pinned) as fleet:
            await touch(fleet, "guide", keep_alive=0)
            with pytest.raises(InsufficientMemoryError):
                await touch(fleet, MODELS[0])
            await fleet.tend()
            assert "cache" in await ask(fleet)
            assert machine.loads == ["guide", MODELS[0]]

    run(test())


def test_a_busy_one_is_waited_for_and_never_ended() -> None:
    async def test() -> None:
        machine = Machine(room=1)
        async with fleet_of(machine) as fleet:
            async with fleet.borrow("guide") as served:
                other = asyncio.create_task(ask(fleet, MODELS[0]))
                await until(lambda: MODELS[0] in machine.loads)
                await until(lambda: fleet._wanting)
                late = asyncio.create_task(ask(fleet, "guide"))  # who comes now comes after the one who waits
                assert "cache" in await text_of(served)
                assert not other.done()
            assert "cache" in await other
            assert "cache" in await late
            assert loaded(fleet) == ["guide"]
            assert machine.loads[-1] == "guide"

    run(test())


def test_waiting_for_a_busy_one_has_an_end_that_says_when_to_come_again() -> None:
    async def test() -> None:
        async with fleet_of(Machine(room=1), patience=0.05) as fleet:
            async with fleet.borrow("guide") as served:
                with pytest.raises(BusyError) as told:
                    await touch(fleet, MODELS[0])
                assert told.value.http_status == 503
                assert told.value.retry_after >= 1
                assert "cache" in await text_of(served)
            await touch(fleet, MODELS[0])

    run(test())


@pytest.mark.parametrize(
    ("keeping", "name", "wished", "seconds"),
    [
        (Keeping(), "guide", None, FOREVER),  # given at the start
        (Keeping(), MODELS[0], None, 300),
        (Keeping(20.0), "guide", None, 20),
        (Keeping(20.0), MODELS[0], 60.0, 60),
        (Keeping(20.0), MODELS[0], -1.0, FOREVER),
    ],
)
def test_a_model_stays_as_long_as_it_is_to_and_no_longer(
    keeping: Keeping, name: str, wished: float | None, seconds: float
) -> None:
    async def test() -> None:
        clock = Clock()
        async with fleet_of(Machine(), keeping=keeping, clock=clock) as fleet:
            await touch(fleet, name, keep_alive=wished)
            assert fleet.loaded()[0].expires_in == (None if seconds == FOREVER else seconds)
            clock.now += min(seconds, 1e9) - 1
            await fleet.tend()
            assert loaded(fleet) == [name]
            clock.now += 2
            await fleet.tend()
            assert loaded(fleet) == ([name] if seconds == FOREVER else [])

    run(test())


def test_kept_for_no_time_it_goes_at_once_but_not_while_others_use_it() -> None:
    async def test() -> None:
        async with fleet_of(Machine()) as fleet:
            async with fleet.borrow("guide") as served:
                await touch(fleet, "guide", keep_alive=0)
                assert "cache" in await text_of(served)
            assert loaded(fleet) == ["guide"]
            await touch(fleet, "guide", keep_alive=0)
            await until(lambda: not loaded(fleet))

    run(test())


def test_a_worker_that_is_killed_fails_its_own_requests_and_is_there_again() -> None:
    async def test() -> None:
        machine, told = Machine(), list[str]()
        async with fleet_of(machine, "guide", tell=told.append) as fleet:
            await touch(fleet, "guide", MODELS[0])
            async with fleet.borrow(MODELS[0]) as other:
                async with fleet.borrow("guide") as served:
                    with pytest.raises(WorkerDiedError):
                        await text_of(served, killing=True)
                begun = time.monotonic()
                assert "cache" in await text_of(other)
            await until(lambda: "guide" in loaded(fleet))  # without a request: it was given at the start
            assert "cache" in await ask(fleet)
            assert time.monotonic() - begun < 20  # alone on a machine: 1 s
            assert machine.loads == ["guide", MODELS[0], "guide"]
            assert told == ["the worker of guide died"]

    run(test())


def test_one_that_dies_idle_is_missed_only_by_those_who_want_it() -> None:
    async def test() -> None:
        machine = Machine()
        async with fleet_of(machine) as fleet:
            await touch(fleet, MODELS[0])
            os.kill(fleet.loaded()[0].pid, signal.SIGKILL)
            async with fleet:  # which looks after it
                await until(lambda: not loaded(fleet))
                assert "cache" in await ask(fleet, MODELS[0])
            assert machine.loads == [MODELS[0]] * 2

    run(test())


def test_a_load_that_fails_fails_those_who_wait_and_the_next_one_tries_again() -> None:
    async def test() -> None:
        def fail(_: Meant) -> None:
            raise EngineError("not today")

        machine = Machine(before=fail)
        async with fleet_of(machine) as fleet:
            found = await asyncio.gather(*(ask(fleet) for _ in range(3)), return_exceptions=True)
            assert [str(one) for one in found] == ["not today"] * 3
            assert machine.loads == ["guide"]
            machine.before = lambda _: None
            assert "cache" in await ask(fleet)

    run(test())


def test_more_than_may_wait_are_told_when_to_come_again() -> None:
    async def test() -> None:
        async with fleet_of(Machine(), keeping=Keeping(queue=2)) as fleet:
            await touch(fleet, "guide")
            found = await asyncio.gather(*(ask(fleet) for _ in range(5)), return_exceptions=True)
            refused = [one for one in found if isinstance(one, QueueFullError)]
            assert [one.http_status for one in refused] == [429] * 2  # one is answered, and two wait
            assert all(1 <= one.retry_after <= 60 for one in refused)
            assert "cache" in await ask(fleet)

    run(test())


def test_while_it_is_loaded_no_more_wait_than_may() -> None:
    async def test() -> None:
        go_on = threading.Event()
        machine = Machine(before=lambda _: go_on.wait())
        async with fleet_of(machine, keeping=Keeping(queue=2)) as fleet:
            asked = [asyncio.create_task(ask(fleet)) for _ in range(5)]
            await until(lambda: sum(task.done() for task in asked) == 2)
            go_on.set()
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(isinstance(one, QueueFullError) for one in found) == 2

    run(test())


def test_who_goes_away_while_it_is_loaded_leaves_no_trace() -> None:
    async def test() -> None:
        go_on = threading.Event()
        machine = Machine(before=lambda _: go_on.wait())
        async with fleet_of(machine) as fleet:
            first, second = (asyncio.create_task(ask(fleet)) for _ in range(2))
            await until(lambda: machine.loads)
            first.cancel()
            go_on.set()
            assert "cache" in await second
            assert (fleet.loaded()[0].busy, fleet.loaded()[0].waiting) == (0, 0)

    run(test())


def test_the_end_does_not_wait_for_a_load_and_leaves_no_process() -> None:
    started: list[Started] = []
    arrived, go_on = threading.Event(), threading.Event()

    class Slow(Machine):
        def load(self, meant: Meant, beside: Neighbourhood) -> Started:
            started.append(super().load(meant, beside))
            arrived.set()
            go_on.wait()
            return started[0]

    async def test() -> None:
        async with fleet_of(Slow()) as fleet:
            waiting = asyncio.create_task(ask(fleet))
            await until(arrived.is_set)
            await fleet.close()
            with pytest.raises(BusyError):
                await waiting

    run(test())
    go_on.set()
    ended = time.monotonic() + 30
    while not (started and started[0].engine.has_ended) and time.monotonic() < ended:
        time.sleep(0.01)
    assert started[0].engine.has_ended


def test_released_it_answers_those_who_asked_and_comes_back_when_asked_for() -> None:
    async def test() -> None:
        machine = Machine()
        async with fleet_of(machine, keeping=Keeping(pinned=frozenset({"guide"}))) as fleet:
            async with fleet.borrow("guide") as served:
                leaving = asyncio.create_task(fleet.release("guide"))
                await asyncio.sleep(0)
                late = asyncio.create_task(ask(fleet))
                assert "cache" in await text_of(served)
            await leaving
            assert "cache" in await late
            await fleet.release("guide")
            assert loaded(fleet) == []
            with pytest.raises(NotFoundError):
                await fleet.release("guide")
            assert machine.loads == ["guide"] * 2

    run(test())


def test_only_the_speed_of_an_answer_that_was_alone_is_remembered() -> None:
    async def test() -> None:
        uses, seen = Uses(), list[str]()

        def told(name: str, use: Use) -> None:
            recorder(use, lambda _: seen.append(name))(USAGE)

        first = uses.begin(1)
        told("alone", first)
        second = uses.begin(1)
        told("joined", first)
        uses.end(first)
        told("came second", second)
        uses.end(second)
        told("of two answers", uses.begin(2))
        await asyncio.get_running_loop().shutdown_default_executor()
        assert seen == ["alone"]

    run(test())
