"""The options of `hardware`, in a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Optional

import typer

_OUTPUT = "Output"

Lenders = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer
    typer.Option(
        "--device",
        metavar="rpc:HOST:PORT",
        help="A device that another machine lends: look at it too, and measure it in place of this machine.",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
MeasureNow = Annotated[
    bool, typer.Option("--measure", help="Measure how fast it computes, if that is unknown.", rich_help_panel=_OUTPUT)
]
Remeasure = Annotated[
    bool, typer.Option("--remeasure", help="Measure it again, and forget what runs taught.", rich_help_panel=_OUTPUT)
]


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """Which lent devices to look at; whether to measure them, else this machine, where that was not done, or anew."""

    device: Lenders = None
    measure: MeasureNow = False
    remeasure: Remeasure = False
