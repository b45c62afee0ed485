"""A device as people name it, with how much of it may be used: "CUDA0", "rpc:127.0.0.1:50052=6GiB". Pure.

A server of another process says that its whole machine's RAM is its memory, and a card may be wanted for other things.
Knows the form of a name only: whether there is such a device is the engine's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llmrun.errors import UsageError
from llmrun.hardware.device import Device
from llmrun.units import format_bytes, parse_bytes

# Less is a slip, as in "CUDA0=6": there is no model of which a layer and its buffers would fit into it.
MIN_LIMIT = 1 << 20
_EXAMPLE = "write CUDA0=6GiB, or rpc:192.168.1.7:50052=6GiB"
_ID = re.compile(r"[^\s=,]+")


@dataclass(frozen=True, slots=True)
class DeviceWish:
    """A device to use, by the name settings call it; limit: bytes of it to use at most, None is all that is free."""

    id: str
    limit: int | None = None


def parse_device(text: str) -> DeviceWish:
    """Read a device's name with or without a limit; raises UsageError for what is neither."""
    name, separator, size = text.strip().partition("=")
    if _ID.fullmatch(name) is None:
        raise UsageError(f"{text[:80]!r} names no device", _EXAMPLE)
    if not separator:
        return DeviceWish(name)
    if "=" in size:
        raise UsageError(f"{text[:80]!r} has two limits", _EXAMPLE)
    limit = parse_bytes(size)
    if limit < MIN_LIMIT:
        raise UsageError(f"{format_bytes(limit)} of {name} is too little for a model", _EXAMPLE)
    return DeviceWish(name, limit)


def format_device(wish: DeviceWish) -> str:
    """Write a wish so that parse_device reads it again: 6 x 2^30 bytes of CUDA0 is "CUDA0=6GiB"."""
    if wish.limit is None:
        return wish.id
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if wish.limit % size == 0:
            return f"{wish.id}={wish.limit // size}{unit}"
    return f"{wish.id}={wish.limit}B"


def limited(devices: Sequence[Device], wishes: Iterable[DeviceWish]) -> tuple[Device, ...]:
    """Return the devices with no more free memory than was wished for; of two limits of one device the lower counts.

    llama.cpp knows nothing of it: what it splits by itself it splits by what is really free.
    """
    limits: dict[str, int] = {}
    for wish in wishes:
        if wish.limit is not None:
            limits[wish.id] = min(wish.limit, limits.get(wish.id, wish.limit))
    return tuple(_lowered(device, limits.get(device.id)) for device in devices)


def _lowered(device: Device, limit: int | None) -> Device:
    if limit is None:
        return device
    return replace(device, free=limit if device.free is None else min(device.free, limit))
