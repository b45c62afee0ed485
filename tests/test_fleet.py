"""The fleet of models: who is loaded, who waits for whom, who goes, and when."""

from __future__ import annotations

import asyncio

import pytest

from llmrun.errors import (
    BusyError,
    InsufficientMemoryError,
)
from llmrun.server.keeping import FOREVER, Keeping
from tests.fleets import MODELS, USAGE, Clock, Machine, ask, fleet_of, here, loaded, run, text_of, touch, until  # noqa: F401
from tests.lent import lender, linux_only

pytestmark = pytest.mark.usefixtures("here")


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
                assert 1 <= (told.value.retry_after or 0) <= 60
                assert "cache" in await text_of(served)
            await touch(fleet, MODELS[0])

    run(test())


@pytest.mark.parametrize(
    ("keeping", "name", "wished", "seconds"),
    [
        (Keeping(), "guide", 10**400, FOREVER),  # as a client may write it
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


@linux_only
def test_models_that_have_the_same_lender_take_turns() -> None:
    async def test(device: str) -> None:
        machine = Machine(devices=(device,))
        async with fleet_of(machine) as fleet:
            async with fleet.borrow(MODELS[0]):
                waiting = asyncio.create_task(touch(fleet, MODELS[1]))
                await until(lambda: fleet._wanting)
                assert loaded(fleet) == [MODELS[0]]
            await waiting
            assert loaded(fleet) == [MODELS[1]]

    with lender() as start:
        run(test(start().id))
