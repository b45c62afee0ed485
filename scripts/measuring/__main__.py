"""scripts/accuracy: how true the memory arithmetic is, against what others and the engine say."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.architectures.shapes import MODELS
from scripts.measuring.card import show_card
from scripts.measuring.engine import show_engine
from scripts.measuring.logs import LOGS, show_logs
from scripts.measuring.peers import show_peers
from scripts.measuring.system import show_system

# Each prints its report and returns whether it is as it should be.
SECTIONS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "engine": show_engine,
    "logs": show_logs,
    "peers": show_peers,
    "system": show_system,
    "card": show_card,
}
DEFAULT = ("engine", "logs")  # the last line is that of the logs


def main() -> None:
    """Run the named sections; exit with 1 where one is not as it should be."""
    parser = argparse.ArgumentParser(prog="scripts/accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--logs", type=Path, default=LOGS, metavar="FILE", help="load logs, one JSON object a line")
    parser.add_argument("--cases", type=int, default=40, metavar="N", help="engine: settings for each model")
    parser.add_argument("--models", nargs="*", choices=MODELS, metavar="NAME", help="engine: only these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="card: keep what was found")
    for tool in ("fit-params", "hf-mem"):
        name = tool.upper().replace("-", "_")
        there = Path(os.environ[name]) if name in os.environ else None
        parser.add_argument(f"--{tool}", type=Path, default=there, metavar="PATH", help=f"peers: also ${name}")
    options = parser.parse_args()
    named = options.sections or [name for name in DEFAULT if name in SECTIONS]
    passed = [SECTIONS[name](options) for name in named]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
