"""The machine that is planned for, as the planner sees it: this one, or another that was described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmrun.hardware.device import Device
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads
from llmrun.margins import HOST, pool_name
from llmrun.memory.estimate import Machine
from llmrun.planning.margins import Margin, adjusted
from llmrun.planning.pools import DEVICE_RESERVE, Reserve, host_reserve


@dataclass(frozen=True, slots=True)
class Site:
    """Memory, devices and threads. repack_rows: see memory.estimate.Machine.

    here: whether it is this machine, so that the engine can be asked about it. seen: what loads took here beside what
    was planned, by the names of llmrun.margins.
    """

    memory: HostMemory
    threads: Threads
    devices: tuple[Device, ...] = ()
    repack_rows: Mapping[str, int] = field(default_factory=dict)
    here: bool = True
    seen: Mapping[str, Sequence[Margin]] = field(default_factory=dict)

    @property
    def machine(self) -> Machine:
        """The machine as footprints see it."""
        return Machine(self.devices, self.repack_rows, self.memory.available)

    def reserve(self, host: int | None = None, device: int | None = None) -> Reserve:
        """Return what to leave free; None is what is usual, and what loads have taught about it."""
        memory = self.memory
        usual = host_reserve(memory.machine_total or memory.total, memory.limit, memory.outside)
        if host is None:
            host = adjusted(usual, self.seen.get(HOST, ()), shrinks=False)
        if device is not None:
            return Reserve(host, device)
        learnt = {
            one.id: adjusted(DEVICE_RESERVE, self.seen.get(pool_name(one), ()), shrinks=True) for one in self.devices
        }
        return Reserve(host, DEVICE_RESERVE, learnt)

    def with_devices(self, devices: Sequence[Device]) -> Site:
        """Return the same machine with these devices to be used."""
        return replace(self, devices=tuple(devices))


def site_of(hardware: Hardware) -> Site:
    """Return a machine that was described; what its processor repacks is not known, so nothing is."""
    return Site(hardware.host.memory, hardware.host.threads, hardware.devices, here=False)
