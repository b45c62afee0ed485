"""Fetching files, sha256 and all, beside the Hub's own client and a sha256 of what it fetched: equal work, one server.

The server is a process of its own on loopback, so that what is compared is what the two spend, and not a line.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmrun.hub.client import Hub, new_session
from llmrun.hub.fetch import FetchWish, fetch
from llmrun.variant import ModelFile, RemoteFile
from scripts.benchmarks.fetch_server import REPO_ID
from scripts.benchmarks.table import Row

TURNS = 5
_GIB = 1 << 30
_WHOLE = ("big.gguf",)
_SPLIT = tuple(f"split-{no:05d}-of-00004.gguf" for no in range(1, 5))
_BAR = 0.9


@dataclass(frozen=True, slots=True)
class Served:
    """A server and the files it has."""

    url: str
    files: tuple[ModelFile, ...]


def measure_fetch(folder: Path) -> list[Row]:
    """One file of 1 GiB, and four that are as large together."""
    os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
    return [
        _compare("fetch of 1 GiB, against hf_hub_download", folder, _WHOLE),
        _compare("fetch of 4 x 256 MiB, against hf_hub_download", folder, _SPLIT),
    ]


def _compare(name: str, folder: Path, names: Sequence[str]) -> Row:
    ours, theirs = [], []
    with _server(names, _GIB // len(names)) as served:
        for _ in range(TURNS):
            ours.append(_GIB / (1 << 20) / _seconds(_fetch, served, folder))
            theirs.append(_GIB / (1 << 20) / _seconds(_download, served, folder))
    return Row(name, "MiB/s", tuple(ours), tuple(theirs), _BAR)


@contextmanager
def _server(names: Sequence[str], size: int) -> Iterator[Served]:
    command = [sys.executable, "-m", "scripts.benchmarks.fetch_server", *(f"{name}={size}" for name in names)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, commit, *sums = process.stdout.readline().split()
        files = (
            ModelFile(name, size, RemoteFile(REPO_ID, commit, name), sha256)
            for name, sha256 in zip(names, sums, strict=True)
        )
        yield Served(url, tuple(files))
        process.communicate()  # the end of its input is its end


def _seconds(work: Callable[[Served, Path], None], served: Served, folder: Path) -> float:
    """Time it into an empty cache, with nothing of the one before left for the disk to write."""
    cache = Path(tempfile.mkdtemp(dir=folder))
    os.sync()
    begun = time.perf_counter()
    work(served, cache)
    took = time.perf_counter() - begun
    shutil.rmtree(cache)
    return took


def _fetch(served: Served, cache: Path) -> None:
    with closing(new_session()) as session:
        fetch(served.files, FetchWish(folder=cache), hub=Hub(served.url, session))


def _download(served: Served, cache: Path) -> None:
    from huggingface_hub import hf_hub_download

    for file in served.files:
        assert isinstance(file.origin, RemoteFile)
        path = hf_hub_download(
            REPO_ID, file.name, revision=file.origin.commit, cache_dir=cache, endpoint=served.url, token=False
        )
        with Path(path).open("rb") as opened:
            assert hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
