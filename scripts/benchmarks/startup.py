"""What it costs to start: `--help`, and the way to the first token."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from scripts.benchmarks.table import Row

TURNS = 15
_EMPTY_APP = """
import typer
app = typer.Typer(name="empty", no_args_is_help=True, pretty_exceptions_enable=False)
@app.callback()
def root() -> None: pass
@app.command()
def chat() -> None: "Talk."
@app.command()
def run() -> None: "Answer."
app()
"""


def measure_help(folder: Path) -> list[Row]:
    """`llmrun --help` against an empty typer app with the same commands."""
    empty = folder / "empty.py"
    empty.write_text(_EMPTY_APP)
    ours, theirs = [], []
    for _ in range(TURNS):
        ours.append(_seconds([sys.executable, "-m", "llmrun.cli.main", "--help"]))
        theirs.append(_seconds([sys.executable, str(empty), "--help"]))
    return [Row("llmrun --help, against an empty typer app", "s", tuple(ours), tuple(theirs), 1.2, at_least=False)]


def measure_first_token(folder: Path) -> list[Row]:
    """From the start of `llmrun run` to its first byte, against 1.5 seconds."""
    del folder
    command = [sys.executable, "-m", "llmrun.cli.main", "run", "guide", "what is a kv cache"]
    ours = []
    for _ in range(TURNS):
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            assert process.stdout
            process.stdout.read(1)
            ours.append(time.perf_counter() - start)
    return [Row("first token of guide, against 1.5 s", "s", tuple(ours), (1.5,) * TURNS, 1.0, at_least=False)]


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start
