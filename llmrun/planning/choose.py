"""The first settings in a policy's order that fit. Pure: what they take, and how fast they are, is asked of offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from llmrun.memory.footprint import Footprint
from llmrun.planning.candidates import (
    Row,
    considered,
    conversations,
    kv_types,
    least_settings,
    parts,
    rows,
)
from llmrun.planning.offer import Offer
from llmrun.planning.place import spread
from llmrun.planning.policy import Policy, Step
from llmrun.planning.quality import GOOD
from llmrun.planning.room import Room
from llmrun.planning.tuning import Tuning, applied, repacks
from llmrun.settings import Constraints, RunSettings

_FROM_DISK = (
    Step("good, and read from disk again and again", GOOD, contexts=(8192, 4096), order="speed"),
    Step("read from disk again and again", contexts=(8192, 4096, 2048, 1024, 512), order="speed"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen: a variant, how to run it, what that takes, and the step of the policy it came from."""

    offer: Offer
    settings: RunSettings
    footprint: Footprint
    step: Step
    from_disk: bool = False

    @property
    def row(self) -> Row:
        """The variant with its placement."""
        return Row(self.offer, self.settings.n_gpu_layers or 0, self.settings.cpu_experts)


@dataclass(frozen=True, slots=True)
class Ground:
    """What is chosen on: the devices by name, the room of all pools, and what the user fixed.

    allow_disk: whether weights may be more than the memory, if nothing else is to be had. base: settings that are not
    chosen here, as the threads. least_batch: tokens that have to be read at once, as an image's. slots: numbers of
    conversations at once to choose from, the best first. outputs: rows of logits a batch may have at least.
    tuned: whether what was measured to be fastest counts.
    """

    names: tuple[str, ...]
    room: Room
    constraints: Constraints
    allow_disk: bool = False
    base: RunSettings = field(default_factory=RunSettings)
    least_batch: int = 0
    slots: tuple[int, ...] = (1,)
    outputs: int = 1
    tuned: bool = True


def choose(offers: Sequence[Offer], ground: Ground, policy: Policy) -> Choice | None:
    """Return the first that fits in the policy's order, None where nothing does."""
    return next(choices(offers, ground, policy), None)


def choices(offers: Sequence[Offer], ground: Ground, policy: Policy) -> Iterator[Choice]:
    """Yield the choice of every row that fits, best first; a row may come again from a later step."""
    looked_at = considered(offers, policy)
    for step in policy.steps:
        yield from _choices_of(step, looked_at, ground)
    if ground.allow_disk:
        thrifty = replace(ground, room=replace(ground.room, from_disk=True))
        for step in _FROM_DISK:
            yield from (replace(found, from_disk=True) for found in _choices_of(step, looked_at, thrifty))


def _choices_of(step: Step, offers: Sequence[Offer], ground: Ground) -> Iterator[Choice]:
    for part, having in parts(step, offers, ground.constraints):
        for row in _in_order(part, having, ground):
            settings = _settle(row, part, ground)
            if settings is not None:
                footprint = row.offer.footprint(settings)
                assert footprint is not None  # it was held against the room
                yield Choice(row.offer, settings, footprint, step)


def _in_order(step: Step, offers: Sequence[Offer], ground: Ground) -> Iterator[Row]:
    """Yield the rows that are fast enough and might fit, in the step's order."""
    found = (
        row
        for offer in offers
        for row in filter(_may_fit(offer, step, ground), rows(step, offer, ground.constraints, len(ground.names)))
    )
    if step.order == "speed":
        speeds = [(_speed(row, step, ground) or 0.0, row) for row in found]
        return (row for _, row in sorted(speeds, key=lambda pair: -pair[0]))
    return (row for row in found if not step.speed or _is_fast_enough(_speed(row, step, ground), step))


def _is_fast_enough(speed: float | None, step: Step) -> bool:
    return speed is None or speed >= step.speed


