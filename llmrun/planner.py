"""Plans for one model on one machine: chosen by arithmetic, settled by the engine, explained.

Knows nothing of files, processes, or what is done with a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from llmrun.engine.protocol import Usage
from llmrun.errors import EngineError, UsageError, WorkerDiedError
from llmrun.hardware.device import Device
from llmrun.memory.context import context_shape
from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.memory.placement import Placement, place_layers
from llmrun.memory.weights import may_repack
from llmrun.planning.better import next_better, runners_up
from llmrun.planning.choose import Choice, Ground, choose
from llmrun.planning.failure import Failure, room_after
from llmrun.planning.forecast import Forecast, Source, context_table
from llmrun.planning.lasting import Lasting, lasting_of
from llmrun.planning.lent import in_words, whose
from llmrun.planning.nearest import does_not_fit, refusal_of
from llmrun.planning.offer import Offer
from llmrun.planning.plan import OWN_LAYERS, Plan, PlannedDraft, PlanWish
from llmrun.planning.plan_file import SavedPlan
from llmrun.planning.policy import POLICIES, Step
from llmrun.planning.pools import Pool, Reserve, make_pools
from llmrun.planning.reasons import reasons_of
from llmrun.planning.room import Room, make_room
from llmrun.planning.speed import Speed
from llmrun.planning.step_down import Kind, step_down
from llmrun.settings import DEFAULT_DRAFT, MTP, Constraints, RunSettings
from llmrun.site import Site
from llmrun.speeds import Speeds
from llmrun.stock import Stocked
from llmrun.units import format_bytes

_LEAST_CONTEXT = 512  # tokens
_MOST_CORRECTIONS = 6  # of the arithmetic by the engine; the first one has nearly always been enough


class Planner:
    """Plans with a stock of variants on a site."""

    def __init__(
        self,
        stock: Sequence[Stocked],
        site: Site,
        speeds: Speeds,
        constraints: Constraints,
        wish: PlanWish,
    ) -> None:
        self._stock = {one.offer.quant: one for one in stock}
        self._site = site
        self._speeds = speeds
        self._wish = wish
        self._policy = POLICIES[wish.prefer]
        self.reserve: Reserve = site.reserve(wish.reserve_host, wish.reserve_device)
        self._failed: set[str] = set()
        own = constraints.n_threads
        self._ground = Ground(
            tuple(device.id for device in site.devices),
            make_room(site.memory.available, site.devices, self.reserve),
            constraints,
            wish.allow_disk,
            RunSettings(
                n_threads=own or site.threads.decode,
                n_threads_batch=own or site.threads.batch,
                n_draft_max=_n_draft_max(stock, constraints),
                loras=constraints.loras,
                projector=constraints.projector,
                draft=constraints.draft,
            ),
            max((one.footprints.least_batch for one in stock), default=0),
            wish.slots,
            wish.outputs,
            wish.tuned,
        )

    def choice(self) -> Choice | None:
        """Return what would be chosen by arithmetic alone, None where nothing fits."""
        return choose([one.offer for one in self._stock.values()], self._ground, self._policy)

    def decode(self, choice: Choice) -> float | None:
        """Return the predicted tokens a second of writing, None where that is unknown."""
        speed = self._speed(choice, self._stock[choice.offer.quant])
        return None if speed is None else speed.decode

    def variant(self, plan: Plan) -> Stocked:
        """Return the variant of a plan."""
        return self._stock[plan.quant]

    def recorder(self, plan: Plan) -> Callable[[Usage], None]:
        """Return what remembers how fast an answer was beside what was predicted for it."""
        work, settings = self.variant(plan).work, plan.settings
        if work is None:
            return lambda _: None
        placement, devices = self._placed(settings, self.variant(plan).offer.sizes.n_layer)
        return lambda usage: self._speeds.record(work, settings, placement, devices, usage)

    def _devices(self, settings: RunSettings) -> list[Device]:
        """Return the devices of settings, in their order: a saved plan may have another than the machine."""
        by_id = {device.id: device for device in self._site.devices}
        return [by_id[name] for name in settings.devices or ()]

    def _placed(self, settings: RunSettings, n_layer: int) -> tuple[Placement, list[Device]]:
        devices = self._devices(settings)
        split = settings.tensor_split or (1.0,) * len(devices)
        return place_layers(n_layer, settings.n_gpu_layers, split), devices

    def plan(self) -> Plan:
        """Return the plan; raises InsufficientMemoryError with the nearest that works, EngineError for --exact."""
        choice, source, offers = self._settled(self._ground)
        if choice is None:
            self._let_the_engine_refuse(offers, source)
            troubles = (stocked.footprints.trouble for stocked in self._stock.values())
            died = next((trouble for trouble in troubles if isinstance(trouble, WorkerDiedError)), None)
            # what it died of is no want of memory
            raise died or refusal_of(offers, self._ground, self._policy, self._roomier())
        return self._plan_of(choice, source, offers)

    def _roomier(self) -> dict[str, Room]:
        """Return the room there would be with the usual reserve, where another was wished for, by what to say of it."""
        site, host, device = self._site, self._wish.reserve_host, self._wish.reserve_device
        found = {}
        if host is not None:
            usual = site.reserve(None, device)
            said = f"a smaller --reserve fits; left out, it is {format_bytes(usual.host)}"
            found[said] = make_room(site.memory.available, site.devices, usual)
        if device is not None:
            usual = site.reserve(host, None)
            said = f"a smaller --device-reserve fits; left out, it is {format_bytes(usual.device)}"
            found[said] = make_room(site.memory.available, site.devices, usual)
        return found

    def lasting(self, plan: Plan) -> Lasting | None:
        """Return in how much room a plan of `plan` stays the same; None where nobody knows.

        That is where the engine was not asked, or knew better than the arithmetic what fits.
        """
        choice = self.choice()
        if choice is None or plan.forecast.source != "engine":
            return None
        if (choice.offer.quant, choice.settings) != (plan.quant, plan.settings):
            return None
        host, *devices = (pool.used for pool in plan.forecast.pools)
        offers = [one.offer for one in self._stock.values()]
        return lasting_of(choice, Footprint(host, tuple(devices)), offers, self._ground, self._policy)

    def _let_the_engine_refuse(self, offers: Sequence[Offer], source: Source) -> None:
        """Raise what the engine says of the model, where it takes none of the variants with the least settings.

        source: who said last that nothing fits.
        """
        least = replace(self._ground.base, n_ctx=_LEAST_CONTEXT, devices=(), n_gpu_layers=0)
        if self._site.here and (source == "engine" or all(offer.footprint(least) is None for offer in offers)):
            for one in self._stock.values():
                one.footprints.exact(least)

    def replayed(self, saved: SavedPlan) -> Plan:
        """Return a saved plan as it is; raises UsageError for another model's, InsufficientMemoryError without room."""
        stocked = self._stock.get(saved.quant)
        if stocked is None or stocked.variant.size != saved.size:
            known = ", ".join(f"{one.offer.quant} of {one.variant.size:,} bytes" for one in self._stock.values())
            raise UsageError(f"the plan is for {saved.quant} of {saved.size:,} bytes; here is {known}")
        if missing := [name for name in saved.settings.devices or () if name not in self._ground.names]:
            raise UsageError(
                f"the plan is for a device {missing[0]}, which is not here", "`llmrun plan MODEL` makes one"
            )
        # a layout that this processor does not have changes nothing, and one that breaks the engine nobody wants
        repack = saved.settings.repack and may_repack(stocked.header, self._site.layouts)
        settings = replace(saved.settings, repack=repack)
        footprint = stocked.offer.footprint(settings)
        if footprint is None:
            raise UsageError("the engine refuses the settings of the plan", "`llmrun plan MODEL` makes one")
        choice = Choice(stocked.offer, settings, footprint, Step("as the plan says"))
        told, source = self._ask(choice)
        plan = self._plan_of(choice if told is None else replace(choice, footprint=told), source, (stocked.offer,))
        if plan.forecast.fits:
            return plan
        if not self._wish.allow_disk:
            raise does_not_fit(plan.forecast)
        return replace(plan, from_disk=True)

    def after(self, plan: Plan, failure: Failure, exhausted: Collection[Kind] = ()) -> tuple[Kind, Plan] | None:
        """Return the plan to try after one failed to load, and what there is less of in it; None where none is left."""
        settings = plan.settings
        failed = next(pool for pool in plan.forecast.pools if pool.id == failure.pool)
        # what devices take of the host's memory is held against the host's room too
        planned = replace(failed.used, overhead=failed.used.overhead + failed.shared)
        self._ground = replace(
            self._ground,
            room=room_after(
                *(self._ground.room, self._ground.names, failure, planned), again=failure.pool in self._failed
            ),
        )
        self._failed.add(failure.pool)
        offers = [one.offer for one in self._stock.values()]
        offer = self._stock[plan.quant].offer
        found = step_down(offer, settings, offers, self._ground, exhausted)
        if found is None:
            return None
        kind, choice = found
        return kind, self._plan_of(choice, "arithmetic", tuple(offers))

    def _settled(self, ground: Ground) -> tuple[Choice | None, Source, tuple[Offer, ...]]:
        """Choose, and ask the engine about the choice; where it knows better, choose again with what it said."""
        offers = [one.offer for one in self._stock.values()]
        for _ in range(_MOST_CORRECTIONS):
            choice = choose(offers, ground, self._policy)
            if choice is None:
                return None, "arithmetic", tuple(offers)
            footprint, source = self._ask(choice)
            if source == "arithmetic":
                return choice, source, tuple(offers)
            room = self._room_for(choice.settings, ground.room)
            if footprint is not None and replace(room, from_disk=choice.from_disk).holds(footprint):
                return replace(choice, footprint=footprint), source, tuple(offers)
            place = next(index for index, offer in enumerate(offers) if offer.quant == choice.offer.quant)
            offers[place] = _corrected(offers[place], choice, footprint)
        return None, "engine", tuple(offers)

    def _ask(self, choice: Choice) -> tuple[Footprint | None, Source]:
        """Return what a choice takes, None where the engine refuses it, and who said so."""
        if self._wish.source == "arithmetic" or not self._site.here:
            return choice.footprint, "arithmetic"
        footprints = self._stock[choice.offer.quant].footprints
        if self._wish.source == "engine":
            exact = footprints.exact(choice.settings)
            if exact is None:
                raise footprints.trouble or EngineError("the engine could not be asked")
            return exact, "engine"
        answer = footprints.settled(choice.settings)
        if answer is None:
            return None, "engine"
        return answer.footprint, answer.source

    def _room_for(self, settings: RunSettings, room: Room) -> Room:
        return room.only([self._ground.names.index(name) for name in settings.devices or ()])

    def _plan_of(self, choice: Choice, source: Source, offers: tuple[Offer, ...]) -> Plan:
        stocked = self._stock[choice.offer.quant]
        speed = self._speed(choice, stocked)
        work = stocked.work if self._site.here else None
        draft = _planned_draft(choice.settings, source, stocked)
        forecast = self._forecast(choice, source, stocked)
        owner = whose(forecast.pools[1:] or self._site.devices)
        return Plan(
            quant=choice.offer.quant,
            loss=choice.offer.loss,
            prefer=self._wish.prefer,
            why=in_words(choice.step.why, owner),
            where=choice.row.where,
            forecast=forecast,
            speed=speed,
            measured=work is not None and self._speeds.is_measured(work, choice.settings),
            reasons=reasons_of(
                *(choice, self._ground, self._policy, self._site.threads.reason),
                only_variant=len(self._stock) == 1,
                adapters=stocked.footprints.adapter_bytes,
                draft=draft,
                owner=owner,
            ),
            better=next_better(choice, offers, self._ground, self._policy),
            runners_up=runners_up(choice, offers, self._ground, self._policy),
            from_disk=choice.from_disk,
            draft=draft,
            owner=owner,
        )

    def _speed(self, choice: Choice, stocked: Stocked) -> Speed | None:
        if stocked.work is None:
            return None
        placement, devices = self._placed(choice.settings, choice.offer.sizes.n_layer)
        return self._speeds.predict(stocked.work, choice.settings, placement, devices)

    def _forecast(self, choice: Choice, source: Source, stocked: Stocked) -> Forecast:
        settings, n_ctx_train = choice.settings, choice.offer.n_ctx_train
        arithmetic = stocked.footprints.arithmetic(settings)
        trouble = stocked.footprints.trouble if self._site.here else None

        def answer(changed: RunSettings) -> tuple[Footprint, Source] | None:
            if source == "engine":
                found = stocked.footprints.best(changed)
                return None if found is None else (found.footprint, found.source)
            calculated = choice.offer.footprint(changed)
            return None if calculated is None else (calculated, "arithmetic")

        return Forecast(
            settings=settings,
            pools=self.pools(settings, choice.footprint),
            source=source,
            arithmetic=None if arithmetic is None else arithmetic.total,
            engine_trouble=None if trouble is None else trouble.message,
            n_ctx=context_shape(settings, n_ctx_train).n_ctx,
            n_layer=choice.offer.sizes.n_layer,
            n_ctx_train=n_ctx_train,
            contexts=context_table(settings, n_ctx_train, lambda taken: self.pools(settings, taken), answer),
        )

    def pools(self, settings: RunSettings, footprint: Footprint) -> tuple[Pool, ...]:
        """Return what a footprint takes of each pool of this machine, the devices those of the settings."""
        memory = self._site.memory
        devices = self._devices(settings)
        return make_pools(footprint, memory.total, memory.available, devices, self.reserve)


