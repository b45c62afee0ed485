"""What a lender says when it starts: what is lent, how others use it, and what the protocol is. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from llmrun.lending.address import Reach
from llmrun.lending.status import LentDevice, Status, status_port
from llmrun.units import format_bytes

_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Place:
    """Where a lender is. address: that it listens at, in numbers; 0.0.0.0 is all. own: by which others reach it."""

    address: str
    port: int
    reach: Reach
    own: tuple[str, ...] = ()

    @property
    def for_others(self) -> str:
        """The address that others type."""
        return (self.own or (self.address,))[0] if self.address == "0.0.0.0" else self.address  # noqa: S104


@dataclass(frozen=True, slots=True)
class Terms:
    """threads: of a CPU that is lent. key: whether the status is for those with a key. cached: bytes of tensors that
    are kept from earlier, None where none are. folder: where.
    """

    threads: int
    key: bool
    cached: int | None
    folder: str


def opening_lines(status: Status, place: Place, terms: Terms) -> list[str]:
    """Return what is told once others can borrow."""
    many = len(status.devices) > 1
    lines = [_device_line(device, terms.threads) for device in status.devices]
    lines.append(f"at {place.address}:{place.port}, status at port {status_port(place.port)} (Ctrl-C ends it)")
    lines += _ways(place, many)
    if terms.cached is not None:
        kept = f"{format_bytes(terms.cached)} now" if terms.cached else "none yet"
        lines += _wrapped(f"tensors that come are kept ({kept}), and need not come again: {terms.folder}")
    if terms.key:
        lines += _wrapped("the status asks for the key; the devices do not, as llama.cpp has no such thing")
    return lines


def warning_lines(place: Place) -> list[str]:
    """Return what whoever lends must know."""
    who = {
        Reach.LOOPBACK: "every user and program of this machine",
        Reach.PRIVATE: "every machine of this network",
        Reach.PUBLIC: "everybody who reaches this address",
    }[place.reach]
    return _wrapped(
        f"warning: llama.cpp's protocol is not encrypted and asks for no password: {who} can borrow, read what is "
        "computed here and change it"
    )


def _device_line(device: LentDevice, threads: int) -> str:
    how = f", {threads} thread{'s' * (threads != 1)}" if device.kind == "CPU" else ""
    told = f"lending {format_bytes(device.total)} of {device.id}, {format_bytes(device.free)} free now{how}"
    room = _WIDTH - len(told) - 3
    return f"{told} ({device.name})" if device.name and len(device.name) <= room else told


def _ways(place: Place, many: bool) -> list[str]:
    """Return what is typed on the machine that borrows."""
    second = place.port + 1
    every = " (and /1, /2 for the others)" if many else ""
    if place.reach is not Reach.LOOPBACK:
        lines = [f"on the other machine: llmrun chat MODEL --device rpc:{place.for_others}:{place.port}{every}"]
        return [*lines, "if the way there cannot be trusted, lend at 127.0.0.1 and go through SSH"]
    return [
        "on another machine, through SSH:",
        # the borrower's connection ends at its own ssh, which has to notice that this machine is gone
        "  ssh -N -o ServerAliveInterval=1 -o ServerAliveCountMax=2 \\",
        "    -o ExitOnForwardFailure=yes \\",
        f"    -L {place.port}:127.0.0.1:{place.port} -L {second}:127.0.0.1:{second} USER@HOST",
        f"  llmrun chat MODEL --device rpc:127.0.0.1:{place.port}{every}",
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def named(devices: Sequence[LentDevice], host: str, port: int) -> list[str]:
    """Return what a borrower calls each device."""
    return [f"rpc:{host}:{port}" + f"/{number}" * (number > 0) for number in range(len(devices))]
