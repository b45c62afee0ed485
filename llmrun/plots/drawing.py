"""How pictures look, and a figure as the bytes of a file: the same bytes for the same chart, whoever draws it and when.

Shades of one blue, from dark to light in the order of the parts, so that they differ in grey and for every eye; what
does not fit is hatched and in brackets besides. The background is opaque: a dark page leaves the picture as it is.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from llmrun.plots.chart import Axis, Free

WIDTH = 9.0  # inches; at a README's 880 pixels small type is still eleven pixels high
LEFT, RIGHT = 0.35, 0.3
INK, PALE, GRID, PAPER = "#1b1b1b", "#5a5a5a", "#dcdcdc", "#ffffff"
SHADES = {"weights": "#0b3c5d", "KV cache": "#3f7fae", "compute": "#93bfdc", "overhead": "#cfe2ef", "shared": "#e9e4d4"}
NAMES = {"shared": "devices' share"}
CHOSEN = "#fff3d6"  # behind the row that is meant
LACKING = "#b3410e"  # vermilion, darker: told from blue by every eye, and dark on white
TITLE, TEXT, SMALL = 11.5, 9.0, 8.0  # points
_DPI = 160
_STYLE: dict[Any, Any] = {  # its keys are a type of matplotlib's own, not the same in every version
    "font.family": "sans-serif",
    "font.size": TEXT,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a model's name is a dollar
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.labelsize": SMALL,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "xtick.color": PALE,
    "xtick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "xtick.major.size": 3,
    "ytick.color": PALE,
    "ytick.labelcolor": INK,
    "ytick.labelsize": SMALL,
    "ytick.major.size": 0,
    "svg.fonttype": "none",  # text stays text: to be read aloud, searched and copied
    "svg.hashsalt": "llmrun",
}


def drawn(figure: Callable[[], Figure], kind: Literal["png", "svg"], title: str) -> bytes:
    """Return a figure as the bytes of a file. figure: makes it, in our style; title: for who hears it."""
    with our_style():
        made, file = figure(), io.BytesIO()
        canvas = FigureCanvasSVG(made) if kind == "svg" else FigureCanvasAgg(made)
        unsaid = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        canvas.print_figure(file, format=kind, dpi=_DPI, facecolor=PAPER, metadata={"Title": title, **unsaid})
        return file.getvalue()


@contextlib.contextmanager
def our_style() -> Iterator[None]:
    """Draw as pictures of ours look, whatever the user has set for their own."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the viewer of an SVG may have it
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


class Sheet:
    """A figure that is filled from above in inches, so that no place depends on how wide a letter is."""

    def __init__(self, height: float) -> None:
        self.figure = Figure((WIDTH, height), facecolor=PAPER)
        self._height = height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return axes whose upper left corner is so many inches from the sheet's."""
        bottom = 1 - (top + height) / self._height
        return self.figure.add_axes((left / WIDTH, bottom, width / WIDTH, height / self._height), facecolor="none")

    def text(
        self, left: float, top: float, text: str, *, size: float = TEXT, bold: bool = False, color: str = INK
    ) -> None:
        """Write a line whose middle is so many inches from above."""
        weight = "bold" if bold else "normal"
        y = 1 - top / self._height
        self.figure.text(left / WIDTH, y, text, fontsize=size, fontweight=weight, color=color, va="center_baseline")

    def head(self, lines: tuple[str, ...]) -> float:
        """Write the title and the lines below it; returns the inches they take."""
        self.text(LEFT, 0.28, lines[0], size=TITLE, bold=True)
        for index, line in enumerate(lines[1:]):
            self.text(LEFT, 0.53 + 0.2 * index, line, color=PALE)
        return head_height(lines)

    def legend(self, top: float, keys: list[Patch | Line2D]) -> None:
        """Draw a line of keys whose upper edge is so many inches from above."""
        self.figure.legend(
            handles=keys,
            loc="upper left",
            bbox_to_anchor=(LEFT / WIDTH, 1 - top / self._height),
            ncols=len(keys),
            fontsize=SMALL,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.5,
            handletextpad=0.5,
            columnspacing=1.3,
        )


def head_height(lines: tuple[str, ...]) -> float:
    """Return the inches that a head takes."""
    return 0.5 + 0.2 * (len(lines) - 1)


def part_look(name: str) -> dict[str, Any]:
    """Return how a part looks."""
    return {"facecolor": SHADES[name], "edgecolor": INK, "linewidth": 0.4}


def lacking_look() -> dict[str, Any]:
    """Return how what does not fit looks."""
    return {"facecolor": PAPER, "edgecolor": LACKING, "hatch": "////", "linewidth": 0.8}


def lacking_key() -> Patch:
    """Return the key of what does not fit."""
    return Patch(label="(does not fit)", **lacking_look())


def cut_key() -> Line2D:
    """Return the key of bars that are longer than their axis."""
    return Line2D([], [], linestyle="none", label="» longer than shown")


def part_keys(names: set[str], *, lacking: bool, reserve: bool) -> list[Patch | Line2D]:
    """Return the keys of the parts that are there, of what does not fit, and of the reserve."""
    keys: list[Patch | Line2D] = [
        Patch(label=NAMES.get(name, name), **part_look(name)) for name in SHADES if name in names
    ]
    if reserve:
        keys.append(Patch(label="reserve, left free", **reserve_look()))
    if lacking:
        keys.append(lacking_key())
    return keys


def reserve_look() -> dict[str, Any]:
    """Return how the reserve looks."""
    return {"facecolor": PAPER, "edgecolor": "#8a8a8a", "hatch": "||||", "linewidth": 0.5}


def size_axis(axes: Axes, axis: Axis) -> None:
    """Make a horizontal axis of memory, with a little room for the line at its end."""
    axes.set_xlim(0, axis.end * 1.002)
    axes.set_xticks(axis.ticks, [axis.tick_label(tick) for tick in axis.ticks])
    axes.set_xlabel(f"memory, {axis.unit_name}")
    axes.grid(axis="x")


def free_across(axes: Axes, free: Free, top: float, bottom: float) -> None:
    """Draw the line of what is free across rows, and the reserve before it."""
    axes.fill_betweenx((top, bottom), free.usable, free.size, zorder=0.6, **reserve_look())
    axes.plot((free.size, free.size), (top, bottom), color=INK, linewidth=1.4, zorder=4, solid_capstyle="butt")
