"""Where the program begins: first the worker of a command that will need one, then all the rest."""

from __future__ import annotations

import sys

from llmrun.cli.first import INTERRUPTED, begin_worker


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        begin_worker()
        from llmrun.cli.main import main as run

        run()
    except KeyboardInterrupt:  # while all of it is imported
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
