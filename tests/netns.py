"""Lenders on machines of their own: network namespaces, with a network between that can be slow, lossy, or cut.

Where that cannot be had, a proxy before a lender, which can be slow, and closed; it cannot be silent: its TCP answers.

The network is a thread that carries packets from one TUN device to another, so that each side has a TCP of its own, as
two machines have: a cut link answers nothing, where a killed process would. It needs root and /dev/net/tun.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import heapq
import ipaddress
import itertools
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from tests.lent import Lent

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_NUMBERS, _WIRE_NUMBERS = itertools.count(1), itertools.count()
_PORT = 50052
_WIRES = ipaddress.ip_network("10.208.0.0/12")  # what wires' addresses are taken from, four a wire
_WIRES_EACH = 16  # of a process, until it takes those of another, where they are free


def run_ip(*words: str) -> None:
    """Run iproute2's `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def wire_addresses() -> tuple[str, str]:
    """Return the addresses of a new wire's ends, in a network of 30 bits that this machine is not in yet.

    Which one is by this process's number: others that do the same make wires meanwhile.
    """
    while True:
        number = os.getpid() * _WIRES_EACH + next(_WIRE_NUMBERS)
        network = 4 * number % _WIRES.num_addresses
        ours, its = str(_WIRES[network + 1]), str(_WIRES[network + 2])
        with socket.socket() as probe:
            try:
                probe.bind((ours, 0))
            except OSError:  # no address of this machine
                return ours, its


@functools.cache
def why_not() -> str | None:
    """Return why this system cannot have other machines in it, None where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces are Linux's, and for root"
    if shutil.which("ip") is None or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs iproute2 and /dev/net/tun"
    name = f"lrtry{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "this system makes no network namespaces"
    run_ip("netns", "del", name)
    return None


other_machines = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


@dataclass
class Network:
    """What lies between this machine and a lender: delay, in seconds, one way; loss, of 1; is_cut: nothing arrives."""

    delay: float = 0.0
    loss: float = 0.0
    is_cut: bool = False
    _due: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)
    _chance: random.Random = field(default_factory=lambda: random.Random(11))

    def carry(self, ends: tuple[int, int], stop: threading.Event) -> None:
        """Carry packets between two TUN devices until told to stop."""
        while not stop.is_set():
            now = time.monotonic()
            wait = 0.05 if not self._due else max(0.0, min(0.05, self._due[0][0] - now))
            for end in select.select(ends, (), (), wait)[0]:
                self._take(end, ends[1] if end == ends[0] else ends[0])
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(self._due)
                with contextlib.suppress(OSError):
                    os.write(to, packet)

    def _take(self, end: int, to: int) -> None:
        with contextlib.suppress(OSError):
            packet = os.read(end, 1 << 16)
            if not self.is_cut and self._chance.random() >= self.loss:
                heapq.heappush(self._due, (time.monotonic() + self.delay, next(self._order), to, packet))


@dataclass(frozen=True)
class Machine:
    """A namespace with one lender in it, and the network before it."""

    lent: Lent
    network: Network

    @property
    def id(self) -> str:
        """Its device, as settings name it."""
        return self.lent.id


@contextmanager
def machines() -> Iterator[Callable[[], Machine]]:
    """A function that makes a machine with a lender; all of them are gone afterwards."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_machine())


@contextmanager
def _machine() -> Iterator[Machine]:
    number = next(_NUMBERS)
    name, near, far = (f"{kind}{number}x{os.getpid()}" for kind in ("lr", "ln", "lf"))
    ours, its = wire_addresses()
    with ExitStack() as stack:
        run_ip("netns", "add", name)
        stack.callback(run_ip, "netns", "del", name)
        ends = _tun(near), _tun(far)
        for end in ends:
            stack.callback(os.close, end)
        run_ip("addr", "add", f"{ours}/30", "dev", near)
        run_ip("link", "set", near, "up")
        run_ip("link", "set", far, "netns", name)
        run_ip("-n", name, "addr", "add", f"{its}/30", "dev", far)
        for device in (far, "lo"):
            run_ip("-n", name, "link", "set", device, "up")
        network, stop = Network(), threading.Event()
        thread = threading.Thread(target=network.carry, args=(ends, stop), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        lent = lend_at(f"{its}:{_PORT}", ("ip", "netns", "exec", name))
        stack.callback(lent.end)
        yield Machine(lent, network)


def lend_at(endpoint: str, within: Sequence[str] = ()) -> Lent:
    """Start a lender at HOST:PORT, and wait until it listens. within: the command that starts it elsewhere."""
    command = [*within, sys.executable, "-P", "-m", "llmrun.worker.rpc_server", endpoint]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout
    assert server.stdout.readline(), "no lender could be started"
    threading.Thread(target=server.communicate, daemon=True).start()  # nobody else reads what it says, or closes that
    return Lent(f"rpc:{endpoint}", server)


def _tun(name: str) -> int:
    """Make a TUN device, and return the file that is its other end."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


class Proxy:
    """Passes on what comes to a lender and from it; delay: seconds that it keeps it, rate: bytes a second, None is any.

    id: the lender's device, as it is reached by this way.
    """

    def __init__(self, device: str, rate: float | None = None, delay: float = 0.0) -> None:
        host, _, port = device.removeprefix("rpc:").rpartition(":")
        self._to, self.rate, self.delay = (host, int(port)), rate, delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.id = f"rpc:127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, on both sides, and take no more calls."""
        for connection in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
                self._open += near, far
                for pair in ((near, far), (far, near)):
                    pair[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay + (len(data) / self.rate if self.rate else 0.0))
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)
