"""Fleets of models as the tests make them: real engines; only how many there is room for is the test's word."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmrun import pipeline
from llmrun.embedded import embedded_file
from llmrun.engine.protocol import Chunk, Usage
from llmrun.errors import (
    BusyError,
    InsufficientMemoryError,
)
from llmrun.neighbours import Neighbourhood
from llmrun.pipeline import Started
from llmrun.server.fleet import Fleet
from llmrun.server.keeping import Keeping
from llmrun.server.loaded import Served
from llmrun.server.names import Meant, Names
from llmrun.settings import Constraints
from tests.conftest import request
from tests.model_trees import HubCache

MODELS = ("acme/a-GGUF", "acme/b-GGUF", "acme/c-GGUF")
USAGE = Usage(10, 0, 10, 20, 0.1, 0.2, 1)
QUESTION = "What is a KV cache?"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies of guide in the Hugging Face cache of a home of the test's."""
    home = tmp_path_factory.mktemp("home")
    small = embedded_file("Q4_K_M").read_bytes()
    for name in MODELS:  # each a file of its own: bytes behind the weights are no part of the model
        cache = HubCache(home / "hub")
        cache.add(name, {f"{name[5]}-Q4_K_M.gguf": small + name.encode()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(home / "hub"))
        patch.setenv("OLLAMA_MODELS", str(home / "ollama"))
        patch.setenv("HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@dataclass
class Machine:
    """Room for so many models; loads them as the program does, and remembers which. before: called in each load.

    devices: what they may use.
    """

    room: int = 9
    devices: tuple[str, ...] | None = None
    loads: list[str] = field(default_factory=list)
    before: Callable[[Meant], object] = lambda _: None

    def load(self, meant: Meant, beside: Neighbourhood) -> Started:
        self.loads.append(meant.name)
        self.before(meant)
        while len(around := beside.neighbours()) >= self.room:
            idle = [one for one in around if one.state == "idle"]
            if idle:
                beside.release(idle[0])
            elif any(one.state == "busy" for one in around):
                raise BusyError("no room")
            else:
                raise InsufficientMemoryError("it does not fit")
        wished = Constraints(n_threads=1, devices=self.devices)
        return pipeline.start(meant.reference, wished, offline=True, beside=beside)


@dataclass
class Clock:
    """A clock that goes as the test says; seconds."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def fleet_of(machine: Machine, *given: str, keeping: Keeping = Keeping(), **options: Any) -> AsyncIterator[Fleet]:
    """A fleet that nobody looks after but the test."""
    fleet = Fleet(Names(given or ("guide",)), machine.load, keeping, **options)
    try:
        yield fleet
    finally:
        await fleet.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(within())


async def text_of(served: Served, *, killing: bool = False) -> str:
    """The answer to the question; killing: its worker is killed at the first word."""
    text = ""
    async with aclosing(served.engine.answer(request(QUESTION))) as events:
        async for event in events:
            text += event.text if isinstance(event, Chunk) else ""
            if text and killing:
                os.kill(served.started.engine.pid, signal.SIGKILL)
    return text


async def ask(fleet: Fleet, name: str = "", keep_alive: float | None = None) -> str:
    async with fleet.borrow(name, keep_alive) as served:
        return await text_of(served)


async def touch(fleet: Fleet, *names: str, keep_alive: float | None = None) -> None:
    for name in names:
        async with fleet.borrow(name, keep_alive):
            pass


def loaded(fleet: Fleet) -> list[str]:
    return [one.name for one in fleet.loaded()]


async def until(condition: Callable[[], object]) -> None:
    """Wait for what will surely come; the test's own limit is the end of it."""
    while not condition():
        await asyncio.sleep(0.01)
