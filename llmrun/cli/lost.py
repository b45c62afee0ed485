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
    """A model without lenders that are gone: what is wished for then, and how that would run, None where it cannot."""

    lenders: tuple[str, ...]
    constraints: Constraints
    plan: Plan | None
    trouble: str = ""

    @property
    def _them(self) -> str:
        return "it" if len(self.lenders) == 1 else " and ".join(self.lenders)

    def offer(self) -> str:
        """Return what a person in a chat is told; nothing where none is gone."""
        them = self._them
        if not self.lenders:
            return ""
        if self.plan is None:
            return f"without {them}: {self.trouble}; when {them} can be reached again, /retry goes on"
        return f"without {them}: {_how(self.plan)}; /retry goes on so"

    def command(self, start: str, model: str) -> str:
        """Return what whoever asked once is told: how to ask without them. start: the command as it began."""
        them = self._them
        if self.plan is None:
            return f"start `llmrun lend` there again; without {them}: {self.trouble}"
        words = [start, shlex.quote(model), *(f"--device {name}" for name in _device_flags(self.constraints))]
        return f"without {them}, {_how(self.plan)}: `{' '.join(words)}`"


def without_them(reference: ModelRef, constraints: Constraints, wish: PlanWish, lenders: Sequence[str]) -> WithoutThem:
    """Return how a model would run without lenders, and without others that cannot be reached either.

    Nothing is fetched for that, and nothing loaded.
    """
    others = lenders_of(constraints.without(lenders).devices or ())
    gone = (*lenders, *(other for other, there in zip(others, are_there(others), strict=True) if not there))
    left = constraints.without(gone)
    try:
        planned = pipeline.plan(reference, left, wish, offline=True)
    except LLMRunError as error:
        return WithoutThem(gone, left, None, error.message)
    return WithoutThem(gone, left, planned.plan)


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
