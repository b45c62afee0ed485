"""The options of `lend`, in a group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from llmrun.settings import MAX_THREADS

_WHAT, _WHO = "What is lent", "Who can borrow"

Host = Annotated[str, typer.Option(help="The address to listen at, IPv4.", rich_help_panel=_WHO)]
Port = Annotated[
    int,
    typer.Option(
        min=0, max=65534, help="For the devices; the status is at the next. 0: any free.", rich_help_panel=_WHO
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--i-trust-this-network", help="Lend at a public address, or at all there are.", rich_help_panel=_WHO),
]
KeyFile = Annotated[
    Optional[Path],  # noqa: UP045 - typer
    typer.Option(
        "--key-file",
        envvar="LLMRUN_LEND_KEY_FILE",
        metavar="FILE",
        help="A key that the status asks for, mode 600; the devices cannot ask.",
        show_default=False,
        rich_help_panel=_WHO,
    ),
]
Memory = Annotated[
    Optional[str],  # noqa: UP045 - typer
    typer.Option(
        metavar="SIZE",
        help="Of each device, at most: 6GiB. (default: all but a reserve)",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]
Devices = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer
    typer.Option(
        "--device",
        metavar="NAME",
        help="CUDA0, CPU, ...; repeatable. (default: the GPUs, else the CPU)",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]
Threads = Annotated[
    Optional[int],  # noqa: UP045 - typer
    typer.Option(
        "--threads",
        "-t",
        min=1,
        max=MAX_THREADS,
        metavar="N",
        help="Of the CPU, where that is lent. (default: its cores)",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]
Cache = Annotated[
    Optional[bool],  # noqa: UP045 - typer
    typer.Option(
        "--cache/--no-cache",
        help="Keep tensors that came, so that they need not come again; whoever can borrow may leave wrong ones. "
        "(default: yes, unless at a public address)",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]


@dataclass(frozen=True, slots=True)
class LendOptions:
    """What the command line said about what is lent, and to whom."""

    memory: Memory = None
    device: Devices = None
    threads: Threads = None
    cache: Cache = None
    host: Host = "127.0.0.1"
    port: Port = 50052
    key_file: KeyFile = None
    i_trust_this_network: Trust = False
