"""How far lenders are: measured once over what llama.cpp will use, remembered for a day, measured again when asked to.

Measured with commands of ggml's own protocol where the server answers them; where another borrows there just now, by
requests to the lender's status endpoint, which are a little slower. What cannot be measured in some seconds is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median

from llmrun.deadline import within
from llmrun.errors import EngineError
from llmrun.hardware.link import USUAL_LINK, Link
from llmrun.lending.status import BYTES, MOST_BYTES, sign, status_port
from llmrun.rpc_way import RpcWay

_PATIENCE = 3.0  # seconds for an answer
_REMEMBERED = 24 * 3600  # seconds
_BUDGET, _LONG_ENOUGH = 2.0, 0.25  # seconds to measure one direction in; of one transfer that tells enough
_TRY, _FIRST = 1 << 14, 1 << 18  # bytes: to see whether the link crawls; to begin with on one that does not
_IN_ALL = 12.0  # seconds that a way may take to be measured, whatever the server does


@dataclass(frozen=True, slots=True)
class Road:
    """A way to be measured. address: HOST:PORT of the server. key: to sign requests with, None is none.

    has_status: whether there is a status endpoint beside it. is_idle: whether the server has no client, and answers.
    who: what tells the server from another at this address, as through SSH; empty where nobody told.
    """

    address: str
    key: bytes | None
    has_status: bool
    is_idle: bool
    who: str = ""


class Links:
    """What is known of links, in a folder; None is nowhere. remeasure: measure all anew."""

    def __init__(self, folder: Path | None, *, remeasure: bool = False) -> None:
        self._folder = folder
        self._remeasure = remeasure

    def link(self, road: Road) -> Link | None:
        """Return a link, measured if it is not known; None where that could not be done."""
        path = self._path(road)
        known = None if path is None or self._remeasure else _read(path)
        if known is not None:
            return known
        found = measure_link(road)
        if found is not None and found.measured and path is not None:
            _write(path, found)
        return found

    def _path(self, road: Road) -> Path | None:
        """Name a link's file: from another of this machine's own addresses it is another, as with a cable and Wi-Fi."""
        if self._folder is None:
            return None
        name = f"{road.address} {own_address(road.address)} {road.who}"
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.link"


def measure_link(road: Road) -> Link | None:
    """Return what a link does now, in some 4 seconds at most; None where the server did not answer."""
    if road.is_idle:
        try:
            with closing(RpcWay(road.address, _PATIENCE)) as way, within(way.connection, _IN_ALL):
                return _by_commands(road, way)
        except OSError:
            pass
    if not road.has_status:
        return None
    try:
        with closing(_Transfers(road)) as transfers, transfers.limited():
            latency = transfers.latency()
            return Link(latency, _rate(transfers.upload, latency), _rate(transfers.download, latency))
    except (OSError, HTTPException, ValueError):
        return None


def _by_commands(road: Road, way: RpcWay) -> Link:
    """Return what a link does with ggml's own commands; where the server gives no memory, bytes go another way."""
    latency = way.latency()
    try:
        way.open()
        return Link(latency, _rate(way.upload, latency), _rate(way.download, latency))
    except EngineError:
        if not road.has_status:
            return Link(latency, USUAL_LINK.upload, USUAL_LINK.download, measured=False)
    with closing(_Transfers(road)) as transfers, transfers.limited():
        return Link(latency, _rate(transfers.upload, latency), _rate(transfers.download, latency))


class _Transfers:
    """Bytes sent to a lender's status endpoint and fetched from it; to be closed. Raises OSError or HTTPException."""

    def __init__(self, road: Road) -> None:
        host, _, port = road.address.rpartition(":")
        self._key = road.key
        self._connection = HTTPConnection(host, status_port(int(port)), timeout=2 * _BUDGET)
        self._connection.connect()
        self._noise = os.urandom(_FIRST)  # compresses no better where it is repeated: links look back less than that

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def limited(self) -> AbstractContextManager[None]:
        """Let all that is done meanwhile take no longer than a measurement may."""
        return within(self._connection.sock, _IN_ALL)

    def latency(self) -> float:
        """Return the seconds of a small request, which a lender takes some of itself."""
        times = []
        for _ in range(5):
            started = time.perf_counter()
            self.download(1)
            times.append(time.perf_counter() - started)
        return median(times)

    def upload(self, n: int) -> None:
        """Send n bytes, and wait until they were received."""
        body = (self._noise * math.ceil(n / len(self._noise)))[:n]
        self._ask("POST", BYTES, body)

    def download(self, n: int) -> None:
        """Fetch n bytes."""
        if self._ask("GET", f"{BYTES}?n={n}", None) != n:
            raise HTTPException("not all came")

    def _ask(self, method: str, target: str, body: bytes | None) -> int:
        """Return how many bytes came."""
        headers = {} if self._key is None else {"Authorization": sign(self._key, method, target, int(time.time()))}
        self._connection.request(method, target, body, headers)
        response = self._connection.getresponse()
        n = 0
        while data := response.read(1 << 20):
            n += len(data)
        if response.status != 200:
            raise HTTPException(f"status {response.status}")
        return n


def _rate(transfer: Callable[[int], None], latency: float) -> float:
    """Return the bytes a second of ever larger transfers, until one is long enough to tell."""
    n, begun = _TRY, time.perf_counter()
    while True:
        started = time.perf_counter()
        transfer(n)
        seconds = max(time.perf_counter() - started - latency, 1e-6)
        left = _BUDGET - (time.perf_counter() - begun)
        larger = _FIRST if n == _TRY else min(MOST_BYTES, int(n * min(8.0, 2 * _LONG_ENOUGH / seconds)))
        if (n > _TRY and seconds >= _LONG_ENOUGH) or n == MOST_BYTES or left < seconds * larger / n:
            return n / seconds
        n = larger


def own_address(address: str) -> str:
    """Return this machine's address on the way to another; nothing is sent."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        family, kind, protocol, _, to = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(to)
            return str(probe.getsockname()[0])
    return ""


def _read(path: Path) -> Link | None:
    """Return a link that is remembered; None where that is too long ago."""
    try:
        age = time.time() - path.stat().st_mtime
        return parse_link(path.read_bytes()) if 0 <= age < _REMEMBERED else None
    except OSError:
        return None


def parse_link(data: bytes) -> Link | None:
    """Return a link from JSON; None where it makes no sense. Pure."""
    try:
        found = json.loads(data)
        latency, upload, download = (float(found[name]) for name in ("latency", "upload", "download"))
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    sensible = all(math.isfinite(value) and value > 0 for value in (latency, upload, download))
    return Link(latency, upload, download) if sensible else None


def _write(path: Path, link: Link) -> None:
    """Remember a link; one that cannot be is measured again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(asdict(link)))
        part.replace(path)
