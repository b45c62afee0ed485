"""scripts/bench threads: writing beside nobody, one and two busy processes, against llama-bench at its defaults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmrun import pipeline
from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.reference import LocalRef
from llmrun.settings import Constraints
from scripts.benchmarks.engine import ask, large, random_text
from scripts.benchmarks.peers import peer
from scripts.benchmarks.table import Row

TURNS = 5
_TOKENS = 96
_THEIR_TOKENS = 24  # a second or two where it is alone, and a minute where its threads wait for each other
_BARS = {0: 0.98, 1: 2.0, 2: 2.0}
# ends with whoever started it, however that ended
_BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(100_000): pass"


def measure_threads(folder: Path) -> list[Row]:
    """Writing with a 0.6B shape and with guide, as llmrun and llama-bench do when nobody tells them a number."""
    rows = []
    for name, path in (("0.6B Q4_K_M", large(folder)), ("guide Q8_0", embedded_file("Q8_0"))):
        rows += [_beside(name, path, n_busy) for n_busy in _BARS]
    return rows


def _beside(name: str, path: Path, n_busy: int) -> Row:
    ours, theirs = [], []
    with pipeline.start(LocalRef(path), Constraints(n_ctx=2048)).engine as engine:
        for _ in range(TURNS):
            with _busy(n_busy):
                ours.append(_written(engine))
                theirs.append(_llama_bench(path, _THEIR_TOKENS if n_busy else _TOKENS))
    return Row(f"decode beside {n_busy}, {name}", "tok/s", tuple(ours), tuple(theirs), _BARS[n_busy])


def _written(engine: Engine) -> float:
    """Tokens a second of one answer, all of it after the first token: also those in which it finds its threads."""
    seconds, n = 0.0, 0
    while n < _TOKENS:
        _, rest, n_answer = ask(engine, random_text(16), _TOKENS)
        seconds, n = seconds + rest, n + n_answer - 1
        if n_answer < 2:
            break
    return n / seconds


def _llama_bench(path: Path, n_tokens: int) -> float:
    command: list[str | Path] = [
        peer("llama-bench"),
        "-m",
        path,
        "-p",
        "0",
        "-n",
        str(n_tokens),
        "-r",
        "1",
        "-o",
        "json",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(found.stdout)[0]["avg_ts"])


@contextmanager
def _busy(n: int) -> Iterator[None]:
    """So many processes that compute all the time, each in a session of its own, as in terminals of their own."""
    running = [subprocess.Popen([sys.executable, "-c", _BUSY], start_new_session=True) for _ in range(n)]
    try:
        yield
    finally:
        for process in running:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
