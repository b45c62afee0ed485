"""From a model, a batch and a placement to the size of each backend's compute buffer.

A graph is built once for all lengths of context, which costs milliseconds; a length then costs a fraction of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from llmrun.memory.graph.allocator import ALIGNMENT, Lifetimes, peaks
from llmrun.memory.graph.builder import Builder
from llmrun.memory.graph.scheduler import assign, schedule
from llmrun.memory.graph.shape import CELL_BITS, Batch, ComputeShape, PlacedLayer

Build = Callable[[Builder], None]
# Of layers that repeat themselves so many are simulated, in units of up to _LONGEST: then the allocator's free blocks
# nearly always repeat themselves too. In 2 of 4,000 settings of 40 models it made a difference, of 0.6 % and 4.2 %.
_KEPT, _LONGEST = 8, 12


@dataclass(frozen=True, slots=True)
class Question:
    """What a graph's structure depends on. output: its backend; host: the number of devices.

    probes: flash attention is only used if every layer would compute it where its weights are. n_copies, ships:
    see schedule.
    """

    batch: Batch
    layers: tuple[PlacedLayer, ...]
    output: int
    host: int
    probes: bool
    n_copies: int = 1
    ships: bool = False


@dataclass(frozen=True, slots=True)
class _Plan:
    """Pools of the slots; their sizes as numbers, and as factors of each number of cells; their events."""

    pools: tuple[int, ...]
    sizes: tuple[tuple[int, int, int], ...]
    events: tuple[int, ...]


@lru_cache(maxsize=4096)
def buffer_sizes(model: ComputeShape, build: Build, question: Question, n_kv: int, n_kv_window: int) -> tuple[int, ...]:
    """Return the bytes of each backend's compute buffer, devices first."""
    plan = _plan(model, build, question)
    rounding = ALIGNMENT - 1
    sizes = [
        (fixed + per_cell * n_kv + per_window * n_kv_window + rounding) & ~rounding
        for fixed, per_cell, per_window in plan.sizes
    ]
    return peaks(plan.pools, sizes, plan.events, question.host + 1)


@lru_cache(maxsize=256)
def _plan(model: ComputeShape, build: Build, question: Question) -> _Plan:
    batch = question.batch
    if question.probes and not _fuses(model, build, question):
        batch = batch.without_flash_attention()
    builder = Builder(model, batch, question.layers, question.output, question.host)
    build(builder)
    return _read(schedule(builder.graph, question.host, question.n_copies, ships=question.ships))


def _fuses(model: ComputeShape, build: Build, question: Question) -> bool:
    """Whether flash attention stays on when llama.cpp decides (llama-context.cpp, resolve_fused_ops)."""
    builder = Builder(model, question.batch.probe(), question.layers, question.output, question.host)
    build(builder)
    assign(builder.graph, question.host, ships=question.ships)
    return all(tensor.backend == backend for tensor, backend in builder.attentions)


def _read(found: Lifetimes) -> _Plan:
    return _Plan(
        pools=tuple(slot.pool for slot in found.slots),
        sizes=tuple(factors(slot.size) for slot in found.slots),
        events=found.events,
    )


def factors(size: int) -> tuple[int, int, int]:
    """Return what of a size does not depend on the numbers of cells, and how it grows with each (shape.CELL_BITS)."""
    rest, fixed = _last_factor(size)
    per_window, per_cell = _last_factor(rest)
    return fixed, per_cell, per_window


def _last_factor(size: int) -> tuple[int, int]:
    """A factor may be negative: a view can end before the last row does."""
    half = 1 << CELL_BITS - 1
    rest = (size + half) >> CELL_BITS
    return rest, size - (rest << CELL_BITS)


def collapse(layers: tuple[PlacedLayer, ...]) -> tuple[PlacedLayer, ...]:
    """Return layers with repetitions shortened to _KEPT layers, and to no less than two units."""
    while True:
        shorter = _collapsed_once(layers)
        if len(shorter) == len(layers):
            return layers
        layers = shorter


def _collapsed_once(layers: tuple[PlacedLayer, ...]) -> tuple[PlacedLayer, ...]:
    out: list[PlacedLayer] = []
    start = 0
    while start < len(layers):
        period, count, kept = _repetition(layers, start)
        out.extend(layers[start : start + period] * kept)
        start += period * count
    return tuple(out)


def _repetition(layers: tuple[PlacedLayer, ...], start: int) -> tuple[int, int, int]:
    """Return the shortest unit that is repeated too often from here on, how often, and how often it may be."""
    for period in range(1, min(_LONGEST, (len(layers) - start) // 2) + 1):
        unit = layers[start : start + period]
        kept = max(2, -(-_KEPT // period))
        count = 1
        while layers[start + count * period : start + (count + 1) * period] == unit:
            count += 1
        if count > kept:
            return period, count, kept
    return 1, 1, 1
