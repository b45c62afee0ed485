"""A loaded model answering, seen from the program that asks: owns the worker, streams from it, cancels it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from llmrun.engine.process import WorkerProcess
from llmrun.engine.protocol import (
    AskProjector,
    Cancel,
    Chunk,
    CountTokens,
    DeviceInfo,
    DeviceList,
    DryRun,
    DryRunResult,
    Event,
    Failed,
    Generate,
    ListDevices,
    Load,
    Loaded,
    LoadProgress,
    Measure,
    Measured,
    MeasureProgress,
    ModelInfo,
    Phase,
    PrefillProgress,
    ProjectorAsked,
    Ready,
    TokenCounts,
    Tokenize,
    Work,
)
from llmrun.engine.states import PromptTokens, RestoreState, SaveState, StateRestored, StateSaved
from llmrun.engine.wire import error_of
from llmrun.errors import LLMRunError, WorkerDiedError
from llmrun.memory.engine_memory import EngineMemory, ProjectorMemory
from llmrun.message import Message, Tool
from llmrun.planning.rates import Rates
from llmrun.planning.timing import Compare, Compared, Timing, Way
from llmrun.settings import RunSettings


@dataclass(frozen=True, slots=True)
class StartTimes:
    """Seconds from the start of the worker until it spoke, of that for importing llama.cpp, and for loading."""

    start: float
    engine_import: float
    load: float


class Engine:
    """A model that answers, in a process of its own.

    The process starts at once; `load` makes it useful, and before that it can be asked what a model would take. Use as
    a context manager, or `close` it.
    """

    def __init__(self, on_log: Callable[[str], None] | None = None) -> None:
        self._worker = WorkerProcess(on_log)
        self.info: ModelInfo | None = None
        self.times: StartTimes | None = None
        self._last: Answer | None = None
        self._broken_off = False
        self._start = self._engine_import = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def has_ended(self) -> bool:
        """Whether the worker is gone, so that a new engine is needed."""
        return self._broken_off or self._worker.has_ended

    @property
    def pid(self) -> int:
        """The process id of the worker."""
        return self._worker.pid

    def load(
        self,
        path: Path,
        settings: RunSettings,
        on_progress: Callable[[float], None] | None = None,
        *,
        most_threads: tuple[int, int] | None = None,
    ) -> ModelInfo:
        """Load a model; raises GGUFError, InsufficientMemoryError or EngineError. `on_progress` gets 0 to 1.

        most_threads: see Load.
        """
        with self._heard_out():
            self._worker.send(Load(_on_the_wire(path), settings, most_threads))
            while True:
                match self._next_event():
                    case LoadProgress(fraction=fraction) if on_progress is not None:
                        on_progress(fraction)
                    case Loaded(info=info):
                        self.info = info
                        self.times = StartTimes(self._start, self._engine_import, info.load_seconds)
                    case Phase(name="idle") if self.info is not None:
                        return self.info

    def hand_over(self) -> WorkerProcess:
        """Return the worker for others to speak to, many at once; from here on this engine is only to be closed."""
        self._end_last_answer()
        return self._worker

    def answer(self, request: Generate) -> Answer:
        """Start answering; iterate over what this returns. An earlier answer that was left unread is ended first."""
        self._end_last_answer()
        self._worker.send(request)
        self._last = Answer(self._next_event, lambda: self._worker.send(Cancel()))
        return self._last

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> TokenCounts:
        """Count the tokens of a conversation, as the loaded model would read it."""
        result = self._ask(CountTokens(tuple(messages), tuple(tools)))
        assert isinstance(result, TokenCounts)
        return result

    def dry_run(
        self, header: bytes, size: int, settings: RunSettings, adapters: tuple[bytes, ...] = ()
    ) -> EngineMemory:
        """Ask llama.cpp what a model would take; a few milliseconds, without its weights, before or after a load.

        header: a whole GGUF header, best as encode_header(without_tokenizer(header)) makes it: each token of a
        vocabulary costs time and memory. size: bytes of the file it would be part of. adapters: headers of the LoRA
        adapters it would be run with; the settings' own do not count. Raises GGUFError for a header
        that llama.cpp refuses, QuestionTooLargeError where asking would itself take too much, UsageError or EngineError
        for settings it cannot run with. A header may also be the worker's death (WorkerDiedError): a new Engine is then
        as good as this one was.
        """
        result = self._ask(DryRun(header, size, settings, adapters))
        assert isinstance(result, DryRunResult)
        return result.memory

    def ask_projector(self, header: bytes, size: int, settings: RunSettings) -> ProjectorMemory:
        """Ask llama.cpp what a projector for images would take; raises GGUFError for one it refuses, or EngineError.

        As a dry run it needs no weights, and as of one a worker may die of it.
        """
        result = self._ask(AskProjector(header, size, settings))
        assert isinstance(result, ProjectorAsked)
        return result.memory

    def devices(self, endpoints: Iterable[str] = ()) -> tuple[DeviceInfo, ...]:
        """List ggml's devices with their free memory now, and those at endpoints ("rpc:HOST:PORT").

        Raises EngineError for an endpoint where no server answers.
        """
        return self.look(endpoints).devices

    def look(self, endpoints: Iterable[str] = ()) -> DeviceList:
        """List the devices as `devices` does, with what the engine says of itself."""
        result = self._ask(ListDevices(tuple(endpoints)))
        assert isinstance(result, DeviceList)
        return result

    def measure(self, question: Measure, on_progress: Callable[[float], bool] = lambda _: True) -> Rates | None:
        """Measure what is asked for; some hundred milliseconds for each type of matrices. None where it was given up.

        on_progress gets 0 to 1 and returns False to give up. Raises InsufficientMemoryError where there is no room for
        the measuring, UsageError or EngineError for settings it cannot run with.
        """
        result = self._measured(question, on_progress)
        return result.rates if isinstance(result, Measured) else None

    def compare(
        self,
        path: Path,
        ways: Sequence[Way],
        seconds: float,
        n_past: int = 0,
        *,
        together: bool = True,
        on_progress: Callable[[float], bool] = lambda _: True,
    ) -> tuple[Timing, ...] | None:
        """Time ways to run a model, beside each other on the model itself; None where it was given up.

        seconds, n_past, together: as in planning.timing.Compare. on_progress: as of measure. Raises what loading the
        model raises.
        """
        result = self._measured(Compare(_on_the_wire(path), tuple(ways), seconds, n_past, together), on_progress)
        return result.timings if isinstance(result, Compared) else None

    def _measured(self, question: Measure | Compare, on_progress: Callable[[float], bool]) -> Event | None:
        self._end_last_answer()
        result: Event | None = None
        with self._heard_out():
            self._worker.send(question)
            while True:
                match self._next_event():
                    case MeasureProgress(fraction=fraction):
                        if not on_progress(fraction):
                            self._worker.send(Cancel())
                    case Measured() | Compared() as event:
                        result = event
                    case Phase(name="idle"):
                        return result

    def tokenize(self, request: Generate) -> PromptTokens:
        """Return the tokens of a request's prompt; nothing of it is read."""
        result = self._ask(Tokenize(request))
        assert isinstance(result, PromptTokens)
        return result

    def save_state(self, path: Path, offset: int, limit: int, tokens: tuple[int, ...] | None = None) -> StateSaved:
        """Write what the context holds into a file that is there, from byte `offset` on, at most `limit` bytes.

        tokens: of that only these first ones, which alone the context then holds. Raises EngineError where it cannot be
        written. For `llmrun.states` and `llmrun.prompt_cache`, which know where such files may lie.
        """
        result = self._ask(SaveState(_on_the_wire(path), offset, limit, tokens))
        assert isinstance(result, StateSaved)
        return result

    def restore_state(self, path: Path, offset: int, size: int, sha256: str) -> int:
        """Take back what `save_state` wrote and return how many tokens the context holds; what it held is forgotten.

        Where size or sha256 of the file from `offset` on are others, llama.cpp sees no byte of it, and 0 is returned.
        """
        result = self._ask(RestoreState(_on_the_wire(path), offset, size, sha256))
        assert isinstance(result, StateRestored)
        return result.n_tokens

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def _end_last_answer(self) -> None:
        if self._last is not None:
            self._last.abandon()

    def _ask(self, question: Work) -> Event | None:
        self._end_last_answer()
        result: Event | None = None
        with self._heard_out():
            self._worker.send(question)
            while True:
                match self._next_event():
                    case Phase(name="idle"):
                        return result
                    case DryRunResult() | ProjectorAsked() | DeviceList() | TokenCounts() as event:
                        result = event
                    case StateSaved() | StateRestored() | PromptTokens() as event:
                        result = event

    @contextmanager
    def _heard_out(self) -> Iterator[None]:
        """End the worker where an exchange is broken off: the next would take what it still says for its own."""
        try:
            yield
        except LLMRunError:  # the end of an exchange, as is the worker's death
            raise
        except BaseException:
            self._broken_off = True
            self.close()
            raise

    def _next_event(self) -> Event:
        if self._broken_off:
            raise WorkerDiedError("the engine was ended, because somebody did not wait for what it had to say")
        event = self._worker.receive()
        if isinstance(event, Failed):
            raise error_of(event)
        if isinstance(event, Ready):
            self._start, self._engine_import = time.perf_counter() - self._worker.started, event.import_seconds
        return event


class Answer:
    """An answer as it comes: progress of reading the prompt, then chunks; the last has the finish reason.

    Raises ContextOverflowError for a conversation that is too long, EngineError when the engine fails.
    """

    def __init__(self, next_event: Callable[[], Event], cancel: Callable[[], None]) -> None:
        self._next_event = next_event
        self._cancel = cancel
        self._over = False

    def __iter__(self) -> Iterator[Chunk | PrefillProgress]:
        return self

    def __next__(self) -> Chunk | PrefillProgress:
        while not self._over:
            try:
                event = self._next_event()
            except Exception:
                self._over = True
                raise
            match event:
                case Phase(name="idle"):
                    self._over = True
                case Chunk() | PrefillProgress():
                    return event
        raise StopIteration

    def abandon(self) -> None:
        """Cancel, and read what still comes, so that the next answer begins with its own first word."""
        if not self._over:
            self.cancel()
            for _ in self:
                pass

    def cancel(self) -> None:
        """Ask for the end: a last chunk with finish reason "cancelled" follows within one token."""
        self._cancel()


def _on_the_wire(path: Path) -> str:
    """Write a path for the worker: it need not be text."""
    return os.fsencode(path.absolute()).decode("latin-1")
