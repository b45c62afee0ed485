"""Machines that lend devices: asked what they have, all at once, before llama.cpp may touch them.

What ggml's protocol calls free is all there is; a lender's status endpoint says what can really be had. A server of
llama.cpp's own has no such endpoint: of it no more is known than what ggml says.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

from llmrun.deadline import within
from llmrun.engine.rpc_hello import NO_SERVER
from llmrun.errors import EngineError, LLMRunError, UnauthorizedError
from llmrun.hardware.device import Device, Lender
from llmrun.hardware.link import USUAL_LINK
from llmrun.lending.key import read_key
from llmrun.lending.status import STATUS, Status, parse_status, sign, status_port
from llmrun.links import Links, Road, own_address

KEY_FILE = "LLMRUN_LEND_KEY_FILE"
PATIENCE = 3.0  # seconds that a lender may take to answer, all of it
FREEING = 3.0  # seconds that a lender may take to free what this machine had there before
_LOOK = 0.1  # seconds
_NAME = re.compile(r"rpc:([\w.-]+:(\d{1,5}))(?:/(\d{1,3}))?", re.ASCII)
_RPC_NAME = re.compile(r"[\w.-]+:\d+", re.ASCII)  # HOST:PORT in a message
_LAST_PORT = 65535
_LONGEST = 1 << 20  # bytes of a status
_LONGEST_WORD = 200  # letters of what is shown
_NOTHING_THERE = (404, 405, 501)  # what other services at that port say to a path they do not know


@dataclass(frozen=True, slots=True)
class Found:
    """A server at HOST:PORT. status: None is a server of llama.cpp's own, of which nobody told anything."""

    status: Status | None
    lender: Lender


def find_lenders(names: Iterable[str], links: Links) -> Mapping[str, Found]:
    """Return the servers of these devices by address, and measure the ways to them where that is due.

    Names that are none ("CUDA0", "rpc:nonsense") are left to whoever opens devices. Raises EngineError for a lender
    that does not answer, UnauthorizedError for one that wants another key, UsageError for a key that cannot be read.
    """
    addresses = list(dict.fromkeys(address for name in names if (address := address_of(name)) is not None))
    if not addresses:
        return {}
    from concurrent.futures import ThreadPoolExecutor  # here: who names none starts without it

    key = read_lend_key()
    with ThreadPoolExecutor(len(addresses)) as threads:
        statuses = list(threads.map(lambda address: _settled_status(address, key), addresses))
    # one after the other: they share this machine's end of the way
    return {address: _found(address, status, links, key) for address, status in zip(addresses, statuses, strict=True)}


def _found(address: str, status: Status | None, links: Links, key: bytes | None) -> Found:
    is_idle = status is None or status.client is None
    who = "" if status is None else " ".join([status.host, *(f"{one.backend} {one.name}" for one in status.devices)])
    road = Road(address, key, has_status=status is not None, is_idle=is_idle, who=who)
    link = links.link(road) or USUAL_LINK
    if status is None:
        return Found(None, Lender(address, link))
    return Found(status, Lender(address, link, _printable(status.host), status.cache))


def address_of(name: str) -> str | None:
    """Return HOST:PORT of a device of another machine; None for every other name."""
    match = _NAME.fullmatch(name)
    return match[1] if match is not None and 0 < int(match[2]) < _LAST_PORT else None


def told(device: Device, found: Mapping[str, Found]) -> Device:
    """Return a device with what its lender says of it, where one does; it may be none of another machine."""
    match = _NAME.fullmatch(device.id)
    server = None if match is None else found.get(match[1])
    if match is None or server is None:
        return device
    number = int(match[3] or 0)
    if server.status is None or number >= len(server.status.devices):
        return replace(device, lender=server.lender)
    lent = server.status.devices[number]
    lender = replace(server.lender, backend=_printable(lent.backend))
    return replace(device, name=_printable(lent.name), total=lent.total, free=lent.free, lender=lender)