def _may_fit(offer: Offer, step: Step, ground: Ground) -> Callable[[Row], bool]:
    """Return what tells of an offer's rows whether they might fit with some KV type, by what is known at once."""
    some = Row(offer, 1 if ground.names else 0)
    least = least_settings(some, step, ground.constraints, ground.names, ground.base)
    ways = [replace(least, type_k=name, type_v=name) for name in kv_types(step, ground.constraints)]
    known: dict[int, list[range]] = {}

    def may(row: Row) -> bool:
        if row.cpu_experts not in known:
            known[row.cpu_experts] = [_within_reach(offer, way, row.cpu_experts, ground.room) for way in ways]
        return any(row.n_gpu_layers in numbers for numbers in known[row.cpu_experts])

    return may


def _speed(row: Row, step: Step, ground: Ground) -> float | None:
    return row.offer.decode(least_settings(row, step, ground.constraints, ground.names, ground.base))


def _settle(row: Row, step: Step, ground: Ground) -> RunSettings | None:
    """Return a row's settings in full, None where it does not fit.

    All are looked at: what is computed in can be less with a longer context or larger batches.
    """
    least = least_settings(row, step, ground.constraints, ground.names, ground.base)
    least = replace(
        least, n_ubatch=max(least.n_ubatch, ground.least_batch), n_batch=max(least.n_batch, ground.least_batch)
    )
    ways = [replace(least, n_ubatch=max(size, ground.least_batch)) for size in row.batches]
    tunings = row.offer.tunings if ground.tuned else ()
    if repacks(row.offer.repacks, tunings) and not row.n_gpu_layers:
        ways.insert(0, replace(least, repack=True))
    options = (
        tuned
        for name in kv_types(step, ground.constraints)
        for way in ways
        for slots, n_ctx in conversations(step, ground.constraints, row.offer, ground.slots)
        for tuned in _tuned(replace(_shared(way, slots, n_ctx, ground), type_k=name, type_v=name), tunings, ground)
    )
    found = next(filter(None, (fitting(row, option, ground) for option in options)), None)
    return None if found is None else _for_many(row, found, ground)


def _for_many(row: Row, settings: RunSettings, ground: Ground) -> RunSettings:
    """Return settings with repacked weights where only conversations at once gain by it, and nothing else is lost."""
    if settings.n_seq_max == 1 or row.n_gpu_layers or settings.repack or not row.offer.repacks_together:
        return settings
    return fitting(row, replace(settings, repack=True), ground) or settings


def _tuned(settings: RunSettings, tunings: Sequence[Tuning], ground: Ground) -> Iterator[RunSettings]:
    """Yield settings as they are fastest here, and after them as they are: what is tuned may take more memory."""
    best = applied(settings, tunings, ground.constraints)
    best = replace(best, n_ubatch=max(best.n_ubatch, ground.least_batch))
    if best != settings:
        yield best
    yield settings


def _shared(settings: RunSettings, slots: int, n_ctx: int, ground: Ground) -> RunSettings:
    """Return settings for so many conversations at once, of so many tokens each."""
    outputs = max(slots, ground.outputs, 1 + settings.n_draft_max)
    return replace(settings, n_ctx=n_ctx * slots, n_seq_max=slots, n_outputs_max=outputs)


def fitting(row: Row, settings: RunSettings, ground: Ground) -> RunSettings | None:
    """Return the settings with devices and split that fit, None where none do."""
    if row.n_gpu_layers not in _within_reach(row.offer, settings, row.cpu_experts, ground.room):
        return None
    if row.n_gpu_layers:
        reach = row.offer.sizes.at_least(settings, row.cpu_experts)
        return spread(replace(settings, tensor_split=None), ground.names, reach, ground.room, row.offer.footprint)
    footprint = row.offer.footprint(settings)
    return settings if footprint is not None and ground.room.only(()).holds(footprint) else None


def _within_reach(offer: Offer, settings: RunSettings, cpu_experts: int, room: Room) -> range:
    """Return with how many layers on devices it might fit, by what is known at once: weights and caches.

    All devices are taken together; what is on one that shares the host's memory is the host's too.
    """
    reach = offer.sizes.at_least(settings, cpu_experts)
    most = reach.most_layers(room.together)
    if room.from_disk:
        return range(most + 1)
    if any(room.unified):
        separate = room.separate
        fits = separate is None or reach.total <= room.host + separate
        return range(most + 1) if fits else range(0)
    return range(reach.fewest_layers(room.host), most + 1)
