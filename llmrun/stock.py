"""A model's variants as they lie here, and as offers to the planner: each asked for what it takes and how fast it is.

Knows nothing of what is chosen among them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engine.standby import Standby
from llmrun.errors import UnknownArchitectureError
from llmrun.footprints import Footprints
from llmrun.gguf.adapter import Adapter
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.summary import ModelSummary, summarize
from llmrun.memory.estimate import vocabulary_counts
from llmrun.memory.footprint import Footprint
from llmrun.memory.weights import may_repack
from llmrun.planning.offer import Offer
from llmrun.planning.pace import Pace
from llmrun.planning.quality import loss_of
from llmrun.planning.rates import Rates
from llmrun.planning.repacking import repacking_pays, repacking_pays_together
from llmrun.planning.sizes import LayerSizes, layer_sizes, tensor_sizes
from llmrun.planning.work import ModelWork, model_work
from llmrun.projectors import Sight
from llmrun.settings import RunSettings
from llmrun.site import Site
from llmrun.speeds import Speeds
from llmrun.variant import Variant

if TYPE_CHECKING:
    from llmrun.drafts import Draft

Decode = Callable[[RunSettings], float | None]


@dataclass(frozen=True, slots=True)
class Guesser:
    """A draft on one machine: which it is, and whom to ask what it takes."""

    draft: Draft
    footprints: Footprints


@dataclass(frozen=True, slots=True)
class Beside:
    """What a model is run with besides itself, made for it."""

    adapters: tuple[Adapter, ...] = ()
    sight: Sight | None = None
    guesser: Guesser | None = None


@dataclass(frozen=True, slots=True)
class Stocked:
    """A variant that is here: what its file says, whom to ask about it, and it as an offer.

    work: None where nobody knows what its layers do. draft: the model that guesses for it, None is none.
    """

    variant: Variant
    header: GGUFHeader
    summary: ModelSummary
    footprints: Footprints
    work: ModelWork | None
    offer: Offer
    draft: Draft | None = None


def stocked(
    variant: Variant,
    header: GGUFHeader,
    site: Site,
    speeds: Speeds,
    standby: Standby | None = None,
    answers: Path | None = None,
    beside: Beside = Beside(),
) -> Stocked:
    """Return a variant as it can be planned with. standby: whom to ask, None is the arithmetic alone.

    answers: a folder in which what was asked is remembered.
    """
    summary, guesser = summarize(header), beside.guesser
    own = None if guesser is None else guesser.footprints
    footprints = Footprints(header, site.machine, standby, answers, beside.adapters, beside.sight, own)
    work, sizes = _work(header, footprints, site), _sizes(header, footprints)
    repackable = may_repack(header, site.layouts)
    offer = Offer(
        quant=variant.quant,
        # where the file's name tells no label, the file itself does
        loss=loss_of(variant.label or summary.quant, summary.bpw, header.architecture),
        bpw=summary.bpw,
        n_ctx_train=header.uint(header.arch("context_length")),
        sizes=sizes,
        footprint=_asked(footprints),
        decode=_decode(work, sizes.n_layer, site, speeds),
        repacks=repackable and work is not None and _repacks(work, site, speeds),
        repacks_together=repackable and work is not None and repacking_pays_together(work, site.layouts),
        tunings=() if work is None else speeds.tunings(work, site.devices),
    )
    return Stocked(variant, header, summary, footprints, work, offer, None if guesser is None else guesser.draft)


def _work(header: GGUFHeader, footprints: Footprints, site: Site) -> ModelWork | None:
    try:
        work = model_work(header)
    except UnknownArchitectureError:
        return None
    with contextlib.suppress(UnknownArchitectureError):
        if any(device.lender is not None for device in site.devices):
            return replace(work, graph=footprints.estimator.graph)
    return work


def _sizes(header: GGUFHeader, footprints: Footprints) -> LayerSizes:
    try:
        return layer_sizes(footprints.estimator.shape, vocabulary_counts(header), len(header.tensors))
    except UnknownArchitectureError:
        return tensor_sizes(header)


def _asked(footprints: Footprints) -> Callable[[RunSettings], Footprint | None]:
    """Return what to ask for thousands of settings: the arithmetic, or the engine about a model that is not known."""
    known: dict[RunSettings, Footprint | None] = {}

    def ask(settings: RunSettings) -> Footprint | None:
        if settings not in known:
            found = footprints.arithmetic(settings)
            if found is None and (answer := footprints.settled(settings)) is not None:
                found = answer.footprint
            known[settings] = found
        return known[settings]

    return ask


def _decode(work: ModelWork | None, n_layer: int, site: Site, speeds: Speeds) -> Decode:
    if work is None:
        return lambda _: None
    paces: dict[bool, Pace] = {}

    def decode(settings: RunSettings) -> float | None:
        threads = _with_threads(settings, site)
        if settings.repack not in paces:
            devices = {device.id: speeds.device_rates(device) for device in site.devices}
            lenders = {device.id: device.lender for device in site.devices if device.lender is not None}
            paces[settings.repack] = Pace(work, n_layer, speeds.host_rates(threads), devices, lenders)
        return paces[settings.repack].decode(settings)

    return decode


def _with_threads(settings: RunSettings, site: Site) -> RunSettings:
    return replace(settings, n_threads=site.threads.decode, n_threads_batch=site.threads.batch, devices=())


def _repacks(work: ModelWork, site: Site, speeds: Speeds) -> bool:
    plain, repacked = (_with_threads(RunSettings(repack=repack), site) for repack in (False, True))
    types = {product.type for product in work.products()} & set(site.layouts)
    known = [speeds.known(way).matrices for way in (plain, repacked)]
    if not types or not all(types <= set(matrices) for matrices in known):
        return bool(types) and repacking_pays(work, plain, None, None, site.layouts)
    as_is = speeds.host_rates(plain)
    changed = Rates(matrices={name: known[1][name] for name in types})
    return repacking_pays(work, plain, as_is, as_is.merged(changed), site.layouts)
