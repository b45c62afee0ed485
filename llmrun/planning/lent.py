"""What of a plan goes to machines that lend devices: layers, bytes of weights, and how long those take. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmrun.hardware.device import Device, Lender
from llmrun.memory.placement import place_layers
from llmrun.planning.forecast import Forecast
from llmrun.planning.plan import Whose
from llmrun.planning.pools import Pool


@dataclass(frozen=True, slots=True)
class LentPart:
    """A device of another machine, and what it gets.

    device: as settings name it. layers: their numbers from 0 on, neighbours. output: whether the output is there too.
    weights: bytes that are sent; seconds: that this takes the first time. Where the lender keeps them it is the last.
    """

    device: str
    lender: Lender
    layers: Sequence[int]
    output: bool
    weights: int
    seconds: float


def lent_parts(forecast: Forecast) -> tuple[LentPart, ...]:
    """Return what of a plan other machines get, in the order of its devices; those that get nothing are left out."""
    _, *pools = forecast.pools
    split = forecast.settings.tensor_split or (1.0,) * len(pools)
    placement = place_layers(forecast.n_layer, forecast.settings.n_gpu_layers, split)
    parts = []
    for index, pool in enumerate(pools):
        layers = tuple(number for number, place in enumerate(placement.layers) if place == index)
        if pool.lender is not None and (layers or placement.output == index):
            weights = pool.used.weights
            seconds = pool.lender.link.seconds(weights, 0, 0)
            parts.append(LentPart(pool.id, pool.lender, layers, placement.output == index, weights, seconds))
    return tuple(parts)


def whose(devices: Iterable[Device | Pool]) -> Whose:
    """Return whose devices these are; without any they would be one's own."""
    lent = [device.lender is not None for device in devices]
    return "own" if not any(lent) else "lent" if all(lent) else "both"


def in_words(text: str, owner: Whose) -> str:
    """Return a text of a step or a reason, which speaks of the GPU, for the devices that there are."""
    return text.replace("the GPU", {"own": "the GPU", "lent": "other machines", "both": "devices"}[owner])
