"""What a lender says of itself over HTTP, beside llama.cpp's own protocol; how a request for that is signed. Pure.

The status endpoint is always at the RPC port plus one. A request for it may have to prove that who sends it knows a
key: `Authorization: LLMRUN-HMAC time=SECONDS,mac=HEX`, where mac is HMAC-SHA256 (RFC 2104) by that key of
"METHOD PATH?QUERY SECONDS". The key never travels, and what is overheard can be sent again for SECONDS_VALID only.
It guards this endpoint alone: llama.cpp's protocol asks nobody for anything.
"""

from __future__ import annotations

import hashlib
import hmac
import re

import msgspec

from llmrun.errors import EngineError, UnauthorizedError, UsageError

STATUS, BYTES = "/status", "/bytes"
MEASURING_BYTES = 4 << 20  # that llmrun borrows for a moment to measure the way to a device
MOST_BYTES = 64 << 20  # of one measurement of the link, in each direction
SECONDS_VALID = 60
SHORTEST_KEY = 16  # bytes: one of fewer could be guessed

_SCHEME = "LLMRUN-HMAC"
_SIGNED = re.compile(rf"{_SCHEME} time=(\d{{1,12}}),mac=([0-9a-f]{{64}})", re.ASCII)
_LAST_PORT = 65535


class LentDevice(msgspec.Struct, frozen=True):
    """A device that is lent; the n-th of a lender is `rpc:HOST:PORT/n`.

    id, backend, kind: as the lender's ggml calls it ("CUDA0", "CUDA", "GPU"). total: bytes that are lent at most. free:
    bytes that can be had now, what is lent already and what the lender keeps for itself taken off.
    """

    id: str
    name: str
    backend: str
    kind: str
    total: int
    free: int


class Status(msgspec.Struct, frozen=True):
    """A lender now.

    llmrun, engine: versions. rpc: MAJOR.MINOR of llama.cpp's protocol. host: the machine's name. devices: in the order
    of the RPC server. cache: whether tensors that came once are kept. client: the address of who borrows; None is
    nobody.
    """

    llmrun: str
    engine: str
    rpc: str
    host: str
    devices: tuple[LentDevice, ...]
    cache: bool
    client: str | None = None


def status_port(port: int) -> int:
    """Return the port of a lender's status endpoint, by that of its devices; raises UsageError where there is none."""
    if not 0 < port < _LAST_PORT:
        raise UsageError(
            f"port {port} has no port after it for the status endpoint", f"choose one from 1 to {_LAST_PORT - 1}"
        )
    return port + 1


def encode_status(status: Status) -> bytes:
    """Return a status as JSON."""
    return msgspec.json.encode(status)


def parse_status(data: bytes) -> Status:
    """Read a status; raises EngineError for what is none, or has sizes that nothing has."""
    try:
        status = msgspec.json.decode(data, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError("what answers there is no lender", "`llmrun lend` starts one") from error
    if not status.devices or any(not 0 <= device.free <= device.total for device in status.devices):
        raise EngineError("the lender's status makes no sense: free memory beyond what there is, or no device")
    return status


def sign(key: bytes, method: str, target: str, now: int) -> str:
    """Return the value of Authorization for a request; target: PATH or PATH?QUERY, now: seconds since 1970."""
    return f"{_SCHEME} time={now},mac={_mac(key, method, target, now)}"


def check_signature(key: bytes, method: str, target: str, header: str | None, now: float) -> None:
    """Raise UnauthorizedError unless a request was signed with this key, not more than SECONDS_VALID ago or ahead."""
    found = _SIGNED.fullmatch((header or "").strip())
    if found is None:
        raise UnauthorizedError(
            "this lender asks for a signature", "name the lender's key file: LLMRUN_LEND_KEY_FILE=FILE"
        )
    # the signature first: who has not the key learns nothing of this machine's clock
    if not hmac.compare_digest(found[2], _mac(key, method, target, int(found[1]))):
        raise UnauthorizedError("the signature is not by this lender's key", "both machines need the same key file")
    if abs(now - int(found[1])) > SECONDS_VALID:
        raise UnauthorizedError(
            f"the signature is {abs(now - int(found[1])):,.0f} seconds off, {SECONDS_VALID} are allowed",
            "are both machines' clocks right?",
        )


def _mac(key: bytes, method: str, target: str, now: int) -> str:
    return hmac.new(key, f"{method} {target} {now}".encode(), hashlib.sha256).hexdigest()
