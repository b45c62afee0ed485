"""Where a lender listens: at which addresses it may, and two ports of it that are free."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from enum import Enum

from llmrun.errors import UsageError
from llmrun.hardware.connections import read_listener
from llmrun.lending.status import status_port

_BACKLOG = 64
_TRIES = 50  # for two free ports side by side
# RFC 1918 and RFC 3927. Shared addresses of a provider (RFC 6598) are others' too, and not among them.
_PRIVATE = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")))


class Reach(Enum):
    """Who can reach an address: this machine, those of its own network, or perhaps anybody."""

    LOOPBACK = "loopback"
    PRIVATE = "private"
    PUBLIC = "public"


def reach_of(address: str) -> Reach:
    """Tell who can reach an IPv4 address; that of all networks may be anybody's. Pure."""
    found = ipaddress.IPv4Address(address)
    if found.is_loopback:
        return Reach.LOOPBACK
    return Reach.PRIVATE if any(found in network for network in _PRIVATE) else Reach.PUBLIC


def check_reach(host: str, address: str, *, trusted: bool) -> Reach:
    """Return who can reach an address; raises UsageError where that may be anybody, and nobody said it is all right."""
    reach = reach_of(address)
    if reach is Reach.PUBLIC and not trusted:
        what = "all of this machine's networks" if address == "0.0.0.0" else "an address of the internet"  # noqa: S104
        raise UsageError(
            f"{host} is {what}, and llama.cpp's protocol has no password and no encryption",
            "lend at an address of your own network, or at 127.0.0.1 and through SSH; "
            "--i-trust-this-network lends all the same",
        )
    return reach


def resolve(host: str) -> str:
    """Return the IPv4 address that a host means: llama.cpp's protocol knows no other, and no names to listen at.

    Raises UsageError where there is none.
    """
    hint = "--host takes an IPv4 address of this machine, or a name that stands for one"
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        name, _, port = host.partition(":")
        if name and port.isdecimal():
            raise UsageError(f"{host} has a port in it", f"--host {name} --port {port}") from error
        if ":" in host:
            raise UsageError(f"{host} is an IPv6 address, and llama.cpp lends devices by IPv4 alone", hint) from error
        raise UsageError(f"{host!r} is no address of this machine", hint) from error
    return str(found[0][4][0])


def listen(address: str, port: int) -> tuple[int, socket.socket]:
    """Return a port for the devices that is free, and a socket that listens at the one after it.

    port 0 is any two that are free. Raises UsageError where one is taken, or the address is not this machine's.
    """
    if port:
        with _bound(address, port):
            return port, _bound(address, status_port(port), listens=True)
    for _ in range(_TRIES):
        with _bound(address, 0) as first, contextlib.suppress(UsageError):
            found = int(first.getsockname()[1])
            return found, _bound(address, status_port(found), listens=True)
    raise UsageError(f"no two ports side by side are free at {address}", "name one: --port 50052")


def _bound(address: str, port: int, *, listens: bool = False) -> socket.socket:
    taken = socket.socket()
    if os.name == "posix":  # on Windows it would let another program take the port as well
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((address, port))
        if listens:
            taken.listen(_BACKLOG)
    except OSError as error:
        taken.close()
        raise _refusal(address, port, error) from error
    return taken


def _refusal(address: str, port: int, error: OSError) -> UsageError:
    what = f"nothing can listen at {address}:{port}"
    if error.errno == errno.EADDRINUSE:
        who = read_listener(port)
        return UsageError(
            f"{what}: " + (f"{who} does" if who else "another program does"),
            "a lender needs two ports, PORT and the one after it: --port 50060",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"{what}: this machine has no such address", "`ip address` shows those it has")
    return UsageError(f"{what}: {error.strerror or error}", "try another --port")
