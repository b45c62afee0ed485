"""Stepping down: laws that hold whatever the model, the machine and the failure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmrun.memory.footprint import MemoryBreakdown
from llmrun.planning.choose import Choice, Ground, choose
from llmrun.planning.failure import Failure, Part, room_after
from llmrun.planning.policy import POLICIES
from llmrun.planning.room import Room
from llmrun.planning.step_down import KINDS, Kind, step_down
from tests.judge_cases import Case, draw
from tests.test_judge import ground_of, offers_of

CASES = st.integers(200_000, 200_150).map(draw)  # none of those that the judge is asked about
PARTS: st.SearchStrategy[Part | None] = st.sampled_from((None, "weights", "kv_cache", "compute"))
KV_TYPES = ("q4_0", "q8_0", "f16")
MIB = 1 << 20

Step = tuple[Kind, Choice, Choice, Ground]


def planned(choice: Choice, pool: str) -> MemoryBreakdown:
    if pool == "host":
        return choice.footprint.host
    return choice.footprint.devices[(choice.settings.devices or ()).index(pool)]


def failing(choice: Choice, index: int, part: Part | None) -> Failure:
    """A pool of the choice that does not give a part of what was planned for it."""
    pools = ("host", *(choice.settings.devices or ()))
    pool = pools[index % len(pools)]
    asked = None if part is None else getattr(planned(choice, pool), part)
    return Failure(pool, part, asked)


def steps_down(case: Case, index: int, part: Part | None) -> list[Step]:
    """Every step until none is left, each load failing where the first one did."""
    ground, offers = ground_of(case), offers_of(case)
    choice = choose(offers, ground, POLICIES["balanced"])
    assume(choice is not None)
    steps: list[Step] = []
    tries: Counter[Kind] = Counter()
    while choice is not None:
        failure = failing(choice, index, part)
        room = room_after(ground.room, ground.names, failure, planned(choice, failure.pool), again=bool(steps))
        ground = replace(ground, room=room)
        exhausted = [kind for kind, count in tries.items() if count >= 2]
        found = step_down(choice.offer, choice.settings, offers, ground, exhausted)
        if found is None:
            return steps
        kind, less = found
        tries[kind] += 1
        steps.append((kind, choice, less, ground))
        choice = less
        assert len(steps) <= 2 * len(KINDS)
    return steps


@given(CASES, st.integers(0, 3), PARTS)
def test_there_is_never_more_of_anything(case: Case, index: int, part: Part | None) -> None:
    for _, before, after, _ in steps_down(case, index, part):
        old, new = before.settings, after.settings
        assert (new.n_gpu_layers or 0) <= (old.n_gpu_layers or 0)
        assert KV_TYPES.index(new.type_k) <= KV_TYPES.index(old.type_k)
        assert (new.n_ctx or 0) <= (old.n_ctx or 0)
        assert after.offer.sizes.total <= before.offer.sizes.total
        assert (new.n_ubatch, new.n_seq_max) == (old.n_ubatch, old.n_seq_max)
        assert old.repack or not new.repack


@given(CASES, st.integers(0, 3), PARTS)
def test_there_is_less_of_what_the_step_is_named_after_and_of_no_other_but_layers(
    case: Case, index: int, part: Part | None
) -> None:
    for kind, before, after, _ in steps_down(case, index, part):
        old, new = before.settings, after.settings
        changed = {
            "kv_type": new.type_k != old.type_k,
            "context": new.n_ctx != old.n_ctx,
            "variant": after.offer.quant != before.offer.quant,
        }
        assert {name for name, is_other in changed.items() if is_other} == {kind} - {"layers"}
        if kind == "layers":
            assert (new.n_gpu_layers, -new.cpu_experts) < (old.n_gpu_layers, -old.cpu_experts)


@given(CASES, st.integers(0, 3), PARTS)
def test_what_is_tried_fits_what_the_failure_left(case: Case, index: int, part: Part | None) -> None:
    for _, _, after, ground in steps_down(case, index, part):
        used = [ground.names.index(name) for name in after.settings.devices or ()]
        assert after.footprint == after.offer.footprint(after.settings)
        assert ground.room.only(used).holds(after.footprint)


@given(CASES, st.integers(0, 3), PARTS)
def test_what_the_user_fixed_is_not_changed(case: Case, index: int, part: Part | None) -> None:
    fixed = case.fixed
    for _, before, after, _ in steps_down(case, index, part):
        old, new = before.settings, after.settings
        assert fixed.n_ctx is None or new.n_ctx == old.n_ctx
        assert fixed.type_kv is None or new.type_k == old.type_k
        assert fixed.n_gpu_layers is None or new.n_gpu_layers == old.n_gpu_layers


@given(CASES, st.integers(0, 3), PARTS)
def test_the_order_is_layers_then_kv_type_then_context_then_variant(case: Case, index: int, part: Part | None) -> None:
    """Without a limit of tries, what comes earlier in the order has nothing left where a later one is taken."""
    for kind, before, _, ground in steps_down(case, index, part):
        earlier = KINDS[: KINDS.index(kind)]
        others = [other for other in KINDS if other not in earlier]
        found = step_down(before.offer, before.settings, offers_of(case), ground, others)
        assert found is None or found[0] in earlier  # in which case it was tried twice already


USED = MemoryBreakdown(weights=100 * MIB, kv_cache=30 * MIB, compute=10 * MIB, overhead=4 * MIB)


@pytest.mark.parametrize(
    ("part", "asked", "known", "known_again"),
    [
        ("weights", 100 * MIB, 79 * MIB, 54 * MIB),
        ("weights", 60 * MIB, 49 * MIB, 34 * MIB),  # one of several buffers
        ("kv_cache", 40 * MIB, 134 * MIB, 124 * MIB),
        ("compute", 8 * MIB, 140 * MIB, 138 * MIB),
        ("compute", 900 * MIB, 144 * MIB - 1, 144 * MIB - 1),  # more than planned: the plan is too much all the same
        (None, None, 144 * MIB * 9 // 10, 108 * MIB),
    ],
)
def test_a_pool_is_asked_for_less_than_it_refused_and_for_much_less_the_next_time(
    part: Part | None, asked: int | None, known: int, known_again: int
) -> None:
    for bound in (999 * MIB, None):
        room = Room(999 * MIB, (bound,), (False,))
        for again, expected in ((False, known), (True, known_again)):
            after = room_after(room, ("CUDA0",), Failure("CUDA0", part, asked), USED, again=again)
            assert after == Room(999 * MIB, (expected,), (False,))
            host = room_after(room, ("CUDA0",), Failure("host", part, asked), USED, again=again)
            assert host == Room(expected, (bound,), (False,))
            assert expected < USED.total


def test_a_room_that_is_known_to_be_smaller_stays_so() -> None:
    room = Room(5 * MIB, (7 * MIB,), (False,))
    for pool in ("host", "CUDA0"):
        assert room_after(room, ("CUDA0",), Failure(pool), USED) == room
