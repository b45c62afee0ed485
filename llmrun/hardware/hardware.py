"""This machine as one value: its host, the devices the engine can use, and the GPUs that are there."""

from __future__ import annotations

from dataclasses import dataclass

from llmrun.hardware.device import Device
from llmrun.hardware.gpu import Gpu, NvidiaDriver
from llmrun.hardware.host import Host


@dataclass(frozen=True, slots=True)
class Hardware:
    """What was found. devices: what layers can be given to. gpus: what the system knows, usable or not.

    notes: what could not be seen, and why.
    """

    host: Host
    devices: tuple[Device, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    nvidia: NvidiaDriver | None = None
    notes: tuple[str, ...] = ()

    @property
    def own_memory(self) -> tuple[Device, ...]:
        """The devices with memory of their own: that of the others is the host's, and counted there."""
        return tuple(device for device in self.devices if not device.unified)
