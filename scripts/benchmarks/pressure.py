"""Never out of memory: `llmrun run` in control groups of random limits, which answers, or refuses before it loads.

A case is a model, what the command line fixes, and a limit around what it would need. What may not be: a process killed
by the kernel, one that hangs, any other end. And a refusal has to be right: the same model is run again without a
limit, with the least that the flags allow, and what that really takes at its peak must be more than 90 % of what the
refusal had beside the reserve. That peak is the group's own figure, the pages of the model's file in it: they are
dropped from the page cache before each run, so that each is charged for them. Pages of libraries cannot be dropped
while others use them, and are charged to whoever read them first: a container of its own pays for them, so they are
added. What the refusal says is free must be what is left of the limit, and it must have come before the weights.
"""

from __future__ import annotations

import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.embedded import embedded_file
from llmrun.planning.pools import host_reserve
from llmrun.units import format_bytes
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import write
from scripts.benchmarks.groups import Ended, NoGroupError, limited_group
from scripts.benchmarks.table import Row

N_CASES = 200
_MIB = 1 << 20
_SECONDS = 120.0  # after which a run is taken to hang
_GENEROUS = 6 << 30  # bytes, for what is run without a limit
_BASE = 150 * _MIB  # about what the program takes without a model; only to draw limits around the need
# What planning takes of a group in both processes, at most; measured 50 to 72 MiB, and up to 45 of libraries where
# the group is the first to read them.
_PLANNING = 144 * _MIB
# Resident pages of libraries, as memory.overhead has them. With a copy of the engine that nothing else used, the peaks
# of guide were 45 MiB higher than beside others (129 against 84, 124 against 79), pages read ahead among them.
_LIBRARIES = 24 * _MIB
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": _MIB, "GiB": 1 << 30}
_SPARE = 0.9  # of what was free beside the reserve: what would have fitted into that may not be refused
_SHAPES = ("qwen3-0.6b", "llama-3.2-1b")
_QUANTS = ("Q4_K_M", "Q8_0")


@dataclass(frozen=True, slots=True)
class Case:
    """What is run, and the group's limit, bytes. kv: bytes that a token of context takes, about."""

    name: str
    path: Path
    n_ctx: int | None
    kv_type: str | None
    limit: int

    @property
    def flags(self) -> tuple[str, ...]:
        """What the command line says of how it runs."""
        ctx = () if self.n_ctx is None else ("--ctx", str(self.n_ctx))
        return (*ctx, *(() if self.kv_type is None else ("--kv-type", self.kv_type)))


@dataclass(frozen=True, slots=True)
class Judged:
    """A case, its run, and what to say of it; verdict begins with FAILED for what may not be."""

    case: Case
    ended: Ended
    verdict: str


def measure_pressure(folder: Path) -> list[Row]:
    """Run LLMRUN_BENCH_CASES cases, print each, and return a row for each bar."""
    n_cases = int(os.environ.get("LLMRUN_BENCH_CASES", N_CASES))
    first = int(os.environ.get("LLMRUN_BENCH_FIRST", "0"))
    judged = []
    print(f"{'case':>4} {'model':<20}{'flags':<30}{'limit':>11}{'peak':>11}  verdict")
    for number in range(first, first + n_cases):
        found = judge(draw(number, models(folder)))
        judged.append(found)
        print(f"{number:>4} {line(found)}", flush=True)
    counts = Counter(found.verdict.split(":")[0].split(" ")[0] for found in judged)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    kills = sum(found.ended.kills for found in judged)
    hangs = sum(found.ended.code is None for found in judged)
    bars = (("killed", kills), ("hung", hangs), ("otherwise wrong", counts["FAILED"]))
    return [
        Row(f"pressure, {what}, of {n_cases}", "cases", (float(count),), (1.0,), 0.0, at_least=False)
        for what, count in bars
    ]


def models(folder: Path) -> tuple[tuple[str, Path], ...]:
    """Return the models to draw from; those that are made are made once."""
    guide = [(f"guide {quant}", embedded_file(quant)) for quant in ("Q4_K_M", "Q8_0", "F16")]
    made = [(f"{shape} {quant}", folder / f"{shape}-{quant}.gguf") for shape in _SHAPES for quant in _QUANTS]
    for (_, path), (shape, quant) in zip(made, ((s, q) for s in _SHAPES for q in _QUANTS), strict=True):
        if not path.exists():
            write(path, MODELS[shape], quant)
    return (*guide, *made)


