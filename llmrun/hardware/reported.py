"""Devices as the engine reports them: which of them are used, as the planner sees them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from llmrun.engine.protocol import DeviceInfo
from llmrun.errors import UsageError
from llmrun.hardware.device import UNIFIED_BACKENDS, Device


def devices_of(found: Sequence[DeviceInfo], wished: Sequence[str] | None) -> tuple[Device, ...]:
    """Return the devices that were wished for, in that order; None is all that are worth it.

    Raises UsageError for a name that is not among those found, or given twice.
    """
    by_id = {info.id: _device(info) for info in found if info.kind in ("GPU", "IGPU")}
    chosen = tuple(by_id) if wished is None else tuple(wished)
    for index, name in enumerate(chosen):
        if name not in by_id:
            raise _unknown(name, tuple(by_id))
        if name in chosen[:index]:
            raise UsageError(f"the device {name} is named twice", "name each once; --device none is the CPU")
    devices = tuple(by_id[name] for name in chosen)
    if wished is None:  # llama.cpp takes one that shares the host's memory only where there is no other (src/llama.cpp)
        devices = tuple(device for device in devices if not device.unified) or devices
    return devices


def _unknown(name: str, known: Sequence[str]) -> UsageError:
    """Return the error for a device there is not; of a lender's only its others are of use."""
    lender = name.rpartition("/")[0] if name.startswith("rpc:") else ""
    lent = [other for other in known if lender and other.partition("/")[0] == lender]
    if lent:
        return UsageError(f"there is no device {name}: that lender has {', '.join(lent)}", f"--device {lent[0]}")
    return UsageError(
        f"there is no device {name}: the engine sees {', '.join(known) or 'none'}", "--device none is the CPU"
    )


def _device(info: DeviceInfo) -> Device:
    unified = info.kind == "IGPU" or info.backend in UNIFIED_BACKENDS
    known = info.total > 0  # some drivers tell nothing, and say 0 (llama.cpp's issue 18577)
    return Device(
        info.id,
        info.backend,
        info.description,
        info.total if known else None,
        info.free if known else None,
        unified=unified,
    )
