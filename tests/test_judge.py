"""The planner against the judge, which sorts everything that could be run: they choose alike, whatever is asked.

LLMRUN_JUDGE_CASES says how many cases there are. What they differ in comes with the case's number: `draw(number)`.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from statistics import median

import pytest

from llmrun.memory.overhead import device_overhead
from llmrun.planning.choose import Choice, Ground, choose
from llmrun.planning.offer import Offer
from llmrun.planning.policy import POLICIES, PREFERENCES, Prefer
from llmrun.planning.room import Room
from llmrun.planning.sizes import layer_sizes
from tests.judge import POLICIES as JUDGED
from tests.judge import Pools, Variant, Verdict, judge
from tests.judge_cases import DEVICES, LOSSES, Case, draw

CASES = int(os.environ.get("LLMRUN_JUDGE_CASES", "2000"))


def offers_of(case: Case) -> list[Offer]:
    return [
        Offer(
            *(file.quant, LOSSES[file.quant], file.bpw, n_ctx_train),
            layer_sizes(file.estimator.shape),
            file.footprint,
            case.decoder(file),
            repacks,
        )
        for file, n_ctx_train, repacks in zip(case.files, case.n_ctx_train, case.repacks, strict=True)
    ]


def variants_of(case: Case) -> list[Variant]:
    return [
        Variant(
            *(file.quant, LOSSES[file.quant], file.bpw, n_ctx_train),
            tuple(layer.experts.size > 0 for layer in file.estimator.shape.layers),
            file.footprint,
            case.decoder(file),
            repacks,
        )
        for file, n_ctx_train, repacks in zip(case.files, case.n_ctx_train, case.repacks, strict=True)
    ]


def ground_of(case: Case) -> Ground:
    unified = tuple(DEVICES[name].unified for name in case.devices)
    drivers = tuple(device_overhead(DEVICES[name].backend) for name in case.devices)
    return Ground(case.devices, Room(case.host, case.rooms, unified, drivers), case.fixed)


def pools_of(case: Case) -> Pools:
    shared = frozenset(name for name in case.devices if DEVICES[name].unified)
    return Pools(case.host, tuple(zip(case.devices, case.rooms, strict=True)), shared)


def same(choice: Choice | None, verdict: Verdict | None, prefer: Prefer) -> bool:
    if choice is None or verdict is None:
        return choice is None and verdict is None
    step = POLICIES[prefer].steps.index(choice.step)
    return (step, choice.offer.quant, choice.settings) == (verdict.step, verdict.variant.quant, verdict.settings)


@pytest.mark.slow
@pytest.mark.timeout(120 + CASES)
@pytest.mark.parametrize("prefer", PREFERENCES)
def test_the_planner_chooses_what_the_judge_chooses(prefer: Prefer) -> None:
    """In every case, to the last setting; and each step of the policy decides some case, and some are refused."""
    decided: Counter[int | None] = Counter()
    seconds = []
    for number in range(PREFERENCES.index(prefer), CASES, len(PREFERENCES)):
        case = draw(number)
        offers, ground = offers_of(case), ground_of(case)
        start = time.perf_counter()
        choice = choose(offers, ground, POLICIES[prefer])
        seconds.append(time.perf_counter() - start)
        verdict = judge(variants_of(case), pools_of(case), case.fixed, prefer)
        assert same(choice, verdict, prefer), f"case {number}: {choice}, not {verdict}"
        decided[None if verdict is None else verdict.step] += 1
    # for people: pytest -s
    sys.stdout.write(f"{prefer}: the planner took {median(seconds):.3f} s a case, at most {max(seconds):.3f} s\n")
    assert {*range(len(JUDGED[prefer][0])), None} <= set(decided)
