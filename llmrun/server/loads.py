"""Loads, away from the event loop: each in a thread of its own, which may ask the loop for room meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from llmrun.errors import EngineError, LLMRunError
from llmrun.neighbours import Neighbour, Neighbourhood, looked_at
from llmrun.pipeline import Started
from llmrun.server.loaded import LoadedModel
from llmrun.server.names import Meant

_T = TypeVar("_T")

Load = Callable[[Meant, Neighbourhood], Started]
"""Starts a model beside others; called in a thread. Raises as pipeline.start."""


_LATELY = 5.0  # seconds in which the memory of a worker that died is taken to be free still


class Fallen:
    """How models were loaded whose workers died a moment ago: nothing needs to be planned to load them again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, Started]] = {}

    def note(self, key: str, started: Started) -> None:
        """Remember one."""
        self._known[key] = self._clock(), started

    def load(self, load: Load, meant: Meant, around: Neighbourhood) -> Started:
        """Load a model as it was, else as `load` does, and raise what that raises; called in a thread."""
        died_at, started = self._known.pop(meant.key, (-_LATELY, None))
        if started is not None and self._clock() - died_at < _LATELY:
            with contextlib.suppress(LLMRunError):
                return started.again()
        return load(meant, around)


class SameFileError(EngineError):
    """What a name means is loaded already, under another name."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path.name} is loaded already")
        self.path = path


class House(Protocol):
    """Whoever has the loaded models; for its event loop alone."""

    def around(self) -> tuple[LoadedModel, ...]:
        """Return those that are loaded, those first that are to go first."""

    def holds(self, path: Path) -> bool:
        """Whether a file is loaded."""

    async def give_way(self, model: LoadedModel) -> bool:
        """End a model and wait until it is gone; False where somebody needs it."""


class Surroundings:
    """The models of a house as the thread of a load sees them."""

    def __init__(self, house: House, loop: asyncio.AbstractEventLoop) -> None:
        self._house, self._loop = house, loop

    def neighbours(self) -> tuple[Neighbour, ...]:
        """Return them as they are now, those first that are to go first."""
        return tuple(
            looked_at(one.name, one.state, one.started.plan, one.started.engine.pid)
            for one in self._asked(self._around())
        )

    def release(self, neighbour: Neighbour) -> bool:
        """End one and wait until it is gone; False where somebody needs it meanwhile."""
        return self._asked(self._release(neighbour.name))

    def pids(self) -> tuple[int, ...]:
        """Return the processes in which they run."""
        return tuple(one.started.engine.pid for one in self._asked(self._around()))

    def check(self, path: Path) -> None:
        """Raise SameFileError where this file is loaded already."""
        if self._asked(self._holds(path)):
            raise SameFileError(path)

    async def _around(self) -> tuple[LoadedModel, ...]:
        return self._house.around()

    async def _holds(self, path: Path) -> bool:
        return self._house.holds(path)

    async def _release(self, name: str) -> bool:
        found = next((one for one in self._house.around() if one.name == name), None)
        return found is not None and await self._house.give_way(found)

    def _asked(self, question: Coroutine[Any, Any, _T]) -> _T:
        try:
            return asyncio.run_coroutine_threadsafe(question, self._loop).result()
        except RuntimeError as error:  # the loop is closed: nobody waits for the load any more
            question.close()
            raise EngineError("the server has ended") from error


async def in_thread(work: Callable[[], _T], discard: Callable[[_T], None]) -> _T:
    """Return what work returns or raise what it raises; for work that may take hours, as a download.

    The thread keeps no program from ending, and no event loop from closing. discard: what becomes of a result for which
    nobody waits any more.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def deliver(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            if result is not None:
                threading.Thread(target=discard, args=(result,), daemon=True).start()
        elif error is not None:
            future.set_exception(error)
        else:
            assert result is not None
            future.set_result(result)

    def run() -> None:
        result: _T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except LLMRunError as known:
            error = known
        except BaseException as unknown:
            error = unknown
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(deliver, None, error)
            raise
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:  # the loop is closed
            if result is not None:
                discard(result)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await future


async def set_until(event: asyncio.Event, deadline: float) -> bool:
    """Wait for an event, of room for a load say, until a time of the loop's; return whether it was set."""
    try:
        async with asyncio.timeout_at(deadline):
            await event.wait()
    except TimeoutError:
        return False
    return True
