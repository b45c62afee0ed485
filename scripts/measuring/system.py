"""The plan against the operating system: `scripts/accuracy system`.

Loads real files, has the whole context read, and holds the resident memory of the worker against the plan: what is its
own, and what is pages of files. Linux only: nowhere else does the system tell the two apart so exactly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate
from llmrun.gguf.source import read_model_header
from llmrun.hardware.resident import Resident, read_resident
from llmrun.hardware.threads import count_threads
from llmrun.memory.footprint import MemoryBreakdown
from llmrun.message import Message
from llmrun.pipeline import open_footprints
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import write

SLACK = 16 << 20  # bytes the plan may be off, either way
SYNTHETIC = ("qwen3-0.6b", "llama-3.2-1b")
N_CTX = 4096  # of the synthetic ones
_ANSWER = 4  # tokens
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a model took with its context full, and what each plan for the host said; arithmetic None: it knows none."""

    found: Resident
    n_tokens: int
    exact: MemoryBreakdown
    arithmetic: MemoryBreakdown | None

    @property
    def holds(self) -> bool:
        """Whether both plans were right."""
        return all(plan_holds(self.found, plan) for plan in (self.exact, self.arithmetic) if plan is not None)


def plan_holds(found: Resident, plan: MemoryBreakdown) -> bool:
    """Tell whether no more was taken than planned, and no less but for compute, which comes as it is touched."""
    anonymous = plan.anonymous - plan.compute - SLACK <= found.anonymous <= plan.anonymous + SLACK
    return anonymous and abs(found.mapped - plan.mapped) <= SLACK


def load_modes(settings: RunSettings) -> list[RunSettings]:
    """Return the settings with the file mapped and not, and with weights repacked and not."""
    return [
        replace(settings, load_mode=load_mode, repack=repack)
        for load_mode in ("mmap", "none")
        for repack in (False, True)
    ]


def compare(path: Path, settings: RunSettings) -> Comparison:
    """Plan for a file, load it, fill its context, and look."""
    with open_footprints(read_model_header(path), settings.devices) as footprints:
        exact, arithmetic = footprints.exact(settings), footprints.arithmetic(settings)
    assert exact is not None, "the engine could not be asked"
    with Engine() as engine:
        engine.load(path, settings)
        n_tokens = fill_context(engine)
        found = read_resident(engine.pid)
    assert found is not None
    return Comparison(found, n_tokens, exact.host, None if arithmetic is None else arithmetic.host)


def fill_context(engine: Engine) -> int:
    """Have a prompt read and an answer begun that together fill the context; return the tokens of the prompt."""
    assert engine.info is not None
    few, many = (_read(engine, n_words, 1) for n_words in (10, 20))
    each = (many - few) // 10
    return _read(engine, 20 + (engine.info.n_ctx - _ANSWER - many) // each, _ANSWER)


def _read(engine: Engine, n_words: int, max_tokens: int) -> int:
    """Ask a question of so many times the same word, which is as many times the same tokens."""
    question = Message("user", " ".join(["a"] * n_words))
    events = list(engine.answer(Generate((question,), Sampling(temperature=0), max_tokens)))
    last = next(event for event in reversed(events) if isinstance(event, Chunk))
    assert last.usage is not None
    return last.usage.prompt_tokens


def show_system(_options: argparse.Namespace) -> bool:
    """Print the table, and return whether every plan was right."""
    if sys.platform != "linux":
        print("system: not judged, only Linux tells resident memory of a process apart (smaps_rollup)")
        return False
    print(
        "the plan against the operating system: MiB resident once the whole context is read, and how far from the plan"
    )
    print(f"by the engine's answer and by arithmetic; anonymous memory may lack compute, else {SLACK >> 20} MiB")
    print(_HEAD)
    n_threads = count_threads()
    settings = RunSettings(n_threads=n_threads, n_threads_batch=n_threads, devices=())
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for path, n_ctx in _files(Path(folder)):
            for chosen in load_modes(replace(settings, n_ctx=n_ctx)):
                results.append(compare(path, chosen))
                print(_line(path.stem, chosen, results[-1]), flush=True)
    n_right = sum(result.holds for result in results)
    print(f"the plan holds in {n_right} of {len(results)}")
    return n_right == len(results)


def _files(folder: Path) -> Iterator[tuple[Path, int | None]]:
    """Yield files with the context to load them with; those written are deleted when the next is asked for."""
    for quant in ("Q4_K_M", "Q8_0", "F16"):
        yield embedded_file(quant), None
    for name in SYNTHETIC:
        path = write(folder / f"{name}-Q4_K_M.gguf", MODELS[name], "Q4_K_M")
        yield path, N_CTX
        path.unlink()


_HEAD = (
    f"{'model':<20} {'settings':<12}{'tokens':>7}{'anonymous':>11}{'engine':>8}{'arithm.':>8}{'compute':>8}"
    f"{'mapped':>9}{'engine':>8}{'arithm.':>8}"
)


def _line(name: str, settings: RunSettings, result: Comparison) -> str:
    found, plans = result.found, (result.exact, result.arithmetic)
    anonymous = "".join(_off(found.anonymous, None if plan is None else plan.anonymous) for plan in plans)
    mapped = "".join(_off(found.mapped, None if plan is None else plan.mapped) for plan in plans)
    how = f"{settings.load_mode} {'repack' if settings.repack else ''}"
    return (
        f"{name[:20]:<20} {how:<12}{result.n_tokens:>7}{found.anonymous / _MIB:>11.1f}{anonymous}"
        f"{result.exact.compute / _MIB:>8.1f}{found.mapped / _MIB:>9.1f}{mapped}  {'' if result.holds else 'OFF'}"
    )


def _off(found: int, planned: int | None) -> str:
    return f"{'-':>8}" if planned is None else f"{(found - planned) / _MIB:>+8.1f}"
