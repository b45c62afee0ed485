"""What is said, and done, where machines that lent devices to a model are gone: how it would run without them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from llmrun import pipeline
from llmrun.cli.plan_text import placement, speed_line
from llmrun.engine.lost import are_there, lender_of, lenders_of
from llmrun.errors import LLMRunError
from llmrun.hardware.device_wish import DeviceWish, format_device
from llmrun.planning.plan import Plan, PlanWish
from llmrun.reference import ModelRef
from llmrun.settings import Constraints


@dataclass(frozen=True, slots=True)
class WithoutThem:
    """A model without lenders that are gone.

    lost: those that the engine lost; gone: those that cannot be reached. constraints: what is wished for without these;
    plan: how that would run, None where it cannot, which trouble says. wishes: what was wished of those that are gone.
    """

    lost: tuple[str, ...]
    gone: tuple[str, ...]
    constraints: Constraints
    plan: Plan | None
    trouble: str = ""
    wishes: tuple[DeviceWish, ...] = ()

    def offer(self) -> str:
        """Return what a person in a chat is told; nothing where none is lost, and all can be reached."""
        if not self.gone:
            return f"{' and '.join(self.lost)} can be reached again: /retry goes on with it" if self.lost else ""
        if self.plan is None:
            return f"without {self._them}: {self.trouble}; when {self._them} can be reached again, /retry goes on"
        return f"without {self._them}: {_how(self.plan)}; /retry goes on so"

    def command(self) -> str:
        """Return what whoever asked once is told: how to ask without them, all else being as it was."""
        if not self.gone:
            return f"{' and '.join(self.lost)} can be reached again: repeat the command"
        if self.plan is None:
            return f"start `llmrun lend` there again; without {self._them}: {self.trouble}"
        options = " ".join(f"--device {format_device(wish)}" for wish in self.wishes)
        return f"repeat the command without `{options}`: {_how(self.plan)}"

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
    wishes = tuple(_wishes(constraints, gone))
    try:
        plan = pipeline.plan(reference, left, wish, offline=True).plan
    except LLMRunError as error:
        return WithoutThem(tuple(lost), gone, left, None, error.message, wishes)
    return WithoutThem(tuple(lost), gone, left, plan, wishes=wishes)


def _how(plan: Plan) -> str:
    return f"{placement(plan)}, context {plan.forecast.n_ctx_each:,}, {speed_line(plan)}"


def _wishes(constraints: Constraints, lenders: Collection[str]) -> Iterator[DeviceWish]:
    """Give the wishes for devices of lenders."""
    for name, limit in zip_longest(constraints.devices or (), constraints.device_limits):
        if lender_of(name) in lenders:
            yield DeviceWish(name, limit)
