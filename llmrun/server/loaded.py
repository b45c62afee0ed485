"""A model that is loaded: its worker, who uses it, and until when it stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmrun.engine.protocol import Usage
from llmrun.engine.shared import SharedEngine
from llmrun.neighbours import State
from llmrun.pipeline import Started
from llmrun.server.admission import Admission
from llmrun.server.keeping import FOREVER
from llmrun.server.names import Meant


@dataclass(frozen=True, slots=True)
class LoadedNow:
    """A loaded model as others are told of it.

    name: what it was loaded as; names: all it is known by meanwhile. pools: bytes planned of each pool by its id, the
    host's is "host". n_ctx: tokens of each of its n_slots conversations. busy, waiting: answers that it writes, and
    that wait for it. expires_in: seconds that it stays if nobody asks, None is until the memory is needed. since:
    seconds since 1970. pid: of its worker.
    """

    name: str
    names: tuple[str, ...]
    quant: str
    path: Path
    pools: Mapping[str, int]
    n_ctx: int
    n_slots: int
    busy: int
    waiting: int
    expires_in: float | None
    since: float
    pinned: bool
    pid: int
    started: Started

    @property
    def bytes(self) -> int:
        """Planned of all pools together."""
        return sum(self.pools.values())


class Served:
    """A loaded model as one request has it: the name it was asked by, how it was started, and the engine that answers.

    record: remembers how fast an answer was, where no other was written at the same time. is_answered: whether the
    request had all that it wanted.
    """

    def __init__(
        self,
        name: str,
        started: Started,
        engine: SharedEngine,
        record: Callable[[Usage], None],
        leave: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.started, self.engine, self.record = name, started, engine, record
        self.is_answered = False
        self._leave = leave

    def done(self) -> None:
        """Give the place to others at once: the engine has said all, whoever may still be reading it."""
        self.is_answered = True
        self._leave()


class LoadedModel:
    """A model with its worker, for one event loop.

    active: answers that are under way or wait for a slot. last_used, expires_at, loaded_at: by the fleet's clock.
    leaving: it is to be ended, and nobody begins to use it; gone is set when it is. revived: its last worker died.
    """

    def __init__(self, meant: Meant, started: Started, admission: Admission, now: float, since: float) -> None:
        self.meant = meant
        self.keys = {meant.key}
        self.started = started
        self.engine = SharedEngine(started.engine)
        self.path = started.planned.variant.path.resolve()
        self.admission = admission
        self.active = 0
        self.loaded_at = self.last_used = now
        self.expires_at = FOREVER
        self.since = since
        self.pinned = self.leaving = self.closing = self.revived = False
        self.gone = asyncio.Event()

    @property
    def name(self) -> str:
        """What it was loaded as."""
        return self.meant.name

    @property
    def state(self) -> State:
        """Whether it may be ended."""
        if self.pinned:
            return "pinned"
        return "busy" if self.active else "idle"

    @property
    def has_ended(self) -> bool:
        """Whether its worker is gone though nobody ended it."""
        return not self.closing and self.engine.has_ended

    def death_line(self) -> str:
        """Return what is told of a worker that died."""
        death = self.engine.death
        return f"the worker of {self.name} died: {'its process is gone' if death is None else death.message}"

    def status(self, now: float) -> LoadedNow:
        """Return what others are told of it."""
        plan, info = self.started.plan, self.engine.info
        return LoadedNow(
            name=self.name,
            names=tuple(sorted(self.keys)),
            quant=plan.quant,
            path=self.path,
            pools={pool.id: pool.needed for pool in plan.forecast.pools},
            n_ctx=info.n_ctx,
            n_slots=info.n_slots,
            busy=self.admission.busy,
            waiting=self.admission.waiting,
            expires_in=None if self.expires_at == FOREVER else max(0.0, self.expires_at - now),
            since=self.since,
            pinned=self.pinned,
            pid=self.started.engine.pid,
            started=self.started,
        )
