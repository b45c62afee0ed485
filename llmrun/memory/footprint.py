"""What a model takes, as values: four parts for the host and for each device. Knows nothing of how they are found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryBreakdown:
    """Bytes in one pool.

    weights: as stored there, repacked copies included. kv_cache: with recurrent state. compute: with the output buffer.
    overhead: the runtime's and the driver's own. mapped: how much of all that is pages of files, which the system can
    drop and read again; the rest is anonymous.
    """

    weights: int = 0
    kv_cache: int = 0
    compute: int = 0
    overhead: int = 0
    mapped: int = 0

    @property
    def total(self) -> int:
        """All four parts."""
        return self.weights + self.kv_cache + self.compute + self.overhead

    @property
    def anonymous(self) -> int:
        """What only this process can give back."""
        return self.total - self.mapped


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes on the host and on each device, in the order of the settings' devices."""

    host: MemoryBreakdown
    devices: tuple[MemoryBreakdown, ...] = ()

    @property
    def total(self) -> int:
        """Everything, wherever it is."""
        return self.host.total + sum(device.total for device in self.devices)


@dataclass(frozen=True, slots=True)
class Band:
    """A size that is not known to the byte: at least low, at most high, most likely likely."""

    low: int
    likely: int
    high: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A footprint by arithmetic; its compute parts are the upper edges of `compute`, host first, then the devices."""

    footprint: Footprint
    compute: tuple[Band, ...]
    output: int
    kv_cache: int
    state: int
