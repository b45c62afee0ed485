"""The server held under load and faults for two minutes: see serving.soak for what must hold."""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.benchmarks.serving.servers import running
from scripts.benchmarks.serving.soak import Load, soak
from scripts.benchmarks.table import Row

_LOAD = Load(n_clients=64, seconds=120, kill_every=10)


def measure_soak(folder: Path) -> list[Row]:
    """64 clients, good and bad, on the embedded model, whose engine is killed every ten seconds."""
    del folder
    command = (sys.executable, "-m", "llmrun.cli.main", "serve", "guide", "--parallel", "8", "--ctx", "1024")
    with running("llmrun", command) as server:
        seen = soak(server.url, server.process.pid, _LOAD)
    for outcome, count in sorted(seen.outcomes.items()):
        print(f"  {count:>6} {outcome}")
    for wrong in seen.wrong:
        print(f"  WRONG: {wrong}")
    slowest = max(seen.recoveries, default=float("inf"))
    return [
        Row("soak: answers that were wrong, of all", "", (float(len(seen.wrong)),), (1.0,), 0.0, at_least=False),
        Row("soak: the longest wait for an answer after a death", "s", (slowest,), (1.0,), 3.0, at_least=False),
        Row("soak: memory at the end, against before", "", (1 + seen.growth,), (1.0,), 1.1, at_least=False),
    ]
