"""scripts/bench lend: a 0.6B shape with half of its layers lent, against one machine, and against what was predicted.

One thread computes here and one at the lender: what both do by turns is as much as one machine does alone, so that the
difference is the way between. It is planned and loaded as `llmrun run --gpu-layers 14 --device rpc:...` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmrun import pipeline
from llmrun.engine.client import Engine
from llmrun.planning.plan import Plan
from llmrun.reference import LocalRef
from llmrun.settings import Constraints
from scripts.benchmarks.engine import ask, large, random_text
from scripts.benchmarks.table import Row
from scripts.benchmarks.wires import LOOPBACK, ONE, TEN, Wire, lender_behind

TURNS = 5
N_PROMPT, N_TOKENS = 512, 64
LENT_LAYERS = 14  # of 28 and the output
# Writing and reading, of one machine's: 0.96 and 1.5, 1.0 and 2.2, 0.81 and 1.7 were measured, on a noisy machine
_BARS = {LOOPBACK: (0.9, 1.2), TEN: (0.9, 1.2), ONE: (0.75, 1.2)}
_OFF = 1.25  # a prediction may be off by so much, either way: 1.2 to 1.5 where the hosts were not measured


@dataclass(slots=True)
class _Seen:
    """Tokens a second of a way to run, a figure a turn."""

    decode: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)

    def measure(self, engine: Engine) -> None:
        """Run once."""
        first, _, _ = ask(engine, random_text(N_PROMPT), 1)
        self.prefill.append(N_PROMPT / first)
        _, rest, n = ask(engine, random_text(16), N_TOKENS)
        assert n == N_TOKENS, "the model ended by itself"
        self.decode.append((n - 1) / rest)


def measure_lend(folder: Path) -> list[Row]:
    """Write and read over each wire."""
    path = large(folder)
    return [row for wire in (LOOPBACK, TEN, ONE) for row in _over(wire, path)]


def _over(wire: Wire, path: Path) -> list[Row]:
    split, alone = _Seen(), _Seen()
    with lender_behind(wire, 1) as (name, device), Engine() as lent, Engine() as here:
        plan = _plan(path, Constraints(n_ctx=2048, n_gpu_layers=LENT_LAYERS, n_threads=1, devices=(device,)))
        lent.load(path, plan.settings)
        here.load(path, _plan(path, Constraints(n_ctx=2048, n_threads=1, devices=())).settings)
        for _ in range(TURNS):
            split.measure(lent)
            alone.measure(here)
    return _rows(f"0.6B half lent, {name}", split, alone, plan, _BARS[wire])


def _plan(path: Path, constraints: Constraints) -> Plan:
    return pipeline.plan(LocalRef(path.absolute()), constraints, offline=True).plan


def _rows(name: str, split: _Seen, alone: _Seen, plan: Plan, bars: tuple[float, float]) -> list[Row]:
    speed = plan.speed
    assert speed is not None
    rows = []
    for what, ours, theirs, said, bar in (
        ("decode", split.decode, alone.decode, speed.decode, bars[0]),
        ("prefill", split.prefill, alone.prefill, speed.prefill, bars[1]),
    ):
        rows.append(Row(f"{what}, {name}", "tok/s", tuple(ours), tuple(theirs), bar))
        rows.append(
            Row(f"{what} off the {said:.4g} predicted", "times", _off(said, ours), (1.0,) * TURNS, _OFF, at_least=False)
        )
    return rows


def _off(predicted: float, measured: Sequence[float]) -> tuple[float, ...]:
    """How far off, either way, as factors of at least 1."""
    return tuple(math.exp(abs(math.log(predicted / one))) for one in measured)
