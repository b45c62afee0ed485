"""A plan for a model that may be elsewhere: chosen among what is known of its variants, until the chosen one is read.

Knows who plans and on which machine; must not know how a header is read, or what becomes of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmrun.adapters import check_adapters, read_adapters
from llmrun.engine.standby import Standby
from llmrun.errors import EngineError, InsufficientMemoryError
from llmrun.folders import answers_folder
from llmrun.gguf.adapter import Adapter
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.threads import Threads
from llmrun.models import Found, Model
from llmrun.planning.plan import Plan, PlanWish
from llmrun.projectors import Eye, Sight
from llmrun.settings import Constraints, Lora
from llmrun.site import Site, described_site, find_site
from llmrun.variant import Variant

if TYPE_CHECKING:
    from llmrun.planner import Planner
    from llmrun.planning.plan_file import SavedPlan
    from llmrun.speeds import Speeds
    from llmrun.stock import Stocked


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wished of a plan. on: for another machine; replay: a plan to take as it is, in the place of a new one.

    eye: the projector that lets the model see, None where it need not.
    """

    constraints: Constraints
    wish: PlanWish
    on: Hardware | None = None
    replay: SavedPlan | None = None
    eye: Eye | None = None

    @property
    def fixed(self) -> Constraints:
        """What the user fixed, with the file of the projector in the place of the wish for one."""
        return replace(self.constraints, projector=None if self.eye is None else self.eye.path)

    @property
    def replayed(self) -> SavedPlan | None:
        """The plan to take as it is, with the projector where it lies now."""
        if self.replay is None or self.eye is None:
            return self.replay
        return replace(self.replay, settings=replace(self.replay.settings, projector=self.eye.path))

    @property
    def loras(self) -> tuple[Lora, ...]:
        """The adapters that the model is to be run with."""
        return self.constraints.loras if self.replay is None else self.replay.settings.loras

    def site(self, standby: Standby, header: GGUFHeader, threads: Threads) -> Site:
        """Return the machine that is planned for."""
        if self.on is not None:
            return described_site(self.on, self.constraints)
        return find_site(standby, self.constraints, header, threads)


@dataclass(frozen=True, slots=True)
class Settled:
    """A plan, who made it, and for which machine."""

    site: Site
    planner: Planner
    plan: Plan

    @property
    def chosen(self) -> Stocked:
        """The variant that is to be run."""
        return self.planner.variant(self.plan)


class Stockroom:
    """Variants as they can be planned with on one machine, each made once: what is planned with again is at hand."""

    def __init__(
        self, site: Site, standby: Standby | None, loras: tuple[Lora, ...] = (), eye: Eye | None = None
    ) -> None:
        """standby: whom to ask about them, None is arithmetic alone. loras, eye: what they are run with.

        Raises as read_adapters, and GGUFError for a projector that the engine refuses.
        """
        self.site, self._eye = site, eye
        self._sight = None if eye is None else Sight(eye, standby)
        if self._sight is not None:
            self._sight.memory(None)  # what is wrong with it is said before anything is fetched
        self._loras, self._adapters = loras, read_adapters(loras)
        self.speeds = speeds_of(site)
        self._standby = standby
        self._made: dict[str, tuple[GGUFHeader, Stocked]] = {}

    def stock(self, variants: Sequence[Found]) -> list[Stocked]:
        """Return variants with these headers; raises GGUFError where what they are run with was not made for one."""
        for variant, header in variants:
            known = self._made.get(variant.quant)
            if known is None or known[0] is not header:
                (made,) = stock_of([(variant, header)], self.site, self._standby, self.speeds, self._beside(header))
                self._made[variant.quant] = (header, made)
        return [self._made[variant.quant][1] for variant, _ in variants]

    def _beside(self, header: GGUFHeader) -> Beside:
        check_adapters(self._loras, self._adapters, header)
        if self._eye is not None:
            self._eye.check(header)
        return Beside(self._adapters, self._sight)


def stockroom_for(model: Model, standby: Standby, wishes: Wishes, threads: Threads) -> Stockroom:
    """Return the variants of a model on the machine that is planned for."""
    site = wishes.site(standby, model.found()[0][1], threads)
    return Stockroom(site, standby if site.here else None, wishes.loras, wishes.eye)


def settle(model: Model, room: Stockroom, wishes: Wishes) -> Settled:
    """Return a plan that rests on the header of what it chose; where that was only a likeness it is read, and so on.

    Nothing is refused before the header of the smallest variant has been read.
    """
    from llmrun.planner import Planner

    while True:
        planner = Planner(room.stock(model.found()), room.site, room.speeds, wishes.fixed, wishes.wish)
        try:
            plan = _planned(planner, room.site, wishes.wish, wishes.replayed)
        except InsufficientMemoryError:
            smallest = min(model.found(), key=lambda found: found[0].size)[0].quant
            if model.is_read(smallest):
                raise
            model.read(smallest)
            continue
        if model.is_read(plan.quant):
            return Settled(room.site, planner, plan)
        model.read(plan.quant)


def make_planner(
    variants: Sequence[tuple[Variant, GGUFHeader]],
    site: Site,
    constraints: Constraints,
    wish: PlanWish,
    standby: Standby | None,
    speeds: Speeds | None = None,
) -> Planner:
    """Return who plans with these variants; standby is whom to ask about them, None is arithmetic alone.

    speeds: the machine's, None is what is known of it.
    """
    from llmrun.planner import Planner  # here, because `--help` need not wait for it

    known = speeds or speeds_of(site)
    return Planner(stock_of(variants, site, standby, known), site, known, constraints, wish)


def speeds_of(site: Site) -> Speeds:
    """Return the speeds of a machine: as measured here, as known of its kind elsewhere."""
    from llmrun.speeds import Speeds, open_speeds

    return open_speeds(site.threads.decode) if site.here else Speeds(None, site.threads.decode)


@dataclass(frozen=True, slots=True)
class Beside:
    """What a model is run with besides itself, made for it."""

    adapters: tuple[Adapter, ...] = ()
    sight: Sight | None = None


def stock_of(
    variants: Sequence[Found], site: Site, standby: Standby | None, speeds: Speeds, beside: Beside = Beside()
) -> list[Stocked]:
    """Return variants as they can be planned with."""
    from llmrun.stock import stocked

    answers = answers_folder()
    return [
        stocked(variant, header, site, speeds, standby, answers, beside.adapters, beside.sight)
        for variant, header in variants
    ]


def _planned(planner: Planner, site: Site, wish: PlanWish, replay: SavedPlan | None = None) -> Plan:
    """Return the plan; raises EngineError where a GPU is required and it would not be used."""
    if wish.require_gpu and not site.devices:
        from llmrun.doctor.gpu_required import require_gpu  # here: who requires none starts without the doctor
        from llmrun.doctor.reading import read_facts

        if not site.here:
            raise EngineError("a GPU is required, and the machine that was described has none")
        require_gpu(site.devices, read_facts)
    found = planner.plan() if replay is None else planner.replayed(replay)
    if wish.require_gpu and found.where == "host":
        raise EngineError(
            "a GPU is required, and nothing of the model fits there beside the reserve",
            "`llmrun plan` without --require-gpu shows what is lacking",
        )
    if found.from_disk and site.here:
        from llmrun.hardware.disk import read_disk_speed

        return replace(found, disk_speed=read_disk_speed(planner.variant(found).variant.path))
    return found
