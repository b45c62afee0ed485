"""Ways to run one model, timed in turns on the model itself: what disturbs the machine disturbs them all alike.

Weights that several ways have in common are loaded once. Must not know what is chosen from the times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from llmrun.errors import EngineError, LLMRunError
from llmrun.planning.timing import Compare, Timing, Way
from llmrun.settings import Lora, RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.llama import Context, Model, load_model
from llmrun.worker.log import engine_log

_MOST_TURNS = 12  # of each way: more tell little more about a choice that must win by 3 %
_CANCELLED = 2  # llama_decode's status
_TOKENS = 251  # different ones in a prompt: every vocabulary has as many


class _CancelledError(Exception):
    """The parent lost interest."""


def compare(
    path: Path, question: Compare, cancel: CancelFlag, on_progress: Callable[[float], None] = lambda _: None
) -> tuple[Timing, ...] | None:
    """Return a timing for each way, None where that was cancelled; on_progress gets 0 to 1.

    Raises GGUFError, InsufficientMemoryError or EngineError where a way cannot be loaded.
    """
    try:
        return _Comparison(path, question, cancel, on_progress).run()
    except _CancelledError:
        return None


@dataclass(slots=True)
class _Lane:
    """A way, and what its turns took."""

    way: Way
    read: list[float] = field(default_factory=list)
    write: list[float] = field(default_factory=list)


class _Comparison:
    def __init__(self, path: Path, question: Compare, cancel: CancelFlag, on_progress: Callable[[float], None]) -> None:
        self._path, self._question, self._cancel, self._tell = path, question, cancel, on_progress

    def run(self) -> tuple[Timing, ...]:
        lanes = [_Lane(way) for way in self._question.ways]
        with ExitStack() as stack:
            models: dict[RunSettings, Model] = {}
            opened = [self._open(lane.way, models, stack) for lane in lanes] if self._question.together else None
            started = time.perf_counter()
            for turn in range(_MOST_TURNS):
                order = list(range(len(lanes)))[:: -1 if turn % 2 else 1]  # what drifts favours none
                for index in order:
                    self._turn(lanes[index], None if opened is None else opened[index])
                    self._tell(min(1.0, (time.perf_counter() - started) / self._question.seconds))
                spent = time.perf_counter() - started
                if spent * (turn + 2) / (turn + 1) > self._question.seconds:
                    break
        return tuple(Timing(tuple(lane.read), tuple(lane.write)) for lane in lanes)

    def _turn(self, lane: _Lane, opened: tuple[Context, int] | None) -> None:
        if opened is not None:
            self._time(lane, *opened)
            return
        with ExitStack() as stack:
            self._time(lane, *self._open(lane.way, {}, stack))

    def _open(self, way: Way, models: dict[RunSettings, Model], stack: ExitStack) -> tuple[Context, int]:
        """Return a context for a way, with the tokens that are in its cache; the stack closes it."""
        key = _weights(way.settings)
        if key not in models:
            models[key] = stack.enter_context(_loaded(self._path, way.settings, self._cancel))
        context = stack.enter_context(_context(models[key], way.settings, self._cancel))
        n_past = self._question.n_past
        done = 0
        while done < n_past:
            done += self._step(context, min(context.n_step, n_past - done), done)
        self._step(context, 1, done)  # what is touched for the first time is touched here
        return context, context.keep(done)

    def _time(self, lane: _Lane, context: Context, n_past: int) -> None:
        way, here = lane.way, context.keep(n_past)
        if way.n_read:
            started = time.perf_counter()
            here = self._read(context, way.n_read, here)
            lane.read.append((time.perf_counter() - started) / way.n_read)
        if way.n_write:
            times = []
            for _ in range(way.n_write):
                started = time.perf_counter()
                here += self._step(context, 1, here)
                times.append(time.perf_counter() - started)
            # the first comes to a cache of the processor that others filled
            lane.write.append(median(times[1:] or times))

    def _read(self, context: Context, n_tokens: int, here: int) -> int:
        end = here + n_tokens
        while here < end:
            here += self._step(context, min(context.n_step, end - here), here)
        return here

    def _step(self, context: Context, n_tokens: int, n_past: int) -> int:
        tokens = [(n_past + 7 * row) % _TOKENS for row in range(n_tokens)]
        status = context.decode(tokens, n_past, want_logits=True)
        if status == _CANCELLED or self._cancel.is_set():
            raise _CancelledError
        if status != 0:
            raise EngineError(f"the model could not be timed: a step of {n_tokens} tokens ended with {status}")
        return n_tokens


def _weights(settings: RunSettings) -> RunSettings:
    """Return what of settings says how weights are loaded."""
    return replace(
        RunSettings(),
        devices=settings.devices,
        n_gpu_layers=settings.n_gpu_layers,
        tensor_split=settings.tensor_split,
        cpu_experts=settings.cpu_experts,
        load_mode=settings.load_mode,
        repack=settings.repack,
    )


@contextmanager
def _loaded(path: Path, settings: RunSettings, cancel: CancelFlag) -> Iterator[Model]:
    with engine_log().recording(quiet=True):
        try:
            model = load_model(path, settings, lambda _: not cancel.is_set())
        except LLMRunError:  # that loading was given up is told like a file that cannot be loaded
            if cancel.is_set():
                raise _CancelledError from None
            raise
    try:
        model.load_adapters(_adapters(settings.loras))
        yield model
    finally:
        model.close()


def _adapters(loras: Sequence[Lora]) -> list[tuple[Path, Lora]]:
    return [(Path(lora.path), lora) for lora in loras]


@contextmanager
def _context(model: Model, settings: RunSettings, cancel: CancelFlag) -> Iterator[Context]:
    with engine_log().recording(quiet=True):
        context = Context(model, settings, cancel)
    try:
        yield context
    finally:
        context.close()
