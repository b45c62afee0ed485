"""The chart of all quantizations, drawn: a row for each, with memory, quality and speed beside each other."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llmrun.plots.chart import Free
from llmrun.plots.drawing import (
    CHOSEN,
    INK,
    LACKING,
    LEFT,
    PALE,
    PAPER,
    RIGHT,
    SMALL,
    WIDTH,
    Sheet,
    cut_key,
    free_across,
    head_height,
    lacking_look,
    part_keys,
    part_look,
    size_axis,
)
from llmrun.plots.show_chart import LEAST_LOSS, MOST_LOSS, QuantRow, ShowChart

_ROW, _ABOVE, _BELOW, _LEGEND = 0.2, 0.24, 0.55, 0.2  # inches
_LABELS, _MEMORY, _NUMBERS, _GAP = 1.8, 2.75, 0.55, 0.22
_LOSS = 1.9


def show_figure(chart: ShowChart) -> Figure:
    """Return the picture of all quantizations of a model."""
    head, rows = head_height(chart.head), max(_ROW * len(chart.rows), 2 * _ROW)
    top = head + _LEGEND + _ABOVE
    sheet = Sheet(top + rows + _BELOW)
    sheet.head(chart.head)
    names = {part.name for row in chart.rows if row.fits for part in row.parts}
    lacking = any(not row.fits for row in chart.rows)
    keys = part_keys(names, lacking=lacking, reserve=chart.axis.holds(chart.free))
    if any(row.total is not None and row.total > chart.axis.end for row in chart.rows):
        keys.append(cut_key())
    sheet.legend(head, keys)
    memory, loss = LEFT + _LABELS, LEFT + _LABELS + _MEMORY + _NUMBERS + _GAP
    speed = loss + _LOSS + _GAP
    _mark_chosen(sheet.axes(LEFT - 0.08, top, WIDTH - LEFT - RIGHT + 0.16, rows), chart)
    panels = [
        sheet.axes(memory, top, _MEMORY, rows),
        sheet.axes(loss, top, _LOSS, rows),
        sheet.axes(speed, top, WIDTH - RIGHT - speed, rows),
    ]
    for axes in panels:
        _lay_rows(axes, chart)
    _draw_memory(panels[0], chart)
    _draw_loss(panels[1], chart)
    _draw_speed(panels[2], chart)
    return sheet.figure


def _lay_rows(axes: Axes, chart: ShowChart) -> None:
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    axes.set_yticks([])


def _mark_chosen(axes: Axes, chart: ShowChart) -> None:
    """Colour the row that is meant from end to end, below everything else."""
    _lay_rows(axes, chart)
    axes.set_axis_off()
    axes.set_zorder(-1)
    for index, row in enumerate(chart.rows):
        if row.chosen:
            axes.axhspan(index - 0.5, index + 0.5, color=CHOSEN, linewidth=0)


def _draw_memory(axes: Axes, chart: ShowChart) -> None:
    size_axis(axes, chart.axis)
    for index, row in enumerate(chart.rows):
        _label(axes, index, row)
        _bar(axes, index, row, chart)
    if chart.free is not None:
        if chart.axis.holds(chart.free):
            free_across(axes, chart.free, -0.5, len(chart.rows) - 0.5)
        _name_free(axes, chart.free, chart.axis.end)


def _label(axes: Axes, index: int, row: QuantRow) -> None:
    """Write a row's name and the size of its files, left of the axes."""
    ink, weight = (INK if row.fits else LACKING), ("bold" if row.chosen else "normal")
    look: dict[str, Any] = {"fontsize": SMALL, "va": "center_baseline", "color": ink, "fontweight": weight}
    across = axes.get_yaxis_transform()
    axes.text(-_LABELS / _MEMORY, index, f"{'> ' if row.chosen else ''}{row.label}", transform=across, **look)
    axes.text(-0.03, index, row.size, transform=across, ha="right", **look)


def _bar(axes: Axes, index: int, row: QuantRow, chart: ShowChart) -> None:
    if row.total is None:
        axes.text(0, index, " not known", fontsize=SMALL - 0.5, va="center_baseline", color=PALE)
        return
    left = 0
    for part in row.parts:
        width = min(part.size, chart.axis.end - left)
        look = part_look(part.name) if row.fits else lacking_look()
        axes.barh(index, width, 0.66, left=left, zorder=2, **look)
        left += width
    about = "≈" if row.about else ""
    number = f"{about}{chart.axis.label(row.total)}"
    number = number if row.fits else f"({number})"
    number = f"» {number}" if row.total > chart.axis.end else number
    axes.text(
        1 + _NUMBERS / _MEMORY,
        index,
        number,
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="center_baseline",
        fontsize=SMALL,
        fontweight="bold" if row.chosen else "normal",
        color=INK if row.fits else LACKING,
    )


def _name_free(axes: Axes, free: Free, end: float) -> None:
    """Name the line above the rows, on the side of it where there is room; where it is far to the right, say so."""
    far = free.size > end
    side = "right" if free.size > end / 2 else "left"
    name = f"{free.name}, far to the right" if far else free.name
    axes.text(min(free.size, end), -0.7, name, ha=side, va="bottom", fontsize=SMALL, fontweight="bold")


def _draw_loss(axes: Axes, chart: ShowChart) -> None:
    """Draw what is lost, on a logarithmic axis, each with its word on the side where there is room."""
    axes.set_xscale("log")
    axes.set_xlim(LEAST_LOSS, MOST_LOSS)
    axes.set_xticks((0.001, 0.01, 0.1, 1), ("0.001", "0.01", "0.1", "1"))
    axes.minorticks_off()
    axes.set_xlabel("quality lost, nats (KL divergence)")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    middle = (LEAST_LOSS * MOST_LOSS) ** 0.5
    for index, row in enumerate(chart.rows):
        ink = INK if row.fits else LACKING
        face = ink if row.fits else PAPER
        axes.plot(
            row.loss, index, "o", markersize=5, markerfacecolor=face, markeredgecolor=ink, zorder=3, clip_on=False
        )
        side, x = ("left", row.loss * 1.35) if row.loss < middle else ("right", row.loss / 1.35)
        axes.text(x, index, row.loss_name, ha=side, va="center_baseline", fontsize=SMALL - 1, color=PALE)


def _draw_speed(axes: Axes, chart: ShowChart) -> None:
    fastest = chart.fastest or 1.0
    axes.set_xlim(0, fastest * 2.4)
    if chart.fastest is None:
        axes.set_xticks([])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.set_xlabel("tokens a second")
    axes.grid(axis="x")
    for index, row in enumerate(chart.rows):
        speed = row.decode or 0.0
        if speed:
            axes.barh(index, speed, 0.5, color="#8f8f8f", edgecolor=INK, linewidth=0.4, zorder=2)
        axes.text(
            speed + 0.06 * fastest,
            index,
            _speed_text(row),
            fontsize=SMALL - 0.5,
            va="center_baseline",
            color=INK if row.fits else LACKING,
        )


def _speed_text(row: QuantRow) -> str:
    if row.place is None:
        return "does not fit"
    if row.decode is None:
        return f"not known, {row.place}"
    return f"{row.decode:.1f} {row.place}" if row.decode < 100 else f"{row.decode:,.0f} {row.place}"