def _corrected(offer: Offer, choice: Choice, told: Footprint | None) -> Offer:
    """Return an offer that knows what the engine told about one of its settings; None is that they are refused."""
    refused = choice.settings
    if told is None:

        def without(settings: RunSettings) -> Footprint | None:
            return None if settings == refused else offer.footprint(settings)

        return replace(offer, footprint=without)
    host = max(0, told.host.total - choice.footprint.host.total)
    pairs = zip(told.devices, choice.footprint.devices, strict=True)
    device = max((max(0, said.total - thought.total) for said, thought in pairs), default=0)
    return replace(offer, footprint=_with_more(offer.footprint, host, device))


def _with_more(
    ask: Callable[[RunSettings], Footprint | None], host: int, device: int
) -> Callable[[RunSettings], Footprint | None]:
    """Return what asks the same and adds so many bytes to what there is to compute in."""

    def more(used: MemoryBreakdown, size: int) -> MemoryBreakdown:
        return replace(used, compute=used.compute + size)

    def corrected(settings: RunSettings) -> Footprint | None:
        found = ask(settings)
        if found is None:
            return None
        return Footprint(more(found.host, host), tuple(more(used, device) for used in found.devices))

    return corrected


def _planned_draft(settings: RunSettings, source: Source, stocked: Stocked) -> PlannedDraft | None:
    """Return the draft that is loaded with these settings, None where none is. source: who told the footprint."""
    draft, taken = stocked.draft, stocked.footprints.of_draft(settings, source)
    if taken is None:
        return None
    if settings.draft == MTP:
        size = stocked.footprints.n_draft_bytes
        return PlannedDraft(MTP, OWN_LAYERS, stocked.variant.quant, size, "as the model", (taken.host, *taken.devices))
    if draft is None:
        return None
    size = draft.variant.size
    return PlannedDraft(draft.asked, draft.name, draft.variant.quant, size, draft.why, (taken.host, *taken.devices))


def _n_draft_max(stock: Sequence[Stocked], constraints: Constraints) -> int:
    """Return how many tokens may be guessed at once: none where the model could not forget those that were wrong."""
    if constraints.n_draft_max is not None:
        return constraints.n_draft_max
    return 0 if any(one.footprints.has_state for one in stock) else DEFAULT_DRAFT
