"""What a step of a model costs on the way to other machines: bytes either way, and answers that are waited for. Pure.

Counted in the graph that llama.cpp computes (llmrun.memory.graph.wire): what each split reads from elsewhere crosses to
it, so do masks and positions, and its graph where that is not the one of the step before; logits come back. A graph is
the same until another CELL_STEP of cells is looked at (llama-graph.cpp, can_reuse).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from llmrun.gguf.header import align
from llmrun.hardware.device import Device
from llmrun.memory.context import context_shape
from llmrun.memory.placement import Placement
from llmrun.planning.work import ModelWork
from llmrun.settings import RunSettings

if TYPE_CHECKING:
    from llmrun.memory.graph.shape import ComputeShape
    from llmrun.memory.graph.wire import Crossing

CELL_STEP = 256  # llama-kv-cache.cpp, get_n_kv: cells are looked at in steps of so many
_F32, _F16 = 4, 2  # bytes
# Half widths of the bands around the seconds of a link: as measured links vary, and as those that were not may be
_MEASURED, _USUAL = 0.15, 0.8


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens read at once after n_past others. n_outputs: those whose logits are wanted.

    fresh: the part of such steps whose graph is another than that of the step before. new: whether the engine never
    read so many tokens at once before; 1 and n_ubatch it tries when a model is loaded.
    """

    n_past: int
    n_tokens: int
    n_outputs: int
    fresh: float
    new: bool = False


def one_token(n_past: int) -> Step:
    """Return the step of a token by itself, in the middle of an answer."""
    return Step(n_past, 1, 1, 1 / CELL_STEP)


def batch(n_past: int, n_tokens: int, n_outputs: int) -> Step:
    """Return a step of a prompt, of which all but the last have as many tokens, and no output."""
    begins = n_past < n_tokens or align(n_past + n_tokens, CELL_STEP) != align(n_past, CELL_STEP)
    return Step(n_past, n_tokens, n_outputs, float(begins or n_outputs > 0))


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a step sends to a device and receives from it, bytes; trips: answers that are waited for."""

    sent: float = 0.0
    received: float = 0.0
    trips: float = 0.0


@dataclass(frozen=True, slots=True)
class Lines:
    """A model's layers on devices, of which some are of other machines."""

    work: ModelWork
    settings: RunSettings
    placement: Placement
    devices: Sequence[Device]

    def terms(self, step: Step) -> Iterable[tuple[float, float]]:
        """Yield the seconds of a step on each link, and their uncertainty in seconds."""
        if all(device.lender is None for device in self.devices):
            return
        for device, traffic in zip(self.devices, self.traffic(step), strict=True):
            if device.lender is not None:
                link = device.lender.link
                seconds = link.seconds(traffic.sent, traffic.received, traffic.trips)
                yield seconds, seconds * (_MEASURED if link.measured else _USUAL)

    def traffic(self, step: Step) -> tuple[Traffic, ...]:
        """Return what a step sends to each device and receives from it; nothing of those of this machine."""
        servers = tuple(None if device.lender is None else device.lender.address for device in self.devices)
        shape = self.work.graph
        if shape is None:
            return _roughly(self.work, self.placement, servers, step)
        cells = self._cells(shape, step)
        found = _crossings(shape, self.settings, self.placement, servers, step.n_tokens, step.n_outputs)
        return tuple(_at(crossing, cells, step) for crossing in found)

    def _cells(self, shape: ComputeShape, step: Step) -> tuple[int, int]:
        """Return how many cells a step looks at, and how many in layers with a window."""
        context = context_shape(self.settings, shape.uint("context_length", step.n_past + step.n_tokens))
        seen = align(step.n_past + step.n_tokens, CELL_STEP)
        return min(seen, context.n_ctx_seq), min(seen, context.window_cells(shape.n_swa))


@lru_cache(maxsize=1024)
def _crossings(
    shape: ComputeShape,
    settings: RunSettings,
    placement: Placement,
    servers: tuple[str | None, ...],
    n_tokens: int,
    n_outputs: int,
) -> tuple[Crossing, ...]:
    from llmrun.memory.compute import step_graph  # here, as below: who borrows nothing starts without graphs
    from llmrun.memory.graph.wire import crossings

    splits, result = step_graph(shape, settings, placement, len(servers), n_tokens, n_outputs)
    return crossings(splits, result, (*servers, None))[:-1]


def _at(crossing: Crossing, cells: tuple[int, int], step: Step) -> Traffic:
    """Return a crossing with so many cells."""
    from llmrun.memory.graph.wire import ASK, TOLD

    graphs = step.fresh * crossing.graph + (1 - step.fresh) * crossing.again
    questions = crossing.questions if step.new else 0
    sent = _value(crossing.sent, cells) + graphs + questions * ASK
    return Traffic(sent, _value(crossing.received, cells) + questions * TOLD, crossing.trips + questions)


def _value(size: int, cells: tuple[int, int]) -> int:
    from llmrun.memory.graph.plan import factors

    fixed, per_cell, per_window = factors(size)
    return fixed + per_cell * cells[0] + per_window * cells[1]


def _roughly(work: ModelWork, placement: Placement, servers: Sequence[str | None], step: Step) -> tuple[Traffic, ...]:
    """What crosses to devices where the graph is not known."""
    used = placement.devices()
    return tuple(
        Traffic() if server is None or place not in used else roughly(work, step, ends=placement.output == place)
        for place, server in enumerate(servers)
    )


def roughly(work: ModelWork, step: Step, *, ends: bool) -> Traffic:
    """Return what crosses to a device with neighbouring layers: hidden states and a mask, and what comes of them back.

    ends: the output is there too, of which logits come back.
    """
    hidden = _F32 * step.n_tokens * (work.output[0].columns if work.output else 0)
    mask = _F16 * step.n_tokens * align(step.n_past + step.n_tokens, CELL_STEP)
    return Traffic(hidden + mask, _F32 * work.n_vocab * step.n_outputs if ends else hidden, 1)