def draw(number: int, known: tuple[tuple[str, Path], ...]) -> Case:
    """Return a case, the same for a number at any time."""
    rng = random.Random(number)
    name, path = rng.choice(known)
    n_ctx = rng.choice((None, None, 512, 4096, 16384, 32768))
    kv_type = rng.choice((None, None, "f16", "q8_0"))
    size = path.stat().st_size
    each = {"guide": 5 << 10, "qwen3-0.6b": 112 << 10, "llama-3.2-1b": 32 << 10}[name.split()[0]]
    need = _BASE + size + (n_ctx or 2048) * each
    return Case(name, path, n_ctx, kv_type, int(need * 2 ** rng.uniform(-1, 1)))


def judge(case: Case, run_case: Callable[[Case], Ended] | None = None) -> Judged:
    """Run a case, and say what came of it; run_case: what runs it, in place of the program in a group."""
    run_case = run_case or run
    ended = run_case(case)
    if ended.kills or ended.code is None:
        return Judged(case, ended, f"FAILED: {'killed' if ended.kills else 'hung'}: {last_line(ended.err)}")
    if ended.code == 0 and ended.out.strip():
        steps = sum("trying" in told for told in ended.err.splitlines())
        return Judged(case, ended, "answered" + (f" after {steps} steps down" if steps else ""))
    if ended.code == 3 and not ended.out:
        return Judged(case, ended, refusal(case, ended, run_case))
    return Judged(case, ended, f"FAILED: ended with {ended.code}: {last_line(ended.err)}")


def refusal(case: Case, ended: Ended, run_case: Callable[[Case], Ended]) -> str:
    """Judge a refusal: do its numbers say that it does not fit, and is it so?"""
    size = r"([0-9.,]+) ([KMG]?i?B)"
    told = re.search(rf"needs {size} of RAM .* {size} is free", ended.err)
    if told is None:
        return f"FAILED: refused without numbers: {last_line(ended.err)}"
    # little but the program runs in the group, and the machine around it has plenty
    room = case.limit - host_reserve(case.limit, case.limit, outside=case.limit + _GENEROUS)
    needed, free = (int(float(told[n].replace(",", "")) * _UNITS[told[n + 1]]) for n in (1, 3))
    rounding = [_UNITS[told[n + 1]] // 20 for n in (1, 3)]  # told with one decimal
    if not room - _PLANNING - rounding[1] <= free <= max(0, room) + rounding[1] or needed + rounding[0] < free:
        return f"FAILED: wrong numbers: {last_line(ended.err)}"
    if ended.peak > _PLANNING:
        return f"FAILED: refused after it took {format_bytes(ended.peak)}"
    return _least(case, room, f"refused: needs {told[1]} {told[2]}, free {told[3]} {told[4]}", run_case)


def _least(case: Case, room: int, verdict: str, run_case: Callable[[Case], Ended]) -> str:
    """Judge a refusal by what the least that the flags allow really takes where there is room."""
    least = run_case(replace(case, limit=_GENEROUS, n_ctx=case.n_ctx or 512, kv_type=case.kv_type or "q4_0"))
    if least.code != 0:
        return f"FAILED: without a limit it ended with {least.code}: {last_line(least.err)}"
    taken = least.peak + _LIBRARIES
    if taken <= _SPARE * room:
        return f"FAILED: refused, and takes {format_bytes(taken)} of {format_bytes(room)}"
    return f"{verdict}; really {format_bytes(taken)}"


def run(case: Case) -> Ended:
    """Run the program in a group with the case's limit, on an empty page cache as far as the model is concerned."""
    drop(case.path)
    command = [sys.executable, "-P", "-m", "llmrun.cli.main", "run", str(case.path), "what is a KV cache?"]
    options = ["-n", "8", "-t", "1", "--temp", "0", "--device", "none", *case.flags]
    with tempfile.TemporaryDirectory() as home, limited_group("pressure", case.limit) as group:
        return group.run([*command, *options], environment(home), _SECONDS)


def environment(home: str) -> Mapping[str, str]:
    """Return a new user's environment: nothing is remembered from one case to the next."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMRUN_", "XDG_"))}
    return kept | {"HOME": home, "COLUMNS": "80", "OMP_WAIT_POLICY": "passive", "NO_COLOR": "1"}


def drop(path: Path) -> None:
    """Have the system forget the pages of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def last_line(text: str) -> str:
    """Return the error of what a program said, else its last line."""
    lines = text.strip().splitlines()
    return next((told for told in lines if told.startswith("error:")), lines[-1] if lines else "it said nothing")


def line(found: Judged) -> str:
    """Return a case as a row."""
    case, ended = found.case, found.ended
    sizes = f"{format_bytes(case.limit):>11}{format_bytes(ended.peak):>11}"
    return f"{case.name:<20}{' '.join(case.flags):<30}{sizes}  {found.verdict}"


def can_be_run() -> Iterator[str]:
    """Yield why not, where no group can be made."""
    try:
        with limited_group("try", _GENEROUS):
            pass
    except NoGroupError as error:
        yield str(error)
