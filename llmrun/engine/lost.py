"""Which lenders a worker lost when it died of that: as its log says, else as they answer now."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Sequence

from llmrun.engine.protocol import DryRun, ListDevices, Load, Work
from llmrun.engine.refusal import lost_servers

_ASK_SECONDS = 1.0  # a lender that does not even take a connection by then is gone


def lender_of(device: str) -> str | None:
    """Return the lender, "rpc:HOST:PORT", of a device that is another machine's; None for one of this."""
    return device.partition("/")[0] if device.startswith("rpc:") else None


def lenders_of(devices: Iterable[str]) -> tuple[str, ...]:
    """Return the lenders among devices, each once, in their order."""
    return tuple(dict.fromkeys(lender for device in devices if (lender := lender_of(device)) is not None))


def lenders_in(command: Work) -> tuple[str, ...]:
    """Return the lenders that a worker speaks to when it carries a command out."""
    match command:
        case Load(settings=settings) | DryRun(settings=settings):
            return lenders_of(settings.devices or ())
        case ListDevices(endpoints=endpoints):
            return lenders_of(endpoints)
    return ()


def find_lost(log: Iterable[str], lenders: Sequence[str]) -> tuple[str, ...]:
    """Return which of the lenders is lost to a worker; all of them where each is still, or again, there.

    log: its last lines. Takes a second where a lender is gone without a word and the worker said nothing.
    """
    if (told := lost_servers(log)) or len(lenders) < 2:
        return told or tuple(lenders)
    return tuple(lender for lender, there in zip(lenders, are_there(lenders), strict=True) if not there) or (*lenders,)


def are_there(lenders: Sequence[str]) -> tuple[bool, ...]:
    """Return of each lender whether it takes a connection, all asked at once."""
    if not lenders:
        return ()
    from concurrent.futures import ThreadPoolExecutor  # here: who has no lenders starts without it

    with ThreadPoolExecutor(len(lenders)) as pool:
        return tuple(pool.map(_is_there, lenders))


def _is_there(lender: str) -> bool:
    host, _, port = lender.removeprefix("rpc:").rpartition(":")
    with contextlib.suppress(OSError, ValueError, OverflowError):
        socket.create_connection((host, int(port)), _ASK_SECONDS).close()
        return True
    return False
