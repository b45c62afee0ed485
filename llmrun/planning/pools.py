"""Memory pools and what a model takes of them: does it fit, and with how much to spare. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmrun.hardware.device import Device, Lender
from llmrun.memory.footprint import Footprint, MemoryBreakdown

_MIB = 1 << 20
# Bytes left free on purpose, to start with: what else a machine needs while a model runs, and what else a container.
_HOST_RESERVE = 512 * _MIB
_LIMIT_RESERVE = 64 * _MIB
_HOST_RESERVE_PART = 20  # of the total: 5 %
DEVICE_RESERVE = 512 * _MIB


@dataclass(frozen=True, slots=True)
class Reserve:
    """Bytes left free on purpose: on the host, on a device unless it is among by_device, by id."""

    host: int
    device: int = DEVICE_RESERVE
    by_device: Mapping[str, int] = field(default_factory=dict)

    def of_device(self, device_id: str, unified: bool = False) -> int:
        """Return what to leave free on a device; what shares the host's memory has it there."""
        return 0 if unified else self.by_device.get(device_id, self.device)


def host_reserve(total: int, limit: int | None = None, outside: int = 0) -> int:
    """Return the bytes to leave free on a host with so many bytes of RAM.

    limit: what a container allows; in it little else runs. outside: bytes the host has available beyond what is left
    of the limit; where they are fewer than a host keeps free, the rest is kept free inside.
    """
    kept = max(_HOST_RESERVE, total // _HOST_RESERVE_PART)
    if limit is None:
        return kept
    return max(_LIMIT_RESERVE, limit // _HOST_RESERVE_PART, kept - outside)


@dataclass(frozen=True, slots=True)
class Pool:
    """The host or a device, and what a model takes there.

    id: "host", or the device's as settings name it. available: bytes that can be had now; None where nobody knows.
    shared: bytes that devices without memory of their own take of this pool besides. lender: the other machine that the
    device is of.
    """

    id: str
    name: str
    total: int | None
    available: int | None
    reserve: int
    used: MemoryBreakdown
    shared: int = 0
    lender: Lender | None = None

    @property
    def needed(self) -> int:
        """Bytes taken of it in all, the reserve not counted."""
        return self.used.total + self.shared

    @property
    def headroom(self) -> int | None:
        """Bytes to spare beside the model and the reserve; negative where it does not fit, None where nobody knows."""
        return None if self.available is None else self.available - self.needed - self.reserve

    @property
    def fits(self) -> bool:
        """Whether the model and the reserve fit, as far as is known."""
        return self.headroom is None or self.headroom >= 0


def make_pools(
    footprint: Footprint,
    host_total: int,
    host_available: int,
    devices: Sequence[Device],
    reserve: Reserve | None = None,
) -> tuple[Pool, ...]:
    """Return the host's pool, then the devices'; what one without memory of its own takes is the host's too.

    reserve: None is what a host outside of containers needs.
    """
    kept = Reserve(host_reserve(host_total)) if reserve is None else reserve
    shared = sum(used.total for device, used in zip(devices, footprint.devices, strict=True) if device.unified)
    host = Pool("host", "RAM", host_total, host_available, kept.host, footprint.host, shared)
    others = (
        Pool(
            *(device.id, device.name, device.total, device.free, kept.of_device(device.id, device.unified), used),
            lender=device.lender,
        )
        for device, used in zip(devices, footprint.devices, strict=True)
    )
    return (host, *others)
