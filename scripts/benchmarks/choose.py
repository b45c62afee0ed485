"""How long choosing takes: four models of twenty quantizations on seven machines, with all that is asked on the way.

By arithmetic, of which nothing is remembered from the choice before. The bar is 50 ms of a processor for each.
"""

from __future__ import annotations

import time
from pathlib import Path

from llmrun.memory.graph.plan import buffer_sizes
from llmrun.planning.choose import Ground, choose
from llmrun.planning.policy import POLICIES, PREFERENCES, Prefer
from llmrun.settings import Constraints
from scripts.benchmarks.table import Row
from scripts.golden.plan_cases import CARD_8, CARD_12, CARD_24, LAPTOP_16, LAPTOP_32, MAC_32, PAIR, Machine
from scripts.golden.plans import offers_on, room_on

MODELS = ("llama-3.1-8b", "qwen3-32b", "llama-3.1-70b", "qwen3-30b-a3b")
MACHINES = (LAPTOP_16, LAPTOP_32, CARD_8, CARD_12, CARD_24, PAIR, MAC_32)
_BAR = 50.0


def measure_choose(folder: Path) -> list[Row]:
    """Return the slowest choice of each preference, in milliseconds against the bar; print all that are over it."""
    del folder
    rows = []
    for prefer in PREFERENCES:
        times = {
            f"{model}, {machine.words}": _milliseconds(model, machine, prefer)
            for model in MODELS
            for machine in MACHINES
        }
        for name, took in times.items():
            if took > _BAR:
                print(f"{prefer:<9} {took:>6.0f} ms  {name}")
        for what, size in (("median", sorted(times.values())[len(times) // 2]), ("slowest", max(times.values()))):
            rows.append(Row(f"choose, {prefer}, {what} of {len(times)}", "ms", (size,), (_BAR,), 1.0, at_least=False))
    return rows


def _milliseconds(model: str, machine: Machine, prefer: Prefer) -> float:
    names = tuple(device.id for device in machine.devices)
    ground = Ground(names, room_on(machine), Constraints())
    offers = offers_on(model, machine)
    buffer_sizes.cache_clear()
    start = time.process_time()
    choose(offers, ground, POLICIES[prefer])
    return (time.process_time() - start) * 1e3
