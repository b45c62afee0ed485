"""An engine that stands by to be asked: replaced when a question is its death, and handed over to the one who loads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar

from llmrun.engine.client import Engine
from llmrun.engine.protocol import DeviceInfo
from llmrun.errors import EngineError
from llmrun.memory.engine_memory import EngineMemory, ProjectorMemory
from llmrun.settings import RunSettings

_T = TypeVar("_T")
_MAX_DEATHS = 2  # of workers: a header that ends two of them ends the next one too


class Standby:
    """Starts an engine at once; without one, or when it has died too often, every question is an EngineError.

    trouble: what the last engine died of, or why there is none; None while the first one lives. n_deaths: of engines,
    so far. Use as a context manager, or `close` it.
    """

    def __init__(self, on_log: Callable[[str], None] | None = None) -> None:
        self._on_log = on_log
        self.n_deaths = 0
        self.trouble: EngineError | None = None
        self._engine: Engine | None = None
        self._start()

    def __enter__(self) -> Standby:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        try:
            self._engine = Engine(self._on_log)
        except EngineError as error:
            self._engine, self.trouble = None, error

    @property
    def engine(self) -> Engine:
        """The engine; raises EngineError where there is none."""
        if self._engine is None:
            raise self.trouble or EngineError("the engine was not started")
        return self._engine

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that are ours."""
        return () if self._engine is None else (self._engine.pid,)

    def take(self) -> Engine:
        """Return the engine, which is the caller's to close from now on; a new one where the last was given up."""
        if self._engine is None:
            return Engine(self._on_log)
        engine, self._engine = self._engine, None
        return engine

    def start_anew(self) -> None:
        """Start an engine in the place of one that was taken and is gone."""
        if self._engine is None:
            self._start()

    def has_answered(self, error: EngineError) -> bool:
        """Whether an error is an engine's word, and not its death or absence."""
        return self._engine is not None and error is not self.trouble

    def dry_run(
        self, header: bytes, size: int, settings: RunSettings, adapters: tuple[bytes, ...] = ()
    ) -> EngineMemory:
        """Ask as Engine.dry_run does; whoever dies of it is replaced, twice at most."""
        return self._asked(lambda engine: engine.dry_run(header, size, settings, adapters))

    def ask_projector(self, header: bytes, size: int, settings: RunSettings) -> ProjectorMemory:
        """Ask as Engine.ask_projector does; whoever dies of it is replaced, twice at most."""
        return self._asked(lambda engine: engine.ask_projector(header, size, settings))

    def _asked(self, question: Callable[[Engine], _T]) -> _T:
        engine = self.engine
        try:
            return question(engine)
        except EngineError as error:
            if engine.has_ended:
                self._bury(error)
            raise

    def devices(self, endpoints: Iterable[str] = ()) -> tuple[DeviceInfo, ...]:
        """List as Engine.devices does."""
        return self.engine.devices(endpoints)

    def _bury(self, error: EngineError) -> None:
        self.close()
        self.n_deaths += 1
        self.trouble = error
        if self.n_deaths < _MAX_DEATHS:
            self._start()

    def close(self) -> None:
        """End the engine, if it is still here."""
        if self._engine is not None:
            with contextlib.suppress(OSError):
                self._engine.close()
            self._engine = None
