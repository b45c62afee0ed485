"""All quantizations of a model as a picture says them: memory, quality and speed, row by row. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmrun.planning.plan import Whose
from llmrun.planning.policy import Where
from llmrun.planning.quality import loss_class
from llmrun.plots.chart import Axis, Free, Part, axis_to, parts_of, reach, shortened
from llmrun.survey import Row, Survey
from llmrun.units import format_bytes

LEAST_LOSS, MOST_LOSS = 0.0004, 4.0  # nats, where the axis ends: F32 loses nothing, which a logarithm cannot show
_LABEL = 16  # characters of a quantization's label
_PLACES: dict[Where, str] = {"devices": "GPU", "experts": "split", "split": "split", "host": "CPU"}
_DEVICES: dict[Whose, str] = {"own": "GPU", "lent": "lent", "both": "devs"}


@dataclass(frozen=True, slots=True)
class QuantRow:
    """One quantization. size: of its files, in words. parts, total: None and nothing where nobody knows.

    loss: nats, within the axis; decode: tokens a second, None where unknown or where it does not fit. place: where it
    would run, None where it does not fit. about: its memory is scaled from another's header.
    """

    label: str
    size: str
    parts: tuple[Part, ...]
    total: int | None
    about: bool
    loss: float
    loss_name: str
    place: str | None
    decode: float | None
    chosen: bool

    @property
    def fits(self) -> bool:
        """Whether it could run."""
        return self.place is not None


@dataclass(frozen=True, slots=True)
class ShowChart:
    """Everything the picture says, rows from the largest to the smallest. Bars longer than the axis are cut off.

    fastest: tokens a second where the axis of speed ends; None where no speed is known.
    """

    head: tuple[str, ...]
    rows: tuple[QuantRow, ...]
    free: Free | None
    axis: Axis
    fastest: float | None


def show_chart(head: Sequence[str], survey: Survey, free: Free | None) -> ShowChart:
    """Return what a picture of all quantizations says. head: as chart.head_of makes it."""
    rows = tuple(_row(row, survey) for row in survey.rows)
    end = reach((row.total for row in rows if row.total is not None), None if free is None else free.size)
    return ShowChart(
        head=tuple(head),
        rows=rows,
        free=free,
        axis=axis_to(end),
        fastest=max((row.decode for row in rows if row.decode is not None), default=None),
    )


def _row(row: Row, survey: Survey) -> QuantRow:
    return QuantRow(
        label=shortened(row.quant, _LABEL),
        size=format_bytes(row.variant.size),
        parts=() if row.taken is None else parts_of(row.taken),
        total=None if row.taken is None else row.taken.total,
        about=not row.is_read,
        loss=min(max(row.loss, LEAST_LOSS), MOST_LOSS),
        loss_name=loss_class(row.loss).name.removesuffix(" loss"),
        place=_DEVICES[survey.owner] if row.where == "devices" else None if row.where is None else _PLACES[row.where],
        decode=None if row.where is None else row.decode,
        chosen=row.quant == survey.chosen,
    )
