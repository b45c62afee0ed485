"""In how much room a choice stays what it is: what is only checked must be what would be chosen anew."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, event, given
from hypothesis import strategies as st

from llmrun.memory.footprint import Footprint
from llmrun.planning.choose import Choice, Ground, choose
from llmrun.planning.lasting import Lasting, lasting_of
from llmrun.planning.policy import POLICIES, PREFERENCES, Prefer
from llmrun.planning.room import Room
from tests.judge_cases import Case, draw
from tests.test_judge import ground_of, offers_of

CASES = st.integers(200_000, 200_150).map(draw)
PREFERS = st.sampled_from(PREFERENCES)
SLOTS = st.sampled_from([(1,), (4, 2, 1)])
# how much of its room a pool has at another time: less, as much, more, and far more
PARTS = st.lists(st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0, 1.01, 1.5, 100.0]), min_size=4, max_size=4)


def what(choice: Choice | None) -> object:
    return choice and (choice.offer.quant, choice.settings, choice.step, choice.footprint, choice.from_disk)


def changed(room: Room, parts: list[float]) -> Room:
    host, *rest = parts
    devices = (None if size is None else int(size * part) for size, part in zip(room.devices, rest, strict=False))
    return replace(room, host=int(room.host * host), devices=tuple(devices))


def told_more(footprint: Footprint, extra: int) -> Footprint:
    """What an engine says that knows of a little more than the arithmetic, everywhere."""
    host, *devices = (replace(used, compute=used.compute + extra) for used in (footprint.host, *footprint.devices))
    return Footprint(host, tuple(devices))


def found(case: Case, prefer: Prefer, ground: Ground, extra: int = 0) -> tuple[Choice, Lasting]:
    policy, offers = POLICIES[prefer], offers_of(case)
    choice = choose(offers, ground, policy)
    assume(choice is not None)
    assert choice is not None
    lasting = lasting_of(choice, told_more(choice.footprint, extra), offers, ground, policy)
    assume(lasting is not None)
    assert lasting is not None
    return choice, lasting


@given(CASES, PREFERS, SLOTS, PARTS, st.sampled_from([0, 1 << 20]))
def test_a_choice_that_stays_is_the_one_that_would_be_made_anew(
    case: Case, prefer: Prefer, slots: tuple[int, ...], parts: list[float], extra: int
) -> None:
    ground = replace(ground_of(case), slots=slots)
    choice, lasting = found(case, prefer, ground, extra)
    room = changed(ground.room, parts)
    stays = lasting.stays_in(room)
    event(f"stays: {stays}, whatever more there is: {lasting.most is None}, devices: {len(room.devices)}")
    if stays:
        anew = choose(offers_of(case), replace(ground, room=room), POLICIES[prefer])
        assert what(anew) == what(choice)
        own = room.only(lasting.used)
        assert own.holds(told_more(choice.footprint, extra))


@given(CASES, PREFERS)
def test_a_choice_stays_in_the_room_it_was_made_in(case: Case, prefer: Prefer) -> None:
    ground = ground_of(case)
    _, lasting = found(case, prefer, ground)
    assert lasting.stays_in(ground.room)


@given(CASES, PREFERS, st.integers(0, 3))
def test_a_choice_goes_where_any_pool_lacks_a_byte_of_what_it_takes(case: Case, prefer: Prefer, which: int) -> None:
    ground = ground_of(case)
    choice, lasting = found(case, prefer, ground)
    uses = ("host", *(choice.settings.devices or ()))
    pool, room = uses[which % len(uses)], ground.room
    if pool == "host":
        shared = sum(
            used.total
            for used, index in zip(choice.footprint.devices, lasting.used, strict=True)
            if room.unified[index]
        )
        less = replace(room, host=choice.footprint.host.total + shared - 1)
    else:
        index = ground.names.index(pool)
        assume(room.devices[index] is not None)
        taken = choice.footprint.devices[(choice.settings.devices or ()).index(pool)].total
        less = replace(room, devices=(*room.devices[:index], taken - 1, *room.devices[index + 1 :]))
    assert not lasting.stays_in(less)


@given(CASES, PREFERS)
def test_more_room_is_looked_at_anew_where_something_better_could_become_of_it(case: Case, prefer: Prefer) -> None:
    ground = ground_of(case)
    choice, lasting = found(case, prefer, ground)
    larger = changed(ground.room, [100.0] * 4)
    anew = choose(offers_of(case), replace(ground, room=larger), POLICIES[prefer])
    if what(anew) != what(choice):
        assert not lasting.stays_in(larger)


def test_a_device_more_or_another_kind_of_memory_is_another_machine() -> None:
    room = Room(8, (8,), (False,), (1,))
    assert not Lasting((), (), room).stays_in(replace(room, unified=(True,)))
    assert not Lasting((), (), room).stays_in(replace(room, drivers=(2,)))
    assert Lasting((), (), room).stays_in(room)
