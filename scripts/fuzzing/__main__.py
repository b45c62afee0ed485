"""scripts/fuzz: mutated headers through the parser, and what came of them."""

from __future__ import annotations

import argparse
import time

from scripts.fuzzing.headers import fuzz


def main() -> None:
    """Run, and print the totals; a broken law is a traceback with the case's number."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("cases", nargs="?", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    totals = fuzz(options.cases, options.seed)
    print(f"cases: {options.cases:,} of seed {options.seed} in {time.perf_counter() - start:.0f} s")
    for name, meaning in (("header", "headers"), ("more", "asked for more"), ("error", "errors")):
        print(f"{meaning}: {totals.outcomes[name]:,}")
    print(f"worst allocation: {totals.worst:.1f} bytes per byte of input (case {totals.worst_case:,})")


if __name__ == "__main__":
    main()
