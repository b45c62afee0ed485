"""The two stages of training: first which answer a question asks for, then how the answers are written.

Written answers cost most of the time and teach little of which one is asked for, so that is learned first, in a few
layers, on questions alone; those layers then hardly change while the others learn to write. At a quarter of their
rates, and with the embedding as output too, they forgot within eight minutes: of dev's questions 66 % went the right
way and no longer 84 %.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from scripts.guide.muon import Muon
from scripts.guide.network import Network

ROUTING_LAYERS = 2
WARM_UP_STEPS = 30
FLOOR = 0.02

Mapping = Callable[[Callable[[Tensor], Tensor], Iterable[Tensor]], Iterator[Tensor]]


@dataclass(frozen=True, slots=True)
class Stage:
    """share: of the time. rates: at their highest. n_layers: that compute. slow: of the rates for the first layers."""

    name: str
    share: float
    muon_rate: float
    adam_rate: float
    n_layers: int
    writes: bool
    slow: float = 1.0

    def rate(self, used: float, steps: int) -> float:
        """The share of the full rates after a share of this stage's time, and so many of its steps."""
        return min(1.0, (steps + 1) / WARM_UP_STEPS) * max(FLOOR, 1 - used)


def stages(n_layers: int) -> tuple[Stage, Stage]:
    """Both, for a network of so many layers."""
    return (
        Stage("routing", 0.4, 0.004, 5e-4, ROUTING_LAYERS, writes=False),
        Stage("writing", 0.6, 0.01, 1e-3, n_layers, writes=True, slow=0.03),
    )


class Optimizers:
    """Muon for the matrices of the layers that compute, AdamW for the rest; a stage has its own."""

    def __init__(self, network: Network, stage: Stage, mapping: Mapping) -> None:
        layers = list(network.layers)[: stage.n_layers]
        first, more = layers[:ROUTING_LAYERS], layers[ROUTING_LAYERS:]
        reading = [parameter for part in (network.embedding, network.router) if part for parameter in part.parameters()]
        writing = [*network.norm.parameters(), *(network.output.parameters() if stage.writes else ())]
        self._stage = stage
        self._muon = Muon([{"params": _matrices(first), "slow": stage.slow},
                           {"params": _matrices(more), "slow": 1.0}], stage.muon_rate, mapping)  # fmt: skip
        self._adam = torch.optim.AdamW([{"params": [*reading, *_norms(first)], "slow": stage.slow},
                                        {"params": [*writing, *_norms(more)], "slow": 1.0}],
                                       stage.adam_rate, betas=(0.9, 0.98), weight_decay=0.01)  # fmt: skip
        self.parameters = [
            parameter
            for optimizer in (self._muon, self._adam)
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    def step(self, rate: float) -> None:
        """Change the parameters by their gradients, at a share of the full rates."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, full in ((self._muon, self._stage.muon_rate), (self._adam, self._stage.adam_rate)):
            for group in optimizer.param_groups:
                group["lr"] = full * rate * group["slow"]
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])


def _matrices(layers: list[nn.Module]) -> list[nn.Parameter]:
    return [p for p in chain.from_iterable(layer.parameters() for layer in layers) if p.ndim == 2]


def _norms(layers: list[nn.Module]) -> list[nn.Parameter]:
    return [p for p in chain.from_iterable(layer.parameters() for layer in layers) if p.ndim == 1]
