"""Where the program begins: first the worker of a command that will need one, then all the rest."""

from __future__ import annotations

from llmrun.cli.first import begin_worker


def main() -> None:
    """Run the command line and leave with its exit code."""
    begin_worker()
    from llmrun.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
