"""The options of `doctor` that are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_BACKENDS = ("cuda", "rocm", "vulkan", "metal", "sycl", "cpu")
_REPAIR = "The repair"
Fix = Annotated[
    bool, typer.Option("--fix", help="Replace the engine by one that uses this machine's GPU.", rich_help_panel=_REPAIR)
]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        autocompletion=lambda incomplete: [name for name in _BACKENDS if name.startswith(incomplete)],
        help="Build for this: cuda, rocm, vulkan, metal, sycl or cpu. (default: the GPU's)",
        show_default=False,
        rich_help_panel=_REPAIR,
    ),
]
Prebuilt = Annotated[
    bool,
    typer.Option(
        "--prebuilt", help="Install an engine that is built already, which takes a minute.", rich_help_panel=_REPAIR
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.", rich_help_panel=_REPAIR)]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write what a bug report needs, with nothing private in it.",
        show_default=False,
        rich_help_panel="Output",
    ),
]
