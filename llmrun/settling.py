"""A plan for a model that may be elsewhere: chosen among what is known of its variants, until the chosen one is read.

Knows who plans and on which machine; must not know how a header is read, or what becomes of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmrun.adapters import check_adapters, read_adapters
from llmrun.drafts import OTHER_DRAFT, Draft
from llmrun.engine.standby import Standby
from llmrun.errors import EngineError, GGUFError, InsufficientMemoryError, UsageError
from llmrun.folders import answers_folder
from llmrun.gguf.draft import check_layers
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.threads import Threads
from llmrun.models import Found, Model
from llmrun.planning.plan import Plan, PlanWish
from llmrun.projectors import Eye, Sight
from llmrun.settings import MTP, Constraints, Lora, RunSettings
from llmrun.site import Site, described_site, find_site
from llmrun.variant import Variant

if TYPE_CHECKING:
    from llmrun.planner import Planner
    from llmrun.planning.plan_file import SavedPlan
    from llmrun.speeds import Speeds
    from llmrun.stock import Beside, Guesser, Stocked

_SMALLEST = RunSettings(n_ctx=512, devices=(), n_gpu_layers=0)  # with which to see whether the engine takes a model


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wished of a plan. on: for another machine; replay: a plan to take as it is, in the place of a new one.

    eye: the projector that lets the model see, None where it need not. draft: the model that guesses for it, None is
    none.
    """

    constraints: Constraints
    wish: PlanWish
    on: Hardware | None = None
    replay: SavedPlan | None = None
    eye: Eye | None = None
    draft: Draft | None = None

    @property
    def fixed(self) -> Constraints:
        """What the user fixed, with the files of the projector and the draft in the place of the wishes for them."""
        projector = None if self.eye is None else self.eye.path
        draft = (MTP if self.guesses_itself else None) if self.draft is None else self.draft.path
        return replace(self.constraints, projector=projector, draft=draft)

    @property
    def replayed(self) -> SavedPlan | None:
        """The plan to take as it is, with the projector and the draft where they lie now."""
        if self.replay is None:
            return None
        saved = self.replay.settings
        projector = saved.projector if self.eye is None else self.eye.path
        draft = saved.draft if self.draft is None else self.draft.path
        return replace(self.replay, settings=replace(saved, projector=projector, draft=draft))

    @property
    def guesses_itself(self) -> bool:
        """Whether the model's own layers are to guess."""
        return (self.constraints if self.replay is None else self.replay.settings).draft == MTP

    @property
    def are_here(self) -> bool:
        """Whether nothing has to be fetched besides the model."""
        return all(one is None or one.is_here for one in (self.eye, self.draft))

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
        self,
        site: Site,
        standby: Standby | None,
        loras: tuple[Lora, ...] = (),
        eye: Eye | None = None,
        draft: Draft | None = None,
    ) -> None:
        """standby: whom to ask about them, None is arithmetic alone. loras, eye, draft: what they are run with.

        Raises as read_adapters, and GGUFError for a projector or a draft that the engine refuses.
        """
        self.site, self._eye, self._standby = site, eye, standby
        self._sight = None if eye is None else Sight(eye, standby)
        if self._sight is not None:
            self._sight.memory(None)  # what is wrong with it is said before anything is fetched
        self._guesser = None if draft is None else _guesser(draft, site, standby)
        self._loras, self._adapters = loras, read_adapters(loras)
        self.speeds = speeds_of(site)
        self._made: dict[str, tuple[GGUFHeader, Stocked]] = {}

    def stock(self, variants: Sequence[Found]) -> list[Stocked]:
        """Return variants with these headers; raises GGUFError where what they are run with was not made for one.

        UsageError for a draft beside a model that could not use it.
        """
        for variant, header in variants:
            known = self._made.get(variant.quant)
            if known is None or known[0] is not header:
                (made,) = stock_of([(variant, header)], self.site, self._standby, self.speeds, self._beside(header))
                _check_guessing(made, header)
                self._made[variant.quant] = (header, made)
        return [self._made[variant.quant][1] for variant, _ in variants]

    def _beside(self, header: GGUFHeader) -> Beside:
        from llmrun.stock import Beside

        check_adapters(self._loras, self._adapters, header)
        if self._eye is not None:
            self._eye.check(header)
        return Beside(self._adapters, self._sight, self._guesser)


def _guesser(draft: Draft, site: Site, standby: Standby | None) -> Guesser:
    """Return a draft as it can be planned with; raises GGUFError where the engine refuses it, or it cannot guess."""
    from llmrun.footprints import Footprints
    from llmrun.stock import Guesser

    footprints = Footprints(draft.header, site.machine, standby, answers_folder())
    if footprints.has_state:
        raise GGUFError(f"{draft.name} cannot guess: what it remembers cannot be taken back", OTHER_DRAFT)
    before = 0 if standby is None else standby.n_deaths
    try:
        footprints.exact(_SMALLEST)
    except GGUFError as error:
        raise GGUFError(f"{draft.name} cannot guess: {error.message}", error.hint) from error
    if standby is not None and standby.n_deaths > before:
        raise GGUFError(f"the engine dies of {draft.name}: it may be damaged", "fetch it again")
    return Guesser(draft, footprints)


def _check_guessing(model: Stocked, header: GGUFHeader) -> None:
    if model.draft is None:
        return
    if model.footprints.has_state:
        raise UsageError(
            "a draft is of no use to this model: what it remembers cannot be taken back", "leave --draft out"
        )
    model.draft.check(header)


def stockroom_for(model: Model, standby: Standby, wishes: Wishes, threads: Threads) -> Stockroom:
    """Return the variants of a model on the machine that is planned for."""
    site = wishes.site(standby, model.found()[0][1], threads)
    return Stockroom(site, standby if site.here else None, wishes.loras, wishes.eye, wishes.draft)


def settle(model: Model, room: Stockroom, wishes: Wishes) -> Settled:
    """Return a plan that rests on the header of what it chose; where that was only a likeness it is read, and so on.

    Nothing is refused before the header of the smallest variant has been read. Raises GGUFError where the model's own
    layers are to guess, and cannot.
    """
    from llmrun.planner import Planner

    if wishes.guesses_itself:
        for _, header in model.found():
            check_layers(header)
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


def stock_of(
    variants: Sequence[Found], site: Site, standby: Standby | None, speeds: Speeds, beside: Beside | None = None
) -> list[Stocked]:
    """Return variants as they can be planned with. beside: what they are run with, None is nothing."""
    from llmrun.stock import Beside, stocked

    answers = answers_folder()
    return [
        stocked(variant, header, site, speeds, standby, answers, beside or Beside()) for variant, header in variants
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
    if found.from_disk and site.here and (variant := planner.variant(found).variant).is_here:
        from llmrun.hardware.disk import read_disk_speed

        return replace(found, disk_speed=read_disk_speed(variant.path))
    return found
