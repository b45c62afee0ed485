"""The options of `llmrun tune` that no other command has."""

from __future__ import annotations

from typing import Annotated

import typer

Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        metavar="SECONDS",
        help="Time that long at most. (default: what stays within a minute)",
        show_default=False,
    ),
]
Forget = Annotated[bool, typer.Option("--forget", help="Forget what was found for models like this.")]
