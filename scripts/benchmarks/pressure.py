"""scripts/bench pressure: `llmrun run` in control groups of random limits answers or refuses, and is never killed.

Each case runs the real program, parent and worker, in a fresh group; the model's pages are dropped from the page cache
first, so that they are charged to this group and to no other. Judged:

- answered: exit code 0, and the kernel killed nothing;
- refused: exit code 3 before anything is loaded (the group's peak stays below what planning takes), with numbers that
  are right: what is free is the limit less the reserve less what planning itself takes, and what is needed is more;
- needless: refused, though it would have fitted with 10 % to spare after the reserve. The settings the refusal names
  are the smallest that the flags allow; they are run in a generous group, and the peak of that, which knows nothing of
  the planner's arithmetic, is held against 90 % of limit - reserve. A short answer touches less than a full context
  would, so the peak is a lower bound: this judges us too hard rather than too kindly.

Everything else fails: a kill, a hang, another exit code. Limits below PLANNING are not drawn: there Python itself and
the worker that plans have no room.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from llmrun.embedded import embedded_file
from llmrun.reference import GUIDE_QUANTS
from llmrun.units import format_bytes
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import write
from scripts.benchmarks.group import memory_group

MIB = 1 << 20
GENEROUS = 16 << 30
PLANNING = 96 * MIB  # what planning takes at most in both processes; measured 50 to 80
TIMEOUT = 120.0  # seconds
SPARE = 0.9
CONTEXTS = (None, 512, 4096, 16384, 32768)
KV_TYPES = (None, None, None, "q8_0", "q4_0", "f16")
QUANTS = ("Q4_K_M", "Q8_0", "F16")
SHAPES = ("qwen3-0.6b", "llama-3.2-1b")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": MIB, "GiB": 1 << 30}
_SIZE = r"([\d.,]+) ([KMG]?i?B)"
_REFUSAL = re.compile(
    rf"(\w+) needs {_SIZE} of RAM at ([\d,]+) tokens with a KV cache of (\w+), and {_SIZE} is free beside the reserve"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model as people name it, and its files."""

    name: str
    model: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One run: a model, flags, and the group's limit in bytes."""

    subject: Subject
    flags: tuple[str, ...]
    limit: int

    @property
    def reserve(self) -> int:
        """What is to be left free in a group: 5 % and at least 64 MiB, as the README says."""
        return max(64 * MIB, self.limit // 20)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refusal says: bytes needed and free, and the smallest settings it looked at."""

    quant: str
    needed: int
    free: int
    n_ctx: int
    kv_type: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; exit_code None: it hung. peak: the group's, bytes."""

    exit_code: int | None
    kills: int
    peak: int
    said: str
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """A case with what came of it; smallest: the peak of the settings a refusal names, where they were run."""

    case: Case
    outcome: Outcome
    verdict: str
    refusal: Refusal | None = None
    smallest: int | None = None
    failed: bool = field(default=False)

    def data(self) -> dict[str, object]:
        """The row for JSON."""
        return {
            "model": self.case.subject.name,
            "flags": self.case.flags,
            "limit": self.case.limit,
            "verdict": self.verdict,
            "failed": self.failed,
            "smallest": self.smallest,
            "refusal": asdict(self.refusal) if self.refusal else None,
            **asdict(self.outcome),
        }


def guide_subjects() -> list[Subject]:
    """Return the embedded model: each quantization, and the choice among them."""
    files = {quant: embedded_file(quant) for quant in GUIDE_QUANTS}
    each = [Subject(f"guide:{quant}", f"guide:{quant}", (file,)) for quant, file in files.items()]
    return [*each, Subject("guide", "guide", tuple(files.values()))]


def shape_subjects(folder: Path) -> list[Subject]:
    """Return models of published shapes, written once."""
    return [_written(folder, shape, quant) for shape in SHAPES for quant in QUANTS]


def _written(folder: Path, shape: str, quant: str) -> Subject:
    path = folder.absolute() / f"{shape}-{quant}.gguf"
    if not path.exists():
        write(path.with_suffix(".part"), MODELS[shape], quant).rename(path)
    return Subject(path.stem, str(path), (path,))


def draw_cases(subjects: Sequence[Subject], count: int, seed: int = 0) -> Iterator[Case]:
    """Draw models, flags and limits around what a plan without limit takes, some of them tiny and some generous."""
    rng = random.Random(seed)
    for _ in range(count):
        subject, n_ctx, kv_type = rng.choice(subjects), rng.choice(CONTEXTS), rng.choice(KV_TYPES)
        flags = (*(("-c", str(n_ctx)) if n_ctx else ()), *(("--kv-type", kv_type) if kv_type else ()))
        about = _needed(subject.model, flags) + PLANNING
        kind = rng.random()
        factor = 2 ** rng.uniform(-1, 1) if kind < 0.8 else rng.uniform(2, 4)
        size = rng.randint(PLANNING, 2 * PLANNING) if kind > 0.9 else max(PLANNING, int(about * factor))
        yield Case(subject, flags, min(size, GENEROUS) // 4096 * 4096)


@cache
def _needed(model: str, flags: tuple[str, ...]) -> int:
    command = [sys.executable, "-m", "llmrun.cli.main", "plan", model, "--json", "-t", "1", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT)
    return int(json.loads(done.stdout)["pools"][0]["used"]["total"])


def run_case(case: Case, *more: str) -> Outcome:
    """Run a case in a fresh group; raises NoGroupError."""
    for path in case.subject.files:
        _drop_pages(path)
    arguments = ["-m", "llmrun.cli.main", "run", case.subject.model, "Say something.", "-n", "8", "--json", "-t", "1"]
    with memory_group(case.limit) as group:
        command = group.command(sys.executable, *arguments, *case.flags, *more)
        code, said = _run(command)
        return Outcome(code, group.kills(), group.peak() or 0, said, said.count(": trying "))


def _run(command: list[str]) -> tuple[int | None, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stderr


def _drop_pages(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, file)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def parse_refusal(text: str) -> Refusal | None:
    """Return the numbers of a refusal, None where it has none."""
    found = _REFUSAL.search(" ".join(text.split()))
    if not found:
        return None
    quant, needed, needed_unit, n_ctx, kv_type, free, free_unit = found.groups()
    return Refusal(quant, _bytes(needed, needed_unit), _bytes(free, free_unit), int(n_ctx.replace(",", "")), kv_type)


def _bytes(number: str, unit: str) -> int:
    return int(float(number.replace(",", "")) * _UNITS[unit])


def judge(case: Case, run: Callable[..., Outcome] = run_case) -> Judged:
    """Run a case and say what came of it; a refusal's smallest settings are run as well."""
    outcome = run(case)
    if outcome.kills or outcome.exit_code is None or outcome.exit_code not in (0, 3):
        what = "killed" if outcome.kills else "hung" if outcome.exit_code is None else f"exit {outcome.exit_code}"
        return Judged(case, outcome, what, failed=True)
    if outcome.exit_code == 0:
        return Judged(case, outcome, "answered")
    refusal = parse_refusal(outcome.said)
    wrong = _wrong_refusal(case, outcome, refusal)
    if refusal is None or wrong:
        return Judged(case, outcome, wrong, refusal, failed=True)
    smallest = run(_smallest(case, refusal), "--reserve", "0")
    needless = smallest.exit_code == 0 and smallest.peak <= SPARE * (case.limit - case.reserve)
    return Judged(case, outcome, "needless" if needless else "refused", refusal, smallest.peak, needless)


def _wrong_refusal(case: Case, outcome: Outcome, refusal: Refusal | None) -> str:
    """Return what is wrong with a refusal, nothing if it is right."""
    if refusal is None:
        return "no numbers"
    if outcome.peak > PLANNING + 32 * MIB:
        return "after loading"
    expected = max(0, case.limit - case.reserve)
    if not max(0, expected - PLANNING) <= refusal.free <= expected * 1.01:  # told with two to four digits
        return "wrong free"
    return "wrong need" if refusal.needed < refusal.free else ""


def _smallest(case: Case, refusal: Refusal) -> Case:
    model = f"guide:{refusal.quant}" if case.subject.name.startswith("guide") else case.subject.model
    subject = Subject(case.subject.name, model, case.subject.files)
    return Case(subject, ("-c", str(refusal.n_ctx), "--kv-type", refusal.kv_type), GENEROUS)


def format_cases(rows: Iterable[Judged]) -> str:
    """The cases as a table, with a summary below."""
    rows = list(rows)
    head = f"{'model':<20} {'flags':<26} {'limit':>10} {'verdict':<13} {'need':>10} {'smallest':>10} {'peak':>10} kills"
    lines = [head, *map(_line, rows)]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(row.verdict for row in rows).most_common())
    steps = sum(row.outcome.steps for row in rows)
    kills = sum(row.outcome.kills for row in rows)
    failed = sum(row.failed for row in rows)
    return "\n".join([*lines, f"{len(rows)} cases: {counts}; {kills} kills, {steps} steps down, {failed} failed"])


def _line(row: Judged) -> str:
    told = format_bytes(row.refusal.needed) if row.refusal else ""
    smallest = format_bytes(row.smallest) if row.smallest is not None else ""
    return (
        f"{row.case.subject.name:<20} {' '.join(row.case.flags):<26} {format_bytes(row.case.limit):>10} "
        f"{row.verdict:<13} {told:>10} {smallest:>10} {format_bytes(row.outcome.peak):>10} {row.outcome.kills}"
    )


def show_pressure(folder: Path, count: int, seed: int = 0) -> list[Judged]:
    """Run so many cases, print their table as it grows, and return them."""
    subjects = [*guide_subjects(), *shape_subjects(folder)]
    rows = []
    for case in draw_cases(subjects, count, seed):
        rows.append(judge(case))
        print(_line(rows[-1]), flush=True)
    print(format_cases(rows).splitlines()[-1])
    return rows
