"""By which names and addresses a server is reached: this machine's own, where it listens at all there are."""

from __future__ import annotations

import contextlib
import socket
import textwrap

from llmrun.servers.note import reachable

_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound
# Addresses for documentation (RFC 5737, RFC 3849): nothing is sent there, only the way to it is looked up.
_FAR = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def is_everywhere(host: str) -> bool:
    """Tell whether who listens there listens at all addresses of the machine."""
    return host in _EVERYWHERE


def plain_address(address: str) -> str:
    """Return an address as clients write it: an IPv4 one that came in by IPv6 has another form there. Pure."""
    return address.removeprefix("::ffff:") if "." in address else address


def read_own_names() -> frozenset[str]:
    """Return the names by which other machines know this one: the host's, and the one that mDNS gives it."""
    return names_of(socket.gethostname())


def names_of(host: str) -> frozenset[str]:
    """Return the names that others may use for a host that calls itself so. Pure."""
    name = host.lower().rstrip(".")
    short = name.partition(".")[0]
    return frozenset({name, f"{short}.local"}) if short else frozenset()


def read_own_addresses(host: str) -> tuple[str, ...]:
    """Return those of the machine's addresses that others on its networks reach; host: where is listened.

    At most one of each family: the one from which it would send. Listening at 0.0.0.0 takes IPv4 alone.
    """
    found = []
    for family, far in _FAR:
        if family == socket.AF_INET6 and host != "::":
            continue
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            found.append(str(probe.getsockname()[0]))
    return tuple(address for address in found if address not in ("127.0.0.1", "::1"))


def reach_lines(host: str, port: int, slots: int, others: tuple[str, ...]) -> list[str]:
    """Return what is told once a server answers: where it is, on this machine and from others. Pure.

    host: where it listens. slots: answers at once, of the first model. others: names and addresses of this machine.
    """
    lines = [f"serving at {reachable(host, port)} ({slots} at once; the page is there too; Ctrl-C ends it)"]
    if is_everywhere(host) and others:
        told = "from other machines: " + " ".join(reachable(other, port) for other in others)
        lines += textwrap.wrap(told, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines
