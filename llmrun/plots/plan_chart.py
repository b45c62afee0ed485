"""A plan as a picture says it: what it takes of each pool, and what other contexts and KV types would take. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmrun.console import one_line
from llmrun.planning.forecast import ContextRow, Forecast
from llmrun.planning.plan import Plan
from llmrun.planning.pools import Pool
from llmrun.plots.chart import Axis, Free, Part, axis_to, parts_of, reach
from llmrun.units import format_bytes


@dataclass(frozen=True, slots=True)
class PoolBar:
    """What the plan takes of one pool. free: None where nobody knows."""

    label: str
    parts: tuple[Part, ...]
    needed: int
    free: Free | None
    fits: bool


@dataclass(frozen=True, slots=True)
class ContextBar:
    """What one context takes with one KV type. fits: of every pool; about: by arithmetic, in an engine's plan."""

    total: int
    fits: bool
    chosen: bool
    about: bool


@dataclass(frozen=True, slots=True)
class ContextGroup:
    """One context, its bars in the order of the chart's KV types; None where it is refused, or nobody knows."""

    label: str
    bars: tuple[ContextBar | None, ...]


@dataclass(frozen=True, slots=True)
class PlanChart:
    """Everything the picture says. head: its title, and lines below.

    contexts: of what memory the groups tell: of the pool that runs short first, free is what it has, None where nobody
    knows. Bars that are longer than the axis are cut off, their numbers still told.
    """

    head: tuple[str, ...]
    pools: tuple[PoolBar, ...]
    pool_axis: Axis
    contexts: str
    kv_types: tuple[str, ...]
    groups: tuple[ContextGroup, ...]
    free: Free | None
    context_axis: Axis


def plan_chart(head: Sequence[str], plan: Plan) -> PlanChart:
    """Return what a picture of a plan says. head: as chart.head_of makes it."""
    forecast = plan.forecast
    pools = tuple(map(_pool_bar, forecast.pools))
    widest = max(max(bar.needed, 0 if bar.free is None else bar.free.size) for bar in pools)
    short = _short_first(forecast)
    groups = tuple(_group(row, forecast, short) for row in forecast.contexts)
    free = pools[short].free
    totals = [bar.total for group in groups for bar in group.bars if bar is not None]
    name = "the host" if forecast.pools[short].id == "host" else one_line(forecast.pools[short].id)
    return PlanChart(
        head=tuple(head),
        pools=pools,
        pool_axis=axis_to(widest),
        contexts="memory in all" if len(pools) == 1 else f"memory of {name}, which runs short first",
        kv_types=tuple(forecast.contexts[0].cells) if forecast.contexts else (),
        groups=groups,
        free=free,
        context_axis=axis_to(reach(totals, None if free is None else free.size)),
    )


def _short_first(forecast: Forecast) -> int:
    """Return which pool lacks most, or has the least to spare, with any of the contexts and KV types."""
    cells = [cell for row in forecast.contexts for cell in row.cells.values() if cell is not None and cell.needed]

    def spare(index: int) -> float:
        pool = forecast.pools[index]
        if pool.available is None:
            return math.inf
        return pool.available - pool.reserve - max((cell.needed[index] for cell in cells), default=pool.needed)

    return min(range(len(forecast.pools)), key=spare)


def _pool_bar(pool: Pool) -> PoolBar:
    name = "host" if pool.id == "host" else f"{one_line(pool.id)} ({one_line(pool.name)})"
    total = "" if pool.total is None else f" of {format_bytes(pool.total)}"
    free, known = None, "how much is free is not known"
    if pool.available is not None:
        free = Free(pool.available, pool.reserve, f"{format_bytes(pool.available)} free")
        known = f"{format_bytes(pool.available)}{total} is free"
    label = f"{name}: needs {format_bytes(pool.needed)}; {known}"
    return PoolBar(label, parts_of(pool.used, pool.shared), pool.needed, free, pool.fits)


def _group(row: ContextRow, forecast: Forecast, short: int) -> ContextGroup:
    ours = row.n_ctx == forecast.n_ctx_each
    settings = forecast.settings
    bars = (
        cell
        if cell is None
        else ContextBar(
            cell.needed[short] if cell.needed else cell.total,
            cell.fits,
            chosen=ours and kv_type == settings.type_k == settings.type_v,
            about=cell.source != forecast.source,
        )
        for kv_type, cell in row.cells.items()
    )
    return ContextGroup(f"{row.n_ctx:,}", tuple(bars))
