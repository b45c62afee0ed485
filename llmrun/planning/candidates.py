"""What could be chosen in a step, best first: variants with placements, before the rest is settled. Pure.

Knows which devices exist, never how much of them is free: that only says, in `planning.choose`, where to stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llmrun.planning.offer import Offer
from llmrun.planning.policy import Policy, Step, Where
from llmrun.settings import Constraints, RunSettings

BATCH_HOST = 128  # tokens a step: as fast as 512 on a CPU, a quarter of the compute buffer (see llmrun.settings)
BATCHES_DEVICE = (512, 128)  # a GPU reads prompts faster in larger steps
# Where conversations share the memory, more of them are preferred to a longer context of each than this, tokens.
LONGEST_SHARED = 16384


@dataclass(frozen=True, slots=True)
class Row:
    """A variant with a placement: so many layers on devices, and the experts of so many on the host.

    batches: sizes of a step to try, the best first.
    """

    offer: Offer
    n_gpu_layers: int
    cpu_experts: int = 0
    batches: tuple[int, ...] = BATCHES_DEVICE

    @property
    def where(self) -> Where:
        """Which of the policy's placements it is."""
        if self.n_gpu_layers == 0:
            return "host"
        if self.n_gpu_layers <= self.offer.sizes.n_layer:
            return "split"
        return "experts" if self.cpu_experts else "devices"


def considered(offers: Sequence[Offer], policy: Policy) -> tuple[Offer, ...]:
    """Return the variants a policy looks at, the least loss first; of equal ones the smaller."""
    bits = policy.most_bits
    within = [offer for offer in offers if bits is None or offer.bpw <= bits] or list(offers)
    return tuple(sorted(within, key=lambda offer: (offer.loss, offer.bpw, offer.quant)))


def rows_of(offer: Offer, constraints: Constraints, n_devices: int, *, each_batch: bool = True) -> tuple[Row, ...]:
    """Return a variant's placements, the best first.

    each_batch: where a part stays on the host all large batches come before all small ones: what stays there is sent to
    a device for each batch of a prompt, and four times as often for small ones, which a layer more there does not make
    good. Else each row has both.
    """
    everything = offer.sizes.n_layer + 1
    fixed = constraints.n_gpu_layers
    most = 0 if n_devices == 0 else everything if fixed is None else min(fixed, everything)
    on_host = Row(offer, 0, batches=(BATCH_HOST,))
    if most == 0:
        return (on_host,)
    with_experts = [index + 1 for index, size in enumerate(offer.sizes.experts) if size]
    first = [Row(offer, most)]
    some_experts = [Row(offer, most, count) for count in with_experts]
    kept = with_experts[-1] if with_experts else 0
    fewer = [Row(offer, count, kept) for count in range(most - 1, 0, -1)] if fixed is None else []
    if most < everything:  # then all of these are splits, and of one kind
        first, some_experts = [], [*first, *some_experts]
    if not each_batch:
        return (*first, *some_experts, *fewer, *([on_host] if fixed is None else []))
    partly = [
        replace(row, batches=(size,)) for rows in (some_experts, fewer) for size in BATCHES_DEVICE for row in rows
    ]
    return (*first, *partly, *([on_host] if fixed is None else []))


def least_settings(
    row: Row, step: Step, constraints: Constraints, names: Sequence[str], base: RunSettings
) -> RunSettings:
    """Return what a row is run with at the least: its step's shortest context, small batches, nothing repacked.

    The KV type is the preferred one. names: of all devices, which are used as far as layers are on any. base: what is
    not chosen here.
    """
    on_devices = row.n_gpu_layers > 0
    parallel = constraints.parallel or 1
    type_kv = kv_types(step, constraints)[0]
    return replace(
        base,
        n_ctx=contexts(step, constraints, row.offer)[-1] * parallel,
        n_seq_max=parallel,
        n_outputs_max=parallel,
        n_ubatch=BATCHES_DEVICE[-1] if on_devices else BATCH_HOST,
        type_k=type_kv,
        type_v=type_kv,
        devices=tuple(names) if on_devices else (),
        n_gpu_layers=row.n_gpu_layers,
        cpu_experts=row.cpu_experts,
    )


def contexts(step: Step, constraints: Constraints, offer: Offer) -> tuple[int, ...]:
    """Return the contexts of a step for a variant, the longest first."""
    return (constraints.n_ctx,) if constraints.n_ctx is not None else step.up_to(offer.n_ctx_train)


def conversations(
    step: Step, constraints: Constraints, offer: Offer, slots: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yield how many conversations at once and the context of each, the best first.

    slots: the numbers to choose from, unless the user fixed one.
    """
    for parallel in slots if constraints.parallel is None else (constraints.parallel,):
        for n_ctx in contexts(step, constraints, offer):
            chosen = parallel == 1 or constraints.n_ctx is not None or constraints.parallel is not None
            if chosen or n_ctx <= LONGEST_SHARED:
                yield parallel, n_ctx


def kv_types(step: Step, constraints: Constraints) -> tuple[str, ...]:
    """Return the KV types of a step, the preferred first."""
    return (constraints.type_kv,) if constraints.type_kv is not None else step.kv_types


def parts(step: Step, offers: Sequence[Offer], constraints: Constraints) -> Iterator[tuple[Step, Sequence[Offer]]]:
    """Yield the step with all offers, or, where contexts come first, a step for each, with the offers that have it."""
    if step.order != "context":
        yield step, offers
        return
    having: dict[int, list[Offer]] = {}
    for offer in offers:
        for n_ctx in contexts(step, constraints, offer):
            having.setdefault(n_ctx, []).append(offer)
    for n_ctx in sorted(having, reverse=True):
        yield replace(step, contexts=(n_ctx,), order="loss"), having[n_ctx]


def rows(step: Step, offer: Offer, constraints: Constraints, n_devices: int) -> Iterator[Row]:
    """Yield what a step has of a variant, by the placement; nothing where it loses too much."""
    if offer.loss <= step.loss.most and contexts(step, constraints, offer):
        found = rows_of(offer, constraints, n_devices, each_batch=step.order != "speed")
        yield from (row for row in found if row.where in step.where)
