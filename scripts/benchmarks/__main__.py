"""scripts/bench: figures of llmrun as ratios, each pair measured in turns within one run.

Nothing else should run meanwhile: llama.cpp's waiting threads collapse where cores are busy.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

from scripts.benchmarks.again import measure_again
from scripts.benchmarks.beside import measure_peers
from scripts.benchmarks.choose import measure_choose
from scripts.benchmarks.draft import measure_draft
from scripts.benchmarks.dry_run import measure_dry_run
from scripts.benchmarks.engine import measure_cancel, measure_decode, measure_guide, measure_prefill
from scripts.benchmarks.fetch import measure_fetch
from scripts.benchmarks.header import measure_header
from scripts.benchmarks.lend import measure_lend
from scripts.benchmarks.pressure import measure_pressure
from scripts.benchmarks.render import measure_render
from scripts.benchmarks.resume import measure_resume
from scripts.benchmarks.serve import measure_serve
from scripts.benchmarks.soak import measure_soak
from scripts.benchmarks.speed import measure_speed
from scripts.benchmarks.start import measure_start
from scripts.benchmarks.startup import measure_first_token, measure_help
from scripts.benchmarks.table import Row, format_table
from scripts.benchmarks.threads import measure_threads
from scripts.benchmarks.views import measure_views

BENCHES: dict[str, Callable[[Path], list[Row]]] = {
    "help": measure_help,
    "first-token": measure_first_token,
    "start": measure_start,
    "again": measure_again,
    "guide": measure_guide,
    "decode": measure_decode,
    "prefill": measure_prefill,
    "views": measure_views,
    "draft": measure_draft,
    "threads": measure_threads,
    "cancel": measure_cancel,
    "peers": measure_peers,
    "header": measure_header,
    "dry-run": measure_dry_run,
    "speed": measure_speed,
    "pressure": measure_pressure,
    "choose": measure_choose,
    "fetch": measure_fetch,
    "render": measure_render,
    "resume": measure_resume,
    "serve": measure_serve,
    "soak": measure_soak,
    "lend": measure_lend,
}


def main() -> None:
    """Run the named benches, or all, and print one table."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="default: all")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where synthetic models are kept")
    parser.add_argument("--models", help="of peers, separated by commas, such as 1.2B-Q4_0,guide")
    parser.add_argument("--turns", type=int, help="of peers")
    parser.add_argument("--answer", type=int, help="of peers: tokens of a whole answer, 64 unless told")
    options = parser.parse_args()
    chosen = {
        "LLMRUN_BENCH_MODELS": options.models,
        "LLMRUN_BENCH_TURNS": options.turns,
        "LLMRUN_BENCH_ANSWER": options.answer,
    }
    os.environ.update({name: str(value) for name, value in chosen.items() if value is not None})
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"load before: {os.getloadavg()[0]:.2f}", flush=True)
    rows = [row for name in options.names or BENCHES for row in BENCHES[name](options.folder)]
    print(format_table(rows))
    if options.json:
        options.json.write_text(json.dumps([row.data() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
