"""The models that are served: which there are, which are loaded, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from llmrun.engine.shared import SharedEngine
from llmrun.errors import NotFoundError
from llmrun.pipeline import Started


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is loaded: the name it is asked by, how it was started, and the engine that answers."""

    name: str
    started: Started
    engine: SharedEngine


@dataclass(frozen=True, slots=True)
class LoadedNow:
    """A model in memory: bytes of all pools as planned; tokens of each conversation; seconds until it is unloaded."""

    name: str
    quant: str
    bytes: int
    n_ctx: int
    n_slots: int
    busy: int
    expires_in: float | None


class Fleet:
    """Models by name, loaded when they are asked for.

    names: what may be asked for, the first being the one for who names none. load: starts a model by its name.
    """

    def __init__(self, names: tuple[str, ...], load: Callable[[str], Started]) -> None:
        self._names = names
        self._load = load
        self._served: dict[str, Served] = {}
        self._loading = asyncio.Lock()

    def names(self) -> tuple[str, ...]:
        """Return the names of the models that may be asked for."""
        return self._names

    @asynccontextmanager
    async def borrow(self, name: str, keep_alive: float | None = None) -> AsyncIterator[Served]:
        """Give a loaded model, which is not taken away meanwhile. keep_alive: seconds that it then stays loaded.

        Raises NotFoundError for a name that is none of ours, and what loading raises.
        """
        del keep_alive
        name = name or self._names[0]
        if name not in self._names:
            raise NotFoundError(f"no model {name!r} is served here", "GET /v1/models lists them")
        async with self._loading:
            if name not in self._served:
                started = await asyncio.get_running_loop().run_in_executor(None, self._load, name)
                self._served[name] = Served(name, started, SharedEngine(started.engine))
        yield self._served[name]

    def loaded(self) -> tuple[LoadedNow, ...]:
        """Return what is in memory now."""
        return tuple(
            LoadedNow(
                served.name,
                served.started.plan.quant,
                sum(pool.needed for pool in served.started.plan.forecast.pools),
                served.engine.info.n_ctx,
                served.engine.info.n_slots,
                0,
                None,
            )
            for served in self._served.values()
        )

    async def release(self, name: str) -> None:
        """Unload a model; raises NotFoundError where it is not loaded."""
        if name not in self._served:
            raise NotFoundError(f"{name} is not loaded", "`llmrun ps` shows what is")
        await self._served.pop(name).engine.close()

    async def close(self) -> None:
        """End all of them."""
        for served in self._served.values():
            await served.engine.close()
