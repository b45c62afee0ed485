"""A plan's chart, drawn: a bar for every pool, and below it bars for every context and KV type."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from llmrun.plots.chart import Free
from llmrun.plots.drawing import (
    INK,
    LACKING,
    LEFT,
    PAPER,
    RIGHT,
    SMALL,
    WIDTH,
    Sheet,
    cut_key,
    head_height,
    lacking_key,
    lacking_look,
    part_keys,
    part_look,
    reserve_look,
    size_axis,
)
from llmrun.plots.plan_chart import ContextBar, PlanChart, PoolBar

_POOL, _AXIS, _LEGEND, _CONTEXTS = 0.62, 0.5, 0.3, 2.7  # inches
_KV_SHADES = ("#0b3c5d", "#5b97c0", "#bcd8ea", "#f7f7f7")  # in the order of the chart's types
_FREE = 0.45  # inches right of the contexts, for the name of the line
_GROUP = 0.84  # of the room of a context that its bars take
_NARROW = 0.36  # inches of a bar below which its number stands upright


def plan_figure(chart: PlanChart) -> Figure:
    """Return the picture of a plan."""
    head, pools = head_height(chart.head), _POOL * len(chart.pools)
    below = head + _LEGEND + pools + _AXIS
    sheet = Sheet(below + 0.45 + _LEGEND + _CONTEXTS + 0.5 if chart.groups else below)
    sheet.head(chart.head)
    names = {part.name for bar in chart.pools for part in bar.parts}
    reserve = any(bar.free is not None for bar in chart.pools)
    sheet.legend(head, part_keys(names, lacking=any(not bar.fits for bar in chart.pools), reserve=reserve))
    _draw_pools(sheet.axes(LEFT, head + _LEGEND, WIDTH - LEFT - RIGHT, pools), chart)
    if chart.groups:
        _draw_contexts(sheet, below + 0.15, chart)
    return sheet.figure


def _draw_pools(axes: Axes, chart: PlanChart) -> None:
    axes.set_ylim(len(chart.pools), 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    size_axis(axes, chart.pool_axis)
    for index, bar in enumerate(chart.pools):
        _draw_pool(axes, index + 0.62, bar)


def _draw_pool(axes: Axes, y: float, bar: PoolBar) -> None:
    color = INK if bar.fits else LACKING
    text = axes.text(0, y - 0.4, bar.label, fontsize=SMALL, va="center_baseline", color=color)
    text.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 0.6})
    if bar.free is not None:
        axes.barh(y, bar.free.size - bar.free.usable, 0.44, left=bar.free.usable, zorder=1.5, **reserve_look())
    left = 0
    for part in bar.parts:
        axes.barh(y, part.size, 0.44, left=left, zorder=2, **part_look(part.name))
        left += part.size
    if bar.free is None:
        return
    if not bar.fits:
        over = max(0, bar.needed - bar.free.usable)
        look = lacking_look() | {"facecolor": "none"}
        axes.barh(y, over, 0.44, left=bar.free.usable, zorder=3, **look)
    axes.plot((bar.free.size,) * 2, (y - 0.25, y + 0.25), color=INK, linewidth=1.6, zorder=4)


def _draw_contexts(sheet: Sheet, top: float, chart: PlanChart) -> None:
    sheet.text(LEFT, top, f"{chart.contexts}, by context and KV type", bold=True)
    keys: list[Patch | Line2D] = [
        Patch(facecolor=shade, edgecolor=INK, linewidth=0.4, label=f"KV type {kv_type}")
        for kv_type, shade in zip(chart.kv_types, _KV_SHADES, strict=False)
    ]
    bars = [bar for group in chart.groups for bar in group.bars if bar is not None]
    if any(not bar.fits for bar in bars):
        keys.append(lacking_key())
    if any(bar.total > chart.context_axis.end for bar in bars):
        keys.append(cut_key())
    sheet.legend(top + 0.15, [*keys])
    left = LEFT + 0.4
    width = WIDTH - left - RIGHT - _FREE
    axes = sheet.axes(left, top + 0.2 + _LEGEND, width, _CONTEXTS)
    n_groups, thick = len(chart.groups), _GROUP / len(chart.kv_types)
    upright = thick * width / n_groups < _NARROW
    _lay_contexts(axes, chart, 1.22 if upright else 1.1)
    for index, group in enumerate(chart.groups):
        for place, bar in enumerate(group.bars):
            if bar is not None:
                x = index - _GROUP / 2 + (place + 0.5) * thick
                _draw_context(axes, (x, thick * 0.92), bar, chart, _KV_SHADES[place], upright=upright)
    if chart.free is not None:
        _draw_free(axes, chart.free, n_groups, within=chart.context_axis.holds(chart.free))


def _lay_contexts(axes: Axes, chart: PlanChart, room: float) -> None:
    """Make the axes of contexts. room: how much higher they are than the highest bar, for its number."""
    axis, n_groups = chart.context_axis, len(chart.groups)
    axes.set_xlim(-0.5, n_groups - 0.5)
    axes.set_ylim(0, axis.end * room)
    axes.set_yticks(axis.ticks, [axis.tick_label(tick) for tick in axis.ticks])
    axes.set_xticks(range(n_groups), [group.label for group in chart.groups])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("context, tokens")
    axes.set_ylabel(f"memory, {axis.unit_name}")
    axes.grid(axis="y")


def _draw_context(
    axes: Axes, at: tuple[float, float], bar: ContextBar, chart: PlanChart, shade: str, *, upright: bool
) -> None:
    (x, thick), height = at, min(bar.total, chart.context_axis.end)
    if bar.fits:
        axes.bar(x, height, thick, color=shade, edgecolor=INK, linewidth=0.4, zorder=2)
    else:
        axes.bar(x, height, thick, zorder=2, **lacking_look())
    number = f"{'~' if bar.about else ''}{chart.context_axis.label(bar.total)}"
    number = number if bar.fits else f"({number})"
    if bar.total > chart.context_axis.end:
        number = f"» {number}"
    if bar.chosen:
        number = f"> {number}"
    text = axes.text(
        x,
        height + 0.012 * chart.context_axis.end,
        number,
        ha="center",
        va="bottom",
        rotation=90 if upright else 0,
        fontsize=SMALL - 0.5,
        fontweight="bold" if bar.chosen else "normal",
        color=INK if bar.fits else LACKING,
        zorder=5,
    )
    text.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.85})


def _draw_free(axes: Axes, free: Free, n_groups: int, *, within: bool) -> None:
    """Draw the line of what is free, and name it beside the bars; where it is far above, only say so."""
    ends, top = (-0.5, n_groups - 0.5), axes.get_ylim()[1]
    if within:
        axes.fill_between(ends, free.usable, free.size, zorder=0.6, **reserve_look())
        axes.plot(ends, (free.size, free.size), color=INK, linewidth=1.4, zorder=3)
    size, name = (free.size, "") if within else (top, ", far\nabove")
    words = f"{free.name.removesuffix(' free')}\nfree{name}"
    axes.text(n_groups - 0.5, size, f" {words}".replace("\n", "\n "), fontsize=SMALL, fontweight="bold", va="center")
