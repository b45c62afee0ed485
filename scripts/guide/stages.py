"""The stages of training: first which answer a question asks for, then how the answers are written and begin.

Written answers cost most of the time and teach little of which one is asked for, so that is learned first, by the
layers that read, on questions alone; those stay as they are while the others learn to write. Where they went on
learning at a quarter of the rates, with the embedding as output too, they forgot within eight minutes: of dev's
questions 66 % went the right way and no longer 84 %.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from scripts.guide.conversations import Mix
from scripts.guide.muon import Muon
from scripts.guide.network import Network
from scripts.guide.words import learned

WARM_UP_STEPS = 30
FLOOR = 0.02
SLOW = 0.03  # of the rates, for what was learned before: at the full ones it was lost sooner than anything was won

Mapping = Callable[[Callable[[Tensor], Tensor], Iterable[Tensor]], Iterator[Tensor]]


@dataclass(frozen=True, slots=True)
class Stage:
    """share: of the time. rates: at their highest. mix: what is shown.

    writes: whether the layers that write learn, or those that read. begun: how much the first token of an answer
    weighs against the mean of the others.
    """

    name: str
    share: float
    muon_rate: float
    adam_rate: float
    mix: Mix
    writes: bool
    begun: float = 0.25

    def rate(self, used: float, steps: int) -> float:
        """The share of the full rates after a share of this stage's time, and so many of its steps."""
        return min(1.0, (steps + 1) / WARM_UP_STEPS) * max(FLOOR, 1 - used)


STAGES = (
    Stage("routing", 0.40, 0.004, 3e-4, Mix(0.79), writes=False),
    # after 40 minutes with a fifth of sums 99.97 % of the facts' tokens were right, and 70 % of the sums
    Stage("writing", 0.54, 0.015, 1.5e-3, Mix(0.5, 0.4), writes=True),
    Stage("beginning", 0.06, 0.002, 2e-4, Mix(0.5, 0.4), writes=True, begun=1.0),
)


class Optimizers:
    """Muon for the matrices of the layers that learn, AdamW for the rest; a stage has its own."""

    def __init__(self, network: Network, stage: Stage, mapping: Mapping) -> None:
        layers = network.writing_layers if stage.writes else network.reading_layers
        others = (network.norm, network.output) if stage.writes else (network.embedding, network.router)
        more = chain.from_iterable(part.parameters() for part in others if part is not None)
        slow = set() if stage.writes else set(learned(network))
        self._stage = stage
        self._muon = Muon(_groups(_matrices(layers), slow), stage.muon_rate, mapping)
        self._adam = torch.optim.AdamW(_groups([*more, *_norms(layers)], slow), stage.adam_rate, betas=(0.9, 0.98),
                                       weight_decay=0.01)  # fmt: skip
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
                group["lr"] = full * rate * group["speed"]
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])


def _groups(parameters: Iterable[nn.Parameter], slow: Collection[Tensor]) -> list[dict[str, Any]]:
    members: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
    for parameter in parameters:
        members[parameter in slow].append(parameter)
    return [{"params": part, "speed": speed} for part, speed in zip(members, (1.0, SLOW), strict=True) if part]


def _matrices(layers: list[nn.Module]) -> list[nn.Parameter]:
    return [p for p in chain.from_iterable(layer.parameters() for layer in layers) if p.ndim == 2]


def _norms(layers: list[nn.Module]) -> list[nn.Parameter]:
    return [p for p in chain.from_iterable(layer.parameters() for layer in layers) if p.ndim == 1]
