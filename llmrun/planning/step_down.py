"""What to try after settings failed to load: less of one thing at a time, in an order of its own. Pure.

Not the order of a policy: whoever waits for a model that was begun to load wants that model, and soon. So fewer layers
on devices first, then a smaller KV type, then a shorter context, and another variant, run the same way, last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from llmrun.planning.candidates import Row, rows_of
from llmrun.planning.choose import Choice, Ground, fitting
from llmrun.planning.offer import Offer
from llmrun.planning.policy import Step
from llmrun.settings import RunSettings

Kind = Literal["layers", "kv_type", "context", "variant"]
KINDS: tuple[Kind, ...] = ("layers", "kv_type", "context", "variant")

_SMALLER_KV_TYPES = ("f16", "q8_0", "q4_0")
_SHORTEST = 512  # tokens
_STEP = Step("what the machine still takes")


def step_down(
    offer: Offer,
    settings: RunSettings,
    offers: Sequence[Offer],
    ground: Ground,
    exhausted: Collection[Kind] = (),
) -> tuple[Kind, Choice] | None:
    """Return the next settings after these of an offer, and what there is less of; None where nothing is left.

    offers: the variants that are here. ground: with the room that the failure showed. exhausted: what is not to be
    tried any more. What the user fixed is not changed, and there is not more of anything.
    """
    own = ground.constraints
    tries: dict[Kind, Iterator[tuple[Offer, RunSettings]]] = {
        "layers": iter(()) if own.n_gpu_layers is not None else _fewer_layers(offer, settings, ground),
        "kv_type": iter(()) if own.type_kv is not None else _smaller_kv_types(offer, settings, ground),
        "context": iter(()) if own.n_ctx is not None else _shorter_contexts(offer, settings, ground),
        "variant": _smaller_variants(offer, settings, offers, ground),
    }
    for kind, ways in tries.items():
        found = None if kind in exhausted else next(ways, None)
        if found is not None:
            other, tried = found
            footprint = other.footprint(tried)
            assert footprint is not None  # it was held against the room
            return kind, Choice(other, tried, footprint, _STEP)
    return None


def _rows_from(offer: Offer, settings: RunSettings, ground: Ground, skip: int) -> tuple[Row, ...]:
    """Return the placements from that of the settings on, without the first `skip` of them."""
    rows = rows_of(offer, ground.constraints, len(ground.names), each_batch=False)
    places = [(row.n_gpu_layers, row.cpu_experts) for row in rows]
    here = (settings.n_gpu_layers or 0, settings.cpu_experts)
    return rows[places.index(here) + skip :] if here in places else ()


def _fewer_layers(offer: Offer, settings: RunSettings, ground: Ground) -> Iterator[tuple[Offer, RunSettings]]:
    for row in _rows_from(offer, settings, ground, 1):
        found = fitting(row, _placed(row, settings), ground)
        if found is not None:
            yield offer, found


def _placed(row: Row, settings: RunSettings) -> RunSettings:
    on_devices = row.n_gpu_layers > 0
    return replace(
        settings,
        n_gpu_layers=row.n_gpu_layers,
        cpu_experts=row.cpu_experts if on_devices else 0,
        devices=settings.devices if on_devices else (),
        tensor_split=None,
        repack=settings.repack and not on_devices,
    )


def _smaller_kv_types(offer: Offer, settings: RunSettings, ground: Ground) -> Iterator[tuple[Offer, RunSettings]]:
    start = _SMALLER_KV_TYPES.index(settings.type_k) + 1 if settings.type_k in _SMALLER_KV_TYPES else 1
    for name in _SMALLER_KV_TYPES[start:]:
        yield from _anywhere(offer, replace(settings, type_k=name, type_v=name), ground)


def _shorter_contexts(offer: Offer, settings: RunSettings, ground: Ground) -> Iterator[tuple[Offer, RunSettings]]:
    n_ctx = (settings.n_ctx or offer.n_ctx_train) // settings.n_seq_max // 2
    while n_ctx >= _SHORTEST:
        yield from _anywhere(offer, replace(settings, n_ctx=n_ctx * settings.n_seq_max), ground)
        n_ctx //= 2


def _smaller_variants(
    offer: Offer, settings: RunSettings, offers: Sequence[Offer], ground: Ground
) -> Iterator[tuple[Offer, RunSettings]]:
    """Yield smaller variants, the least loss first; the files are all here, so that none is downloaded."""
    smaller = [other for other in offers if other.sizes.total < offer.sizes.total]
    for other in sorted(smaller, key=lambda one: (one.loss, one.sizes.total)):
        repack = settings.repack and other.repacks
        yield from _anywhere(other, replace(settings, repack=repack), ground)


def _anywhere(offer: Offer, settings: RunSettings, ground: Ground) -> Iterator[tuple[Offer, RunSettings]]:
    """Yield the settings in the first placement that fits, no fuller than theirs."""
    for row in _rows_from(offer, settings, ground, 0):
        found = fitting(row, _placed(row, settings), ground)
        if found is not None:
            yield offer, found
            return
