"""Two views of one file: prompts read with plain weights, answers written with repacked ones, against either alone.

The model is loaded twice from the same pages, with a KV cache each; after the prompt the sequence is handed over. What
it can bring depends on the processor: where repacked weights read as fast as plain ones, nothing.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from llmrun.hardware.threads import usual_threads
from llmrun.settings import RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.llama import Context, load_model, start_backend
from llmrun.worker.log import engine_log
from scripts.benchmarks.table import Row
from scripts.synthetic import LETTERS, LLAMA_1_2B, write_model

TURNS = 3
N_READ = 512
ANSWERS = (256, 512)
_BAR = 1.10  # of time to answer at 512 + 256, or of decode at 512 + 512: else one view is kept


@dataclass(frozen=True, slots=True)
class _Answer:
    """Seconds of an answer's parts, and the logits after the first token that was written."""

    read: float
    handed: float
    written: float
    logits: np.ndarray[tuple[int], np.dtype[np.float32]]

    @property
    def all(self) -> float:
        return self.read + self.handed + self.written


def measure_views(folder: Path) -> list[Row]:
    """A 1.2B shape in Q4_K_M: whole answers against the better single view, and writing against plain weights."""
    path = folder / "bench-1.2B-Q4_K_M.gguf"
    if not path.exists():
        write_model(path, LLAMA_1_2B, mix="Q4_K_M", template="{{ messages[-1].content }}", writes=LETTERS)
    usual = usual_threads()
    settings = RunSettings(n_ctx=2048, n_threads=usual.decode, n_threads_batch=usual.batch, flash_attn=True)
    start_backend()
    with engine_log().recording(quiet=True):
        plain, repacked = (_context(path, replace(settings, repack=repack)) for repack in (False, True))
    rows = []
    for n_written in ANSWERS:
        rows += _rows(plain, repacked, n_written)
    return rows


def _context(path: Path, settings: RunSettings) -> Context:
    return Context(load_model(path, settings), settings, CancelFlag())


def _rows(plain: Context, repacked: Context, n_written: int) -> list[Row]:
    views = {"plain": (plain, plain), "repacked": (repacked, repacked), "two": (plain, repacked)}
    found: dict[str, list[_Answer]] = {name: [] for name in views}
    for turn in range(TURNS):
        for name in sorted(views, reverse=bool(turn % 2)):
            found[name].append(_answer(*views[name], n_written))
    _print(found, n_written)
    single = min(("plain", "repacked"), key=lambda name: median(one.all for one in found[name]))
    title = f"{N_READ} + {n_written}, 1.2B Q4_K_M"
    rate = {name: tuple((n_written - 1) / one.written for one in answers) for name, answers in found.items()}
    # so that the ratio says how many times sooner the answer is there
    speed = {name: tuple(1 / one.all for one in answers) for name, answers in found.items()}
    return [
        Row(f"two views beside {single}, {title}", "1/s", speed["two"], speed[single], _BAR),
        Row(f"two views' decode beside plain, {title}", "tok/s", rate["two"], rate["plain"], _BAR),
    ]


def _answer(reads: Context, writes: Context, n_written: int) -> _Answer:
    prompt = [LETTERS.start + (i * 7919) % len(LETTERS) for i in range(N_READ)]
    for context in {reads, writes}:
        context.clear()
    start = time.perf_counter()
    for position in range(0, N_READ, reads.n_step):
        reads.decode(prompt[position : position + reads.n_step], position, want_logits=True)
    reads.wait()
    token = int(reads.logits(-1).argmax())
    read = time.perf_counter()
    if reads is not writes:
        state = (ctypes.c_uint8 * reads.state_size())()
        assert reads.get_state(state)
        assert writes.set_state(state)
    handed = time.perf_counter()
    logits = np.zeros(0, np.float32)
    for position in range(N_READ, N_READ + n_written - 1):
        writes.decode([token], position, want_logits=True)
        writes.wait()
        if not logits.size:
            logits = writes.logits(-1).copy()
        token = int(writes.logits(-1).argmax())
    return _Answer(read - start, handed - read, time.perf_counter() - handed, logits)


def _print(found: dict[str, list[_Answer]], n_written: int) -> None:
    for name, answers in found.items():
        read, handed, written = (
            median(getattr(one, part) for one in answers) for part in ("read", "handed", "written")
        )
        print(
            f"{N_READ} + {n_written}, {name}: read {N_READ / read:.0f} tok/s, handed over in {handed * 1000:.0f} ms, "
            f"written {(n_written - 1) / written:.1f} tok/s, in all {read + handed + written:.2f} s",
            flush=True,
        )
    plain, repacked, two = (found[name][0].logits for name in ("plain", "repacked", "two"))
    print(
        f"logits after the first token: two views {abs(two - plain).max():.3f} from plain, "
        f"repacked {abs(repacked - plain).max():.3f} from plain",
        flush=True,
    )
