"""A plan: a variant, how it is run, what that takes and why it is so. Values, and nothing of how they were found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmrun.memory.footprint import MemoryBreakdown
from llmrun.planning.forecast import Forecast, Source
from llmrun.planning.policy import Prefer, Where
from llmrun.planning.speed import Speed
from llmrun.settings import RunSettings

Cause = Literal["USER", "MODEL", "MEMORY", "SPEED", "DEFAULT", "MEASURED"]
Whose = Literal["own", "lent", "both"]


@dataclass(frozen=True, slots=True)
class PlanWish:
    """What is wished of a plan, besides how the model runs.

    source: whom to ask what it takes; None is the engine where it can be asked. reserve: bytes to leave free on the
    host and on each device, None is what is usual. require_gpu: no plan rather than one for the CPU alone. slots:
    numbers of conversations at once, the best first, to choose from where the user fixed none. outputs: rows of logits
    that a batch may have at least, for texts that are turned into vectors. tuned: whether what `llmrun tune` found
    counts.
    """

    prefer: Prefer = "balanced"
    allow_disk: bool = False
    source: Source | None = None
    reserve_host: int | None = None
    reserve_device: int | None = None
    require_gpu: bool = False
    slots: tuple[int, ...] = (1,)
    outputs: int = 1
    tuned: bool = True


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a setting has its value; note is for people. MEASURED: `llmrun tune` timed it on this machine."""

    setting: str
    value: str
    cause: Cause
    note: str


@dataclass(frozen=True, slots=True)
class Better:
    """What would be preferred, and what it lacks.

    lacking: bytes of a pool, 0 where it would fit and is too slow. n_ctx: a context with which it would fit as it is.
    """

    quant: str
    where: Where
    lacking: int
    pool: str
    n_ctx: int | None = None
    decode: float | None = None


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """What would be chosen if the plan's variant were not there."""

    quant: str
    loss: float
    where: Where
    n_gpu_layers: int
    n_ctx: int
    total: int
    decode: float | None


OWN_LAYERS = "MTP layers"  # the name of a draft that is a part of the model


@dataclass(frozen=True, slots=True)
class PlannedDraft:
    """A draft model beside the plan's, or the model's own layers for that (OWN_LAYERS).

    asked: what the user called it; name: its file's, of size bytes in all parts. why: of its quantization. used: what
    it takes of each pool, the host's first, which is counted in the plan's.
    """

    asked: str
    name: str
    quant: str
    size: int
    why: str
    used: tuple[MemoryBreakdown, ...]

    @property
    def total(self) -> int:
        """Bytes it takes, wherever that is."""
        return sum(used.total for used in self.used)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, and how. forecast: the settings, and what they take of each pool.

    loss: nats, see llmrun.planning.quality. why: the step of the policy that chose it. measured: whether the speed
    rests on costs measured on this machine. from_disk: weights are more than the memory, and read again and again, at
    disk_speed bytes a second where that was measured. draft: the model that guesses for it, None is none. owner: whose
    devices it uses, or else might use.
    """

    quant: str
    loss: float
    prefer: Prefer
    why: str
    where: Where
    forecast: Forecast
    speed: Speed | None
    measured: bool
    reasons: tuple[Reason, ...]
    better: tuple[Better, ...] = ()
    runners_up: tuple[RunnerUp, ...] = ()
    from_disk: bool = False
    disk_speed: int | None = None
    draft: PlannedDraft | None = None
    owner: Whose = "own"

    @property
    def settings(self) -> RunSettings:
        """How it is run."""
        return self.forecast.settings

    @property
    def decode(self) -> float | None:
        """Predicted tokens a second of writing; from disk at most those that reading allows, None where unknown."""
        if not self.from_disk:
            return None if self.speed is None else self.speed.decode
        if self.disk_speed is None:
            return None
        seconds = self.forecast.pools[0].used.mapped / self.disk_speed
        return 1 / (seconds + (0.0 if self.speed is None else 1 / self.speed.decode))
