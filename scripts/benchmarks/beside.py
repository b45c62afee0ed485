"""llmrun as it is started by default, beside llama.cpp's own programs at their defaults, on files of many kinds.

Reading and writing stand beside llama-bench's, a whole answer beside llama-completion's. Turn by turn a program of the
peer's starts, measures and ends, while a worker of llmrun's waits; then the worker answers. The limit of writing is
what the memory gives: the bytes of a token over the bytes a second that were read in the same run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmrun import pipeline
from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.planning.plan import Plan
from llmrun.reference import LocalRef
from scripts.benchmarks.engine import ask, random_text
from scripts.benchmarks.limit import Memory, bytes_per_token
from scripts.benchmarks.peers import peer
from scripts.benchmarks.table import Row
from scripts.synthetic import LETTERS, LLAMA_1_2B, QWEN3_0_6B, Shape, write_model

SHAPES: dict[str, Shape] = {"0.6B": QWEN3_0_6B, "1.2B": LLAMA_1_2B}
MIXES = ("Q4_K_M", "Q8_0", "Q4_0", "IQ4_XS")
# what --models, --turns and --answer are where they are not given; they come as LLMRUN_BENCH_MODELS and so on
USUAL = ("0.6B-Q4_K_M", "1.2B-Q4_K_M", "guide")
N_READ, N_WRITTEN = 512, 64
# Seconds: the memory of a program that ended goes back to the host of a virtual machine for two of them, beside whoever
# computes next (free page reporting).
_SETTLED = 4
_TEMPLATE = "{{ messages[-1].content }}"  # nothing but the text, so that tokens can be counted
_TIMES = re.compile(r"(prompt eval|eval) time =\s*([\d.]+) ms /\s*(\d+)")
_QUESTION = "which quantization should i use"


@dataclass(slots=True)
class _Figures:
    read: list[float]
    written: list[float]
    answered: list[float]


def names() -> tuple[str, ...]:
    """All files that can be asked for."""
    return (*(f"{shape}-{mix}" for shape in SHAPES for mix in MIXES), "guide")


def measure_peers(folder: Path) -> list[Row]:
    """Decode, prefill and a whole answer, for each file that is named in the environment, else for the usual ones."""
    wanted = os.environ.get("LLMRUN_BENCH_MODELS", ",".join(USUAL)).split(",")
    turns = int(os.environ.get("LLMRUN_BENCH_TURNS", "5"))
    if unknown := [name for name in wanted if name not in names()]:
        raise SystemExit(f"error: no model {unknown[0]}\nhint: --models takes some of {','.join(names())}")
    return [row for name in wanted for row in _rows(name, _file(name, folder), turns)]


def _n_answer() -> int:
    return int(os.environ.get("LLMRUN_BENCH_ANSWER", "64"))


def _file(name: str, folder: Path) -> Path:
    if name == "guide":
        return embedded_file("Q8_0")
    shape, _, mix = name.partition("-")
    path = folder / f"bench-{name}.gguf"
    if not path.exists():
        write_model(path, SHAPES[shape], mix=mix, template=_TEMPLATE, writes=LETTERS)
    return path


def _rows(name: str, path: Path, turns: int) -> Iterator[Row]:
    ours, theirs = _Figures([], [], []), _Figures([], [], [])
    started = pipeline.start(LocalRef(path))
    with started.engine as engine:
        memory = Memory.of(started.plan.settings.n_threads)
        bandwidths = []
        for turn in range(turns + 1):
            bandwidths.append(memory.bandwidth(1))
            _their_turn(path, theirs)
            time.sleep(_SETTLED)
            _our_turn(engine, name, ours)
            if not turn:  # the first warms up
                ours, theirs = _Figures([], [], []), _Figures([], [], [])
    yield from _rows_of(name, path, started.plan, ours, theirs, max(bandwidths))


def _rows_of(name: str, path: Path, plan: Plan, ours: _Figures, theirs: _Figures, bandwidth: float) -> Iterator[Row]:
    n_past = N_WRITTEN // 2
    limit = bandwidth / bytes_per_token(path, n_past, plan.settings.type_k)
    bench, completion = shlex.join(_short(_bench(path))), shlex.join(_short(_completion(path)))
    yield Row(
        f"write {N_WRITTEN}, {name}", "tok/s", tuple(ours.written), tuple(theirs.written), 0.98, True, bench, limit
    )
    if ours.answered:
        yield Row(f"read {N_READ}, {name}", "tok/s", tuple(ours.read), tuple(theirs.read), 0.98, True, bench)
        answer = f"answer {N_READ} + {_n_answer()}, {name}"
        yield Row(answer, "s", tuple(ours.answered), tuple(theirs.answered), 1.0, False, completion)


def _short(command: list[str]) -> list[str]:
    """Return a command without the folders of this machine."""
    return [Path(part).name if "/" in part else part for part in command]


def _bench(path: Path) -> list[str]:
    wanted = ("-p", str(N_READ), "-n", str(N_WRITTEN), "-r", "1", "-o", "json")
    return [str(peer("llama-bench")), "-m", str(path), *wanted]


def _completion(path: Path) -> list[str]:
    text = "x" * N_READ  # as many tokens as letters; each is read, whatever it is
    wanted = ("-n", str(_n_answer()), "--temp", "0", "--ignore-eos", "-no-cnv", "--no-display-prompt", "-p", text)
    return [str(peer("llama-completion")), "-m", str(path), *wanted]


def _their_turn(path: Path, figures: _Figures) -> None:
    told = subprocess.run(_bench(path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    for test in json.loads(told.stdout):
        (figures.written if test["n_gen"] else figures.read).append(test["avg_ts"])
    if path.name.startswith("bench-"):
        # random weights write what is not always UTF-8
        answer = subprocess.run(_completion(path), capture_output=True, check=True, stdin=subprocess.DEVNULL)
        times = _TIMES.findall((answer.stdout + answer.stderr).decode(errors="replace"))
        figures.answered.append(sum(float(milliseconds) for _, milliseconds, _ in times) / 1000)


def _our_turn(engine: Engine, name: str, figures: _Figures) -> None:
    if name == "guide":  # reads its questions in a template, and ends its answers: only its writing can be compared
        _, rest, n = ask(engine, _QUESTION, N_WRITTEN)
        figures.written.append((n - 1) / rest)
        return
    _, rest, n = ask(engine, random_text(16), N_WRITTEN + 1)
    figures.written.append((n - 1) / rest)
    first, _, _ = ask(engine, random_text(N_READ), 1)
    figures.read.append(N_READ / first)
    first, rest, _ = ask(engine, random_text(N_READ), _n_answer())
    figures.answered.append(first + rest)