def retold(error: EngineError, found: Mapping[str, Found]) -> EngineError:
    """Return an error as it is better told: of a lender that has a borrower, or of the wrong one of its two ports."""
    named = _RPC_NAME.findall(error.message)
    for address, server in found.items():
        if address not in named:
            continue
        if server.status is not None and server.status.client is not None:
            return EngineError(
                f"the devices of {address} are lent to {_printable(server.status.client)} just now",
                "a lender has one borrower at a time: wait for that one to end, or leave this --device out",
            )
        host, _, port = address.rpartition(":")
        before = f"{host}:{int(port) - 1}"
        if error.message.endswith(NO_SERVER) and _tells_status(before):
            return EngineError(f"{address} is a lender's status port", f"its devices are at --device rpc:{before}")
    return error


def _tells_status(address: str) -> bool:
    try:
        return ask_status(address, read_lend_key()) is not None
    except UnauthorizedError:
        return True
    except LLMRunError:
        return False


def read_lend_key() -> bytes | None:
    """Return the key that the user shares with lenders; None where none is named. Raises UsageError."""
    path = os.environ.get(KEY_FILE)
    return read_key(Path(path)) if path else None


def ask_status(address: str, key: bytes | None) -> Status | None:
    """Return what a lender says of itself; None where there is no lender, and perhaps a server of llama.cpp's own.

    Raises EngineError where the machine does not answer, UnauthorizedError where it wants another key.
    """
    host, _, port = address.rpartition(":")
    headers = {} if key is None else {"Authorization": sign(key, "GET", STATUS, int(time.time()))}
    try:
        with closing(HTTPConnection(host, status_port(int(port)), timeout=PATIENCE)) as connection:
            connection.connect()
            with within(connection.sock, PATIENCE):
                connection.request("GET", STATUS, headers=headers)
                response = connection.getresponse()
                body = response.read(_LONGEST)
    except (ConnectionRefusedError, ConnectionResetError, TimeoutError, HTTPException):  # or a firewall says nothing
        _knock(address)
        return None
    except OSError as error:
        raise _unreachable(address, error) from error
    if response.status in _NOTHING_THERE:
        return None
    if response.status != 200:
        raise _refused(address, response, body, has_key=key is not None)
    try:
        return parse_status(body)
    except EngineError as error:
        raise EngineError(f"{address}: {error.message}", error.hint) from error


def _settled_status(address: str, key: bytes | None) -> Status | None:
    """Return a status as `ask_status` does, after a wait where the lender still frees what this machine had."""
    until = time.monotonic() + FREEING
    status = ask_status(address, key)
    while status is not None and status.client is not None and time.monotonic() < until:
        if status.client != own_address(address):
            break
        time.sleep(_LOOK)
        status = ask_status(address, key)
    return status


def _printable(text: str) -> str:
    """Return what another machine says of itself so that it can be shown: nothing in it moves a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST_WORD])


def _knock(address: str) -> None:
    """Raise EngineError where no server listens either: llama.cpp would abort, or wait for very long."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), PATIENCE):
            return
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: OSError) -> EngineError:
    host, _, port = address.rpartition(":")
    ports = f"ports {port} and {int(port) + 1}"
    if isinstance(error, TimeoutError):
        return EngineError(
            f"the lender at {address} did not answer in {PATIENCE:g} seconds",
            f"is {host} on, and does its firewall let {ports} through?",
        )
    return EngineError(
        f"no lender can be reached at {address}: {error.strerror or error}",
        "is the address right, the machine on, and does `llmrun lend` run there?",
    )


def _refused(address: str, response: HTTPResponse, body: bytes, *, has_key: bool) -> LLMRunError:
    import json  # here: nobody needs it who is not refused

    message, hint = f"it answers with status {response.status}", None
    try:
        told = json.loads(body)["error"]
        message, hint = _printable(str(told["message"])), told["hint"] and _printable(str(told["hint"]))
    except (ValueError, LookupError, TypeError):
        pass
    if response.status == 401:
        hint = hint if has_key else f"{KEY_FILE}=FILE names the key that is shared with the lender"
        return UnauthorizedError(f"the lender at {address} refuses: {message}", hint)
    return EngineError(f"the lender at {address} refuses: {message}", hint)
