"""scripts/bench: figures of llmrun as ratios, each pair measured in turns within one run.

Nothing else should run meanwhile: llama.cpp's waiting threads collapse where cores are busy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.benchmarks.dry_run import measure_dry_run
from scripts.benchmarks.engine import measure_cancel, measure_decode, measure_guide, measure_prefill
from scripts.benchmarks.header import measure_header
from scripts.benchmarks.pressure import show_pressure
from scripts.benchmarks.speed import measure_speed
from scripts.benchmarks.startup import measure_first_token, measure_help
from scripts.benchmarks.table import Row, format_table

BENCHES: dict[str, Callable[[Path], list[Row]]] = {
    "help": measure_help,
    "first-token": measure_first_token,
    "guide": measure_guide,
    "decode": measure_decode,
    "prefill": measure_prefill,
    "cancel": measure_cancel,
    "header": measure_header,
    "dry-run": measure_dry_run,
    "speed": measure_speed,
}


def main() -> None:
    """Run the named benches, or all, and print one table."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*BENCHES, "pressure", []], help="default: all but pressure")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where synthetic models are kept")
    default = int(os.environ.get("LLMRUN_BENCH_CASES", "200"))
    parser.add_argument("--cases", type=int, default=default, help="of pressure (default: LLMRUN_BENCH_CASES, or 200)")
    parser.add_argument("--seed", type=int, default=0, help="of pressure's cases")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.names == ["pressure"]:
        sys.exit(_run_pressure(options))
    if "pressure" in options.names:
        parser.error("pressure is run by itself")
    print(f"load before: {os.getloadavg()[0]:.2f}", flush=True)
    rows = [row for name in options.names or BENCHES for row in BENCHES[name](options.folder)]
    print(format_table(rows))
    if options.json:
        options.json.write_text(json.dumps([row.data() for row in rows], indent=1) + "\n")


def _run_pressure(options: argparse.Namespace) -> int:
    """Run programs under pressure; their verdicts are no ratios, and have a table of their own."""
    rows = show_pressure(options.folder, options.cases, options.seed)
    if options.json:
        options.json.write_text(json.dumps([row.data() for row in rows], indent=1) + "\n")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    main()
