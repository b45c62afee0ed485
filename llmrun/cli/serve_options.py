"""The options of `serve`, in a group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from llmrun.cli import options as o
from llmrun.settings import MAX_SEQUENCES

if TYPE_CHECKING:
    from llmrun.planning.plan import PlanWish
    from llmrun.settings import Constraints

_FORMATS = ("systemd", "containerfile", "compose")

Served = Annotated[Optional[list[str]], typer.Argument(metavar="MODEL", help="What to serve; guide if none.")]  # noqa: UP045 - typer
Slots = Annotated[
    int | None,
    typer.Option(
        "--parallel",
        min=1,
        max=MAX_SEQUENCES,
        metavar="N",
        help="Clients answered at once, each with a whole context. (default: 4, fewer where memory is short)",
        rich_help_panel="How the model runs",
        show_default=False,
    ),
]
ServedDraft = Annotated[
    Optional[str],  # noqa: UP045 - typer
    typer.Option(
        "--draft",
        metavar="MODEL",
        help="A smaller model of the same family that guesses for the first MODEL, while one answer is written alone; "
        "auto is the one that comes with it, mtp the model's own layers for that. (default: none)",
        show_default=False,
        rich_help_panel="How the model runs",
    ),
]
Host = Annotated[str, typer.Option(help="The address to listen at.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at; 0 is any that is free.")]

EmitServer = Annotated[
    Optional[str],  # noqa: UP045 - typer
    typer.Option(
        "--emit",
        metavar="FORMAT",
        autocompletion=lambda incomplete: [form for form in _FORMATS if form.startswith(incomplete)],
        help="Print what serves this when the machine starts, with the plan's memory as limits, and end: systemd, "
        "containerfile or compose.",
        show_default=False,
    ),
]

Stopped = Annotated[Optional[list[str]], typer.Argument(metavar="MODEL", help="What to unload.", show_default=False)]  # noqa: UP045 - typer
StopPort = Annotated[Optional[int], typer.Option("--port", metavar="PORT", help="Of the server that is meant.")]  # noqa: UP045 - typer
StopAll = Annotated[bool, typer.Option("--all", help="End all servers.")]


# How many clients are answered at once, where nobody says so: as llama-server does, and fewer where memory is short.
SLOTS = (4, 2, 1)
# Tokens of a text to embed that are read at once: each costs two rows of logits, 1.2 MB with 150,000 tokens.
OUTPUTS = 32


@dataclass(frozen=True, slots=True)
class Where:
    """Where the server listens."""

    host: Host = "127.0.0.1"
    port: Port = 8080


@dataclass(frozen=True, slots=True)
class ServedHow:
    """What the command line said about how the models run."""

    ctx: o.Ctx = None
    gpu_layers: o.GpuLayers = None
    kv_type: o.KVType = None
    threads: o.Threads = None
    speculate: o.Speculate = None
    draft: ServedDraft = None
    parallel: Slots = None
    device: o.Devices = None
    prefer: o.Prefer = None
    reserve: o.Reserve = None
    device_reserve: o.DeviceReserve = None
    require_gpu: o.RequireGpu = False
    offline: o.Offline = False

    def constraints(self) -> Constraints:
        """Return what the user fixed; raises UsageError for devices or a draft that cannot be meant."""
        from llmrun.cli.wishes import constraints_of, drafted

        found = constraints_of(
            self.ctx,
            self.gpu_layers,
            self.kv_type,
            self.threads,
            self.parallel,
            self.device,
            speculate=self.speculate,
        )
        return drafted(found, self.draft)

    def plan_wish(self) -> PlanWish:
        """Return what is wished of the plan; raises UsageError for a preference there is not, or no size."""
        from llmrun.cli.wishes import plan_wish

        found = plan_wish(
            self.prefer, reserve=self.reserve, device_reserve=self.device_reserve, require_gpu=self.require_gpu
        )
        return replace(found, slots=SLOTS, outputs=OUTPUTS)
