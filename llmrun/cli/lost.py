"""What is said, and done, where machines that lent devices to a model are gone: how it would run without them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from llmrun import pipeline
from llmrun.cli.plan_text import placement, speed_line
from llmrun.engine.lost import are_there, lenders_of
from llmrun.errors import LLMRunError
from llmrun.planning.plan import Plan, PlanWish
from llmrun.reference import ModelRef
from llmrun.settings import Constraints


@dataclass(frozen=True, slots=True)
class WithoutThem:
    """A model without lenders that are gone.

    lost: those that the engine lost; gone: those that cannot be reached. constraints: what is wished for without these;
    plan: how that would run, None where it cannot, which trouble says.
    """

    lost: tuple[str, ...]
    gone: tuple[str, ...]
    constraints: Constraints
    plan: Plan | None
    trouble: str = ""

    def offer(self) -> str:
        """Return what a person in a chat is told; nothing where none is lost, and all can be reached."""
        if not self.gone:
            return f"{' and '.join(self.lost)} can be reached again: /retry goes on with it" if self.lost else ""
        if self.plan is None:
            return f"without {self._them}: {self.trouble}; when {self._them} can be reached again, /retry goes on"
        return f"without {self._them}: {_how(self.plan)}; /retry goes on so"

    def command(self, start: str, model: str) -> str:
        """Return what whoever asked once is told: how to ask without them. start: the command as it began."""
        if not self.gone:
            return f"{' and '.join(self.lost)} can be reached again: repeat the command"
        if self.plan is None:
            return f"start `llmrun lend` there again; without {self._them}: {self.trouble}"
        words = [start, shlex.quote(model), *(f"--device {name}" for name in _device_flags(self.constraints))]
        return f"without {self._them}, {_how(self.plan)}: `{' '.join(words)}`"

    @property
    def _them(self) -> str:
        return "it" if self.gone == self.lost and len(self.gone) == 1 else " and ".join(self.gone)


def without_them(reference: ModelRef, constraints: Constraints, wish: PlanWish, lost: Sequence[str]) -> WithoutThem:
    """Return how a model would run without the lenders that cannot be reached; nothing is fetched, and nothing loaded.

    lost: those that the engine lost. They may be back, as after a night in which this machine slept.
    """
    lenders = lenders_of(constraints.devices or ())
    gone = tuple(lender for lender, there in zip(lenders, are_there(lenders), strict=True) if not there)
    left = constraints.without(gone)
    if not gone:
        return WithoutThem(tuple(lost), gone, left, None)
    try:
        return WithoutThem(tuple(lost), gone, left, pipeline.plan(reference, left, wish, offline=True).plan)
    except LLMRunError as error:
        return WithoutThem(tuple(lost), gone, left, None, error.message)


def _how(plan: Plan) -> str:
    return f"{placement(plan)}, context {plan.forecast.n_ctx_each:,}, {speed_line(plan)}"


def _device_flags(constraints: Constraints) -> list[str]:
    names = constraints.devices or ()
    limits = (*constraints.device_limits, *(None,) * len(names))
    pairs = zip(names, limits, strict=False)
    return [name if limit is None else f"{name}={_exactly(limit)}" for name, limit in pairs]


def _exactly(size: int) -> str:
    """Return a size as it can be typed, no byte more or less."""
    units = (("GiB", 1 << 30), ("MiB", 1 << 20))
    return next((f"{size // unit}{name}" for name, unit in units if size % unit == 0), f"{size}")
