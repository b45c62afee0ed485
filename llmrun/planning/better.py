"""What stands before a choice and after it: what would be preferred and lacks something, and the runners-up. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmrun.planning.candidates import considered, rows_of
from llmrun.planning.choose import Choice, Ground, choose
from llmrun.planning.offer import Offer
from llmrun.planning.place import spread
from llmrun.planning.plan import Better, RunnerUp
from llmrun.planning.policy import Policy
from llmrun.settings import RunSettings

_SHORTER = (16384, 8192, 4096, 2048)
MOST_BETTER, MOST_RUNNERS = 3, 3


def next_better(choice: Choice, offers: Sequence[Offer], ground: Ground, policy: Policy) -> tuple[Better, ...]:
    """Return what would be preferred, the nearest first: the same variant on more of the GPU, then better ones."""
    found = list(_same_but_all_on_devices(choice, ground))
    before = [offer for offer in considered(offers, policy) if offer.loss < choice.offer.loss]
    for offer in reversed(before):
        found += _of(offer, choice, ground)
    return tuple(found[:MOST_BETTER])


def _same_but_all_on_devices(choice: Choice, ground: Ground) -> Iterator[Better]:
    if ground.names and choice.row.where != "devices" and ground.constraints.n_gpu_layers is None:
        yield from _of(choice.offer, choice, ground)


def _of(offer: Offer, choice: Choice, ground: Ground) -> Iterator[Better]:
    """Yield what a variant lacks in its best placement, with the choice's context and KV type."""
    row = rows_of(offer, ground.constraints, len(ground.names), each_batch=False)[0]
    settings = replace(
        choice.settings,
        n_gpu_layers=row.n_gpu_layers,
        cpu_experts=0,
        devices=ground.names if row.n_gpu_layers else (),
        tensor_split=None,
        repack=False,
    )
    footprint = offer.footprint(settings)
    if footprint is None:
        return
    pools = ("host", *settings.devices) if settings.devices else ("host",)
    room = ground.room if row.n_gpu_layers else ground.room.only(())
    lacking = room.lacking(footprint)
    together = sum(lacking)
    where = max(range(len(lacking)), key=lambda index: lacking[index])
    yield Better(
        offer.quant,
        row.where,
        together,
        pools[where],
        _shorter(offer, settings, ground) if together else None,
        None if together else offer.decode(settings),
    )


def _shorter(offer: Offer, settings: RunSettings, ground: Ground) -> int | None:
    """Return the longest context, shorter than that of the settings, with which the variant fits as placed."""
    if ground.constraints.n_ctx is not None:
        return None
    for n_ctx in _SHORTER:
        if n_ctx * settings.n_seq_max >= (settings.n_ctx or 0):
            continue
        tried = replace(settings, n_ctx=n_ctx * settings.n_seq_max)
        if _fits(offer, tried, ground):
            return n_ctx
    return None


def _fits(offer: Offer, settings: RunSettings, ground: Ground) -> bool:
    if settings.n_gpu_layers:
        reach = offer.sizes.at_least(settings, settings.cpu_experts)
        return spread(settings, ground.names, reach, ground.room, offer.footprint) is not None
    footprint = offer.footprint(settings)
    return footprint is not None and ground.room.only(()).holds(footprint)


def runners_up(choice: Choice, offers: Sequence[Offer], ground: Ground, policy: Policy) -> tuple[RunnerUp, ...]:
    """Return what would be chosen if the variants chosen before were not there."""
    left = [offer for offer in offers if offer.quant != choice.offer.quant]
    found: list[RunnerUp] = []
    while left and len(found) < MOST_RUNNERS:
        other = choose(left, ground, policy)
        if other is None:
            break
        found.append(_runner_up(other))
        left = [offer for offer in left if offer.quant != other.offer.quant]
    return tuple(found)


def _runner_up(choice: Choice) -> RunnerUp:
    settings = choice.settings
    return RunnerUp(
        choice.offer.quant,
        choice.offer.loss,
        choice.row.where,
        settings.n_gpu_layers or 0,
        (settings.n_ctx or 0) // settings.n_seq_max,
        choice.footprint.total,
        choice.offer.decode(settings),
    )
