"""Where a picture goes: which files can be one, and whether this one can be written, before any work is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmrun.errors import LLMRunError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmrun.plots.plan_chart import PlanChart
    from llmrun.plots.show_chart import ShowChart

ENDINGS = (".png", ".svg")


def check_picture(path: Path) -> None:
    """Raise UsageError for what cannot be a picture or drawn here, LLMRunError where it cannot be written.

    Nothing is changed: an older picture stays until the new one is drawn.
    """
    if path.suffix.lower() not in ENDINGS:
        name = path.suffix or path.name
        raise UsageError(f"a picture ends in {' or '.join(ENDINGS)}, not in {name!r}", "--plot picture.svg")
    try:
        import matplotlib as _matplotlib  # noqa: F401 - asked for before anything is planned
    except ImportError as error:
        missing = error.name == "matplotlib"
        why = "which is not installed" if missing else f"which cannot be loaded here: {error}"
        raise UsageError(f"--plot draws with matplotlib, {why}", "pip install 'llmrun[plot]'") from error
    _try_to_write(path)


def write_picture(path: Path, chart: PlanChart | ShowChart) -> None:
    """Draw a chart into a file of one of ENDINGS; raises LLMRunError where it cannot be written."""
    picture = picture_of(chart, "svg" if path.suffix.lower() == ".svg" else "png")
    with _told(path):
        path.write_bytes(picture)


def picture_of(chart: PlanChart | ShowChart, kind: Literal["png", "svg"]) -> bytes:
    """Return a chart as the bytes of a picture, the same for the same chart; needs matplotlib."""
    from llmrun.plots.drawing import drawn
    from llmrun.plots.plan_chart import PlanChart
    from llmrun.plots.plan_picture import plan_figure
    from llmrun.plots.show_picture import show_figure

    def figure() -> Figure:
        return plan_figure(chart) if isinstance(chart, PlanChart) else show_figure(chart)

    return drawn(figure, kind, chart.head[0])


def _try_to_write(path: Path) -> None:
    with _told(path):
        if path.exists():
            path.open("r+b").close()
            return
        path.open("xb").close()
        path.unlink()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LLMRunError(f"{path} cannot be written: {error.strerror}", "--plot with another file") from error
