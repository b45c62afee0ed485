"""What is said, and done, where machines that lent devices to a model are gone: how it would run without them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from llmrun import pipeline
from llmrun.cli.plan_text import placement, speed_line
from llmrun.engine.lost import are_there, lender_of, lenders_of
from llmrun.errors import LLMRunError
from llmrun.hardware.device_wish import DeviceWish, format_device
from llmrun.planning.plan import Plan, PlanWish
from llmrun.planning.plan_file import SavedPlan
from llmrun.reference import ModelRef
from llmrun.settings import Constraints


@dataclass(frozen=True, slots=True)
class WithoutThem:
    """A model without lenders that are gone.

    lost: those that the engine lost; gone: those that cannot be reached. constraints: what is wished for without these;
    plan: how that would run, None where it cannot, which trouble says. change: of the command, so that it asks for it.
    """

    lost: tuple[str, ...]
    gone: tuple[str, ...]
    constraints: Constraints
    plan: Plan | None
    trouble: str = ""
    change: str = ""

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
        return f"repeat the command {self.change}: {_how(self.plan)}"

    @property
    def _them(self) -> str:
        return "it" if self.gone == self.lost and len(self.gone) == 1 else " and ".join(self.gone)


def without_them(
    reference: ModelRef, constraints: Constraints, wish: PlanWish, lost: Sequence[str], replay: SavedPlan | None = None
) -> WithoutThem:
    """Return how a model would run without the lenders that cannot be reached; nothing is fetched, and nothing loaded.

    lost: those that the engine lost. They may be back, as after a night in which this machine slept. replay: the plan
    that was given, and cannot be kept to without them: of it, the devices that are left are kept.
    """
    wished = constraints if replay is None else replace(constraints, devices=replay.settings.devices)
    lenders = lenders_of(wished.devices or ())
    gone = tuple(lender for lender, there in zip(lenders, are_there(lenders), strict=True) if not there)
    left = wished.without(gone)
    if not gone:
        return WithoutThem(tuple(lost), gone, left, None)
    change = f"without `{_options(wished, gone)}`" if replay is None else _instead_of_plan(left)
    try:
        plan = pipeline.plan(reference, left, wish, offline=True).plan
    except LLMRunError as error:
        return WithoutThem(tuple(lost), gone, left, None, error.message)
    return WithoutThem(tuple(lost), gone, left, plan, change=change)


def _how(plan: Plan) -> str:
    return f"{placement(plan)}, context {plan.forecast.n_ctx_each:,}, {speed_line(plan)}"


def _options(wished: Constraints, lenders: Collection[str]) -> str:
    """Return the options that ask for the devices of lenders."""
    pairs = zip_longest(wished.devices or (), wished.device_limits)
    wishes = (DeviceWish(name, limit) for name, limit in pairs if lender_of(name) in lenders)
    return " ".join(f"--device {format_device(wish)}" for wish in wishes)


def _instead_of_plan(left: Constraints) -> str:
    devices = " ".join(f"--device {format_device(DeviceWish(name))}" for name in left.devices or ())
    return f"with `{devices}` in place of `--plan`" if devices else "without `--plan`"
