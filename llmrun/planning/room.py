"""How many bytes may be taken of each pool, the reserve left free: what a footprint is held against. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmrun.hardware.device import Device
from llmrun.memory.footprint import Footprint
from llmrun.memory.overhead import device_overhead
from llmrun.planning.pools import Reserve


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of the host, and of each device in order; None is unknown, and nothing is too much for it.

    unified: devices whose memory is the host's. drivers: what of each device its driver takes in every footprint, as
    far as that is known. from_disk: pages of a file need no room: they are read again and again.
    """

    host: int
    devices: tuple[int | None, ...] = ()
    unified: tuple[bool, ...] = ()
    drivers: tuple[int, ...] = ()
    from_disk: bool = False

    @property
    def for_layers(self) -> tuple[int | None, ...]:
        """Bytes of each device that are left for layers at the most."""
        drivers = self.drivers or (0,) * len(self.devices)
        return tuple(
            None if size is None else max(0, size - taken) for size, taken in zip(self.devices, drivers, strict=True)
        )

    @property
    def together(self) -> int | None:
        """Bytes of all devices for layers, None where one of them is unknown."""
        sizes = self.for_layers
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def separate(self) -> int | None:
        """Bytes of the devices with memory of their own, None where one of them is unknown."""
        own = [size for size, shared in zip(self.for_layers, self.unified, strict=True) if not shared]
        return None if None in own else sum(size for size in own if size is not None)

    def only(self, indices: Sequence[int]) -> Room:
        """Return the room of some of the devices."""
        return Room(
            self.host,
            tuple(self.devices[index] for index in indices),
            tuple(self.unified[index] for index in indices),
            tuple(self.drivers[index] for index in indices) if self.drivers else (),
            self.from_disk,
        )

    def lacking(self, footprint: Footprint) -> tuple[int, ...]:
        """Return the bytes that are lacking, of the host and of each device of the footprint; 0 is none."""
        host = footprint.host.total - (footprint.host.mapped if self.from_disk else 0)
        host += sum(used.total for used, shared in zip(footprint.devices, self.unified, strict=True) if shared)
        return (
            max(0, host - self.host),
            *(
                0 if room is None else max(0, used.total - room)
                for used, room in zip(footprint.devices, self.devices, strict=True)
            ),
        )

    def holds(self, footprint: Footprint) -> bool:
        """Whether every pool has room."""
        return not any(self.lacking(footprint))


def make_room(host_available: int, devices: Sequence[Device], reserve: Reserve) -> Room:
    """Return the room a machine has; a device that shares the host's memory needs no reserve of its own."""
    return Room(
        max(0, host_available - reserve.host),
        tuple(_room_of(device, reserve) for device in devices),
        tuple(device.unified for device in devices),
        tuple(device_overhead(device.backend) for device in devices),
    )


def _room_of(device: Device, reserve: Reserve) -> int | None:
    return None if device.free is None else max(0, device.free - reserve.of_device(device.id, device.unified))
