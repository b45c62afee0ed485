"""One variant of a model as the planner sees it: what it loses, and whom to ask what it takes and how fast it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmrun.memory.footprint import Footprint
from llmrun.planning.sizes import LayerSizes
from llmrun.planning.tuning import Tuning
from llmrun.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Offer:
    """A quantization that could be run.

    quant: its label, each once among a model's. loss: nats, see llmrun.planning.quality. bpw: bits per weight.
    footprint: what it takes, devices in the settings' order; None for settings that are refused, or that nobody knows
    the answer for. decode: predicted tokens a second, None where that is unknown. repacks: whether weights in the
    CPU's own layout are worth their memory here; repacks_together: are faster where several conversations are written
    at once. tunings: what was measured here to be faster than the defaults.
    """

    quant: str
    loss: float
    bpw: float
    n_ctx_train: int
    sizes: LayerSizes
    footprint: Callable[[RunSettings], Footprint | None]
    decode: Callable[[RunSettings], float | None]
    repacks: bool = False
    repacks_together: bool = False
    tunings: tuple[Tuning, ...] = ()
