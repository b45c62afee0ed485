"""Ways to run a model, timed beside each other on the model itself: the question to the worker and its answer."""

from __future__ import annotations

from dataclasses import dataclass

from llmrun.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a model, to be timed beside others.

    n_read: tokens that are read at once in each turn, 0 is none. n_write: single tokens that follow, 0 is none.
    """

    settings: RunSettings
    n_read: int = 0
    n_write: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a token of one way, a figure for each turn, the first turn first: of reading, and of writing.

    Turn by turn the ways of a comparison saw the same machine, so that figures of one turn may be divided by each
    other, and figures of different turns may not.
    """

    read: tuple[float, ...] = ()
    write: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Compare:
    """Time ways to run the model at `path` in turns, for so many seconds, loading aside at most a turn longer.

    path: as in engine.protocol.Load. n_past: tokens that are in the cache before each turn, where the model's memory
    can be cut back to them. together: whether there is memory to load all ways at once; else each is loaded anew for
    each of its turns.
    """

    path: str
    ways: tuple[Way, ...]
    seconds: float
    n_past: int = 0
    together: bool = True


@dataclass(frozen=True, slots=True)
class Compared:
    """A timing for each way, in their order; None where that was cancelled."""

    timings: tuple[Timing, ...] | None
