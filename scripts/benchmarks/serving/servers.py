"""The servers that are measured: ours, llama.cpp's own, and llama-cpp-python's, each with the same model and slots."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmrun.hardware.threads import count_threads
from scripts.benchmarks.peers import peer

_START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a model is to be served: so many conversations at once, each of n_ctx tokens."""

    path: Path
    n_slots: int
    n_ctx: int


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs: its name, address, command line and process."""

    name: str
    url: str
    command: tuple[str, ...]
    process: psutil.Process

    def resident(self) -> int:
        """Return the bytes of memory that it and its children have for themselves, the mapped file aside."""
        found = [self.process, *self.process.children(recursive=True)]
        return sum(one.memory_info().rss - one.memory_info().shared for one in found)


def commands(wanted: Wanted) -> dict[str, tuple[str, ...]]:
    """Return the command line of each server, without its port."""
    model, threads = str(wanted.path), str(count_threads())
    n_all = str(wanted.n_slots * wanted.n_ctx)
    ours = ("-m", "llmrun.cli.main", "serve", model, "--parallel", str(wanted.n_slots), "--ctx", str(wanted.n_ctx))
    # without the last one each new request ends the answer before it
    serial = ("-m", "llama_cpp.server", "--model", model, "--n_ctx", str(wanted.n_ctx), "--interrupt_requests", "false")
    return {
        "llmrun": (sys.executable, *ours, "--threads", threads),
        "llama-server": (str(peer("llama-server")), "-m", model, "-np", str(wanted.n_slots), "-c", n_all),
        "llama_cpp.server": (sys.executable, *serial),
    }


@contextlib.contextmanager
def running(name: str, command: tuple[str, ...]) -> Iterator[Running]:
    """Start a server on a free port, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole = (*command, "--port", str(port))
    quiet = subprocess.DEVNULL
    with subprocess.Popen(whole, stdout=quiet, stderr=quiet, env=os.environ | {"HF_HUB_OFFLINE": "1"}) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url + "/v1/models", process)
            yield Running(name, url, whole, psutil.Process(process.pid))
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            process.kill()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the server at {url} did not start: {process.args!r}")
