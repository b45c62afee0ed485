"""The fleet of models where something goes wrong, or too much comes at once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from random import Random

import psutil
import pytest

from llmrun.errors import (
    BusyError,
    EngineError,
    InsufficientMemoryError,
    NotFoundError,
    QueueFullError,
    WorkerDiedError,
)
from llmrun.message import Message
from llmrun.neighbours import Neighbourhood
from llmrun.pipeline import Started
from llmrun.server.answering import answering
from llmrun.server.ask import Ask
from llmrun.server.fleet import Fleet
from llmrun.server.keeping import Keeping
from llmrun.server.names import Meant
from llmrun.server.uses import Use, Uses, recorder
from tests.fleets import MODELS, USAGE, Machine, ask, fleet_of, here, loaded, run, text_of, touch, until  # noqa: F401

pytestmark = pytest.mark.usefixtures("here")


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
            assert machine.loads == ["guide", MODELS[0]], "it comes back as it was: nothing is planned"
            died = "the worker of guide died: the engine's process was killed (SIGKILL) while it wrote the answer"
            assert told == [f"{died}; it is loaded again now"]

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
            assert machine.loads == [MODELS[0]], "it comes back as it was: nothing is planned"

    run(test())


def test_one_that_cannot_come_back_as_it_was_is_planned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where somebody else took the memory meanwhile."""

    def refuse(_: Started) -> Started:
        raise InsufficientMemoryError("there is no memory any more")

    async def test() -> None:
        machine = Machine()
        async with fleet_of(machine) as fleet:
            await touch(fleet, MODELS[0])
            monkeypatch.setattr(Started, "again", refuse)
            os.kill(fleet.loaded()[0].pid, signal.SIGKILL)
            async with fleet:
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
            assert all(1 <= (one.retry_after or 0) <= 60 for one in refused)
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


def test_who_wants_one_released_may_go_away_before_it_is() -> None:
    """Else it would wait for its end for ever, and so would all who ask for it."""

    async def test() -> None:
        machine = Machine()
        async with fleet_of(machine) as fleet:
            async with fleet.borrow("guide") as served:
                leaving = asyncio.create_task(fleet.release("guide"))
                await asyncio.sleep(0)
                leaving.cancel()
                await asyncio.wait([leaving])
                late = asyncio.create_task(ask(fleet))
                assert "cache" in await text_of(served)
            assert "cache" in await late
            assert machine.loads == ["guide"] * 2

    run(test())


def test_who_reads_slowly_takes_up_no_place() -> None:
    async def test() -> None:
        wanted = Ask("guide", (Message("user", "What is a KV cache?"),), max_tokens=30)
        async with fleet_of(Machine(), keeping=Keeping(queue=0)) as fleet:
            async with answering(wanted, fleet, "") as answers:
                text = (await anext(answers.pieces)).chunk.text  # and no more for now
                assert fleet.loaded()[0].busy == 1
                await until(lambda: fleet.loaded()[0].busy == 0)
                assert "cache" in await ask(fleet)
                text += "".join([piece.chunk.text async for piece in answers.pieces])
            assert "cache" in text
            assert fleet.loaded()[0].busy == 0

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


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_comes_and_goes_there_is_never_more_than_has_room_and_nothing_is_left(seed: int) -> None:
    random = Random(seed)
    pids: list[int] = []
    crowds: list[int] = []

    class Watched(Machine):
        def load(self, meant: Meant, beside: Neighbourhood) -> Started:
            found = super().load(meant, beside)
            pids.append(found.engine.pid)
            crowds.append(sum(psutil.pid_exists(pid) for pid in pids))
            return found

    async def come(fleet: Fleet, name: str) -> str:
        await asyncio.sleep(random.random())
        try:
            return await asyncio.wait_for(ask(fleet, name, random.choice((None, 0.0))), random.choice((0.3, 50)))
        except TimeoutError:
            return "cache: gave up"

    async def test() -> None:
        async with fleet_of(Watched(room=2), keeping=Keeping(queue=3), patience=50) as fleet:
            asked = (come(fleet, random.choice(("guide", *MODELS[:2]))) for _ in range(16))
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(one) for one in answers} <= {str, QueueFullError, BusyError}
            assert all("cache" in one for one in answers if isinstance(one, str))
            assert any(isinstance(one, str) for one in answers)
            assert max(crowds) <= 2
            await until(lambda: not fleet.loading())
            assert [(one.busy, one.waiting) for one in fleet.loaded()] == [(0, 0)] * len(fleet.loaded())
            await fleet.close()
            assert [pid for pid in pids if psutil.pid_exists(pid)] == []

    run(test())
