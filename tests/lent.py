"""A device that is not the host, on every machine: a CPU lent by a process of its own, over llama.cpp's RPC."""

from __future__ import annotations

import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmrun.lending.status import STATUS, Status, parse_status, sign
from tests.environments import clean_environment

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


@dataclass(frozen=True)
class LendingProgram:
    """`llmrun lend` as people run it. told: what it printed as JSON. lines: what it says to them, from then on."""

    process: subprocess.Popen[str]
    told: dict[str, Any]
    lines: queue.Queue[str]
    key: bytes | None

    @property
    def endpoint(self) -> str:
        """HOST:PORT of its devices."""
        return f"{self.told['host']}:{self.told['port']}"

    def server_pid(self) -> int:
        """The process that serves the devices now."""
        return next(child.pid for child in psutil.Process(self.process.pid).children() if child.is_running())

    def ask(
        self, target: str, data: bytes | None = None, headers: Mapping[str, str] | None = None, *, signs: bool = True
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Ask the status endpoint (GET without data): the HTTP status, the body, the headers."""
        known = dict(headers or {})
        if self.key is not None and signs:
            known |= {"Authorization": sign(self.key, "GET" if data is None else "POST", target, int(time.time()))}
        url = f"http://{self.told['host']}:{self.told['status_port']}{target}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, known), timeout=30) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def status(self) -> Status:
        """What it says of itself now."""
        return parse_status(self.ask(STATUS)[1])

    def wait_for(self, condition: Callable[[Status], bool]) -> Status:
        """The first status that is so, within a minute."""
        deadline = time.monotonic() + 60
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        return status

    def wait_for_server(self) -> int:
        """The process that serves the devices, once one answers again."""
        deadline = time.monotonic() + 60
        while self.ask(STATUS)[0] == 503:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self.server_pid()

    def hear(self, words: str) -> str:
        """The next line with these words in it."""
        while words not in (line := self.lines.get(timeout=60)):
            pass
        return line


def _hear(source: Iterable[str], heard: queue.Queue[str]) -> None:
    for line in source:
        heard.put(line)


@contextmanager
def lending(home: Path, *options: str, key: bytes | None = None) -> Iterator[LendingProgram]:
    """`llmrun lend OPTIONS` at any two free ports, ended as Ctrl-C does; key: of a file among the options."""
    command = [sys.executable, "-P", "-m", "llmrun.cli.main", "lend", "--port", "0", "--threads", "1", "--json"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(home)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        heard: queue.Queue[str] = queue.Queue()
        listener = threading.Thread(target=_hear, args=(process.stderr, heard), daemon=True)
        listener.start()
        try:
            first = process.stdout.readline()
            if not first:
                listener.join(5)
                pytest.fail("".join(heard.queue))
            yield LendingProgram(process, json.loads(first), heard, key)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()


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
