"""Lenders behind wires of a speed: `llmrun lend` in a network namespace, at both ends of whose wire `tc` holds it down.

Where this user may not do that, a proxy that waits does instead, which a wire's name says.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.netns import Proxy, run_ip, why_not, wire_addresses

_NUMBERS = itertools.count(1)
_LATENCY = "50ms"  # of data that may wait for its turn; what comes beyond is dropped, as a switch does
_BURST = "256kb"  # sent at once: several of the largest packets that Linux makes of a stream


@dataclass(frozen=True, slots=True)
class Wire:
    """A way to a lender. gbits: a second, None is as fast as the machine is."""

    name: str
    gbits: float | None = None


LOOPBACK, TEN, ONE = Wire("loopback"), Wire("10 Gbit/s", 10), Wire("1 Gbit/s", 1)


@contextmanager
def lender_behind(wire: Wire, n_threads: int) -> Iterator[tuple[str, str]]:
    """Lend a CPU behind a wire; gives the wire's name, as it could be had, and the device's."""
    with ExitStack() as stack:
        if wire.gbits is None:
            yield wire.name, stack.enter_context(_lending("127.0.0.1", _free_port(), n_threads))
        elif why_not() is None:
            host, within = stack.enter_context(_wired(wire.gbits))
            yield wire.name, stack.enter_context(_lending(host, 50052, n_threads, within))
        else:
            device = stack.enter_context(_lending("127.0.0.1", _free_port(), n_threads))
            proxy = stack.enter_context(Proxy(device, rate=wire.gbits * 1e9 / 8))
            yield f"{wire.name} (proxy)", proxy.id


@contextmanager
def _wired(gbits: float) -> Iterator[tuple[str, Sequence[str]]]:
    """Make a namespace at the end of a wire; gives its address, and what starts a program in it."""
    number = next(_NUMBERS)
    name, near, far = (f"{kind}{number}x{os.getpid()}" for kind in ("wr", "wn", "wf"))
    ours, its = wire_addresses()
    run_ip("netns", "add", name)
    try:
        run_ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        run_ip("addr", "add", f"{ours}/30", "dev", near)
        run_ip("link", "set", near, "up")
        run_ip("-n", name, "addr", "add", f"{its}/30", "dev", far)
        for device in (far, "lo"):
            run_ip("-n", name, "link", "set", device, "up")
        limit = ("root", "tbf", "rate", f"{gbits:g}gbit", "burst", _BURST, "latency", _LATENCY)
        subprocess.run(["tc", "qdisc", "add", "dev", near, *limit], check=True)
        subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", far, *limit], check=True)
        yield its, ("ip", "netns", "exec", name)
    finally:
        run_ip("netns", "del", name)


@contextmanager
def _lending(host: str, port: int, n_threads: int, within: Sequence[str] = ()) -> Iterator[str]:
    """Run `llmrun lend`; gives its device's name. Weights are not kept: the next run is to be as this one."""
    options = ["--host", host, "--port", str(port), "--threads", str(n_threads), "--device", "CPU", "--no-cache"]
    command = [*within, sys.executable, "-P", "-m", "llmrun.cli.main", "lend", *options, "--json", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as lending:
        try:
            assert lending.stdout is not None
            told = json.loads(lending.stdout.readline())
            yield str(told["devices"][0]["name"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(lending.pid, signal.SIGINT)


def _free_port() -> int:
    """Return a port after which another is free as well, for the status."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
