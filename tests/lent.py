"""A device that is not the host, on every machine: a CPU lent by a process of its own, over llama.cpp's RPC."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux limits a running process and tells its resident memory exactly"
)


@dataclass(frozen=True)
class Lent:
    """A running server; id is its device's, as settings name it. It has one client at a time."""

    id: str
    process: subprocess.Popen[str]

    def limit_memory(self, room: int) -> None:
        """Let it have no more than so many bytes of addresses beside those it has."""
        limit_memory(self.process.pid, room)

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self.process.kill()
        self.process.wait()


def lend() -> Lent:
    """Start a server, and wait until it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-P", "-m", "llmrun.worker.rpc_server", endpoint]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout
    if not server.stdout.readline():
        assert server.stderr
        pytest.fail(server.stderr.read())  # scripts/bootstrap builds an engine with RPC
    threading.Thread(target=server.communicate, daemon=True).start()  # nobody else reads what it says
    return Lent(f"rpc:{endpoint}", server)


@contextmanager
def lender() -> Iterator[Callable[[], Lent]]:
    """A function that lends; every server it started is ended afterwards."""
    servers: list[Lent] = []

    def start() -> Lent:
        servers.append(lend())
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            server.end()


def limit_memory(pid: int, room: int) -> None:
    """Let a process have no more than so many bytes of addresses beside those it has: as `prlimit --as` does."""
    process = psutil.Process(pid)
    limit = process.memory_info().vms + room
    process.rlimit(psutil.RLIMIT_AS, (limit, limit))
