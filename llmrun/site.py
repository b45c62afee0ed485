"""The machine that is planned for, as the planner sees it: this one, or another that was described."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from llmrun.engine.layouts import read_layouts
from llmrun.engine.standby import Standby
from llmrun.errors import EngineError, LLMRunError, UsageError
from llmrun.folders import links_folder
from llmrun.hardware.device import Device
from llmrun.hardware.device_wish import DeviceWish, limited
from llmrun.hardware.host_memory import HostMemory, read_host_memory
from llmrun.hardware.reported import devices_of
from llmrun.hardware.resident import read_resident
from llmrun.hardware.threads import Threads
from llmrun.margins import HOST, pool_name, read_margins
from llmrun.planning.margins import Margin, adjusted
from llmrun.planning.pools import DEVICE_RESERVE, Reserve, host_reserve
from llmrun.settings import Constraints

if TYPE_CHECKING:
    from llmrun.engine.protocol import DeviceInfo
    from llmrun.gguf.header import GGUFHeader
    from llmrun.hardware.hardware import Hardware
    from llmrun.hardware.layout import Layouts
    from llmrun.lenders import Found
    from llmrun.memory.estimate import Machine


class Lists(Protocol):
    """An engine that can be asked for its devices."""

    def devices(self, endpoints: Iterable[str] = ()) -> tuple[DeviceInfo, ...]:
        """Return them, and those at endpoints."""


@dataclass(frozen=True, slots=True)
class Site:
    """Memory, devices and threads. layouts: see memory.estimate.Machine.

    here: whether it is this machine, so that the engine can be asked about it. seen: what loads took here beside what
    was planned, by the names of llmrun.margins.
    """

    memory: HostMemory
    threads: Threads
    devices: tuple[Device, ...] = ()
    layouts: Layouts = field(default_factory=dict)
    here: bool = True
    seen: Mapping[str, Sequence[Margin]] = field(default_factory=dict)

    @property
    def machine(self) -> Machine:
        """The machine as footprints see it."""
        from llmrun.memory.estimate import Machine  # here, as below: who takes a plan up again needs no arithmetic

        return Machine(self.devices, self.layouts, self.memory.available)

    def reserve(self, host: int | None = None, device: int | None = None) -> Reserve:
        """Return what to leave free; None is what is usual, and what loads have taught about it."""
        memory = self.memory
        usual = host_reserve(memory.machine_total or memory.total, memory.limit, memory.outside)
        if host is None:
            host = adjusted(usual, self.seen.get(HOST, ()), shrinks=False)
        if device is not None:
            return Reserve(host, device)
        learnt = {
            one.id: 0  # a lender keeps for itself what it needs, and takes it off what it says is free
            if one.lender is not None and one.lender.host is not None
            else adjusted(DEVICE_RESERVE, self.seen.get(pool_name(one), ()), shrinks=True)
            for one in self.devices
        }
        return Reserve(host, DEVICE_RESERVE, learnt)

    def with_devices(self, devices: Sequence[Device]) -> Site:
        """Return the same machine with these devices to be used."""
        return replace(self, devices=tuple(devices))


def site_of(hardware: Hardware) -> Site:
    """Return a machine that was described; what its processor repacks is not known, so nothing is."""
    return Site(hardware.host.memory, hardware.host.threads, hardware.devices, here=False)


def described_site(machine: Hardware, constraints: Constraints) -> Site:
    """Return another machine with the devices that are wished for; raises UsageError for one it does not have."""
    site = site_of(machine)
    wished = constraints.devices
    by_id = {device.id: device for device in site.devices}
    if missing := [name for name in wished or () if name not in by_id]:
        names = ", ".join(by_id) or "none"
        raise UsageError(f"that machine has no device {missing[0]}: it has {names}", "--device none is the CPU")
    chosen = site.devices if wished is None else [by_id[name] for name in wished]
    return _within_limits(site.with_devices(chosen), constraints)


def _within_limits(site: Site, constraints: Constraints) -> Site:
    limits = zip(constraints.devices or (), constraints.device_limits, strict=False)
    return site.with_devices(limited(site.devices, (DeviceWish(name, limit) for name, limit in limits)))


def find_site(standby: Standby, constraints: Constraints, header: GGUFHeader, threads: Threads) -> Site:
    """Return this machine with the devices that are wished for, or the ones llama.cpp would take by itself.

    Without an engine there are none. Lenders are asked before the engine may touch them. Raises UsageError for a device
    that is not there or named twice, EngineError for one that cannot be reached, UnauthorizedError for another key.
    """
    bare = _bare(threads, taken_by(standby))
    wished = constraints.devices
    lenders = _lenders(wished or ())
    try:
        found = _listed(standby, wished or (), lenders)
        if wished is None and any(info.kind in ("GPU", "IGPU") for info in found):
            from llmrun.footprints import Footprints

            with contextlib.suppress(LLMRunError):  # a model that is refused is so again, with its reason
                wished = Footprints(header, bare.machine, standby).default_devices()
        return _within_limits(bare.with_devices(_told(devices_of(found, wished), lenders)), constraints)
    except EngineError:
        if wished:  # they were named: without them this is another question
            raise
        return bare


def lent_devices(engine: Lists, names: Sequence[str], *, remeasure: bool = False) -> tuple[Device, ...]:
    """Return devices that other machines lend, by name, as `find_site` does; remeasure: the ways to them, anew."""
    if not names:
        return ()
    lenders = _lenders(names, remeasure=remeasure)
    return _told(devices_of(_listed(engine, names, lenders), names), lenders)


def _lenders(names: Sequence[str], *, remeasure: bool = False) -> Mapping[str, Found]:
    """Ask the lenders among devices, and measure the ways to them: `find_lenders` without its imports for none."""
    if not any(name.startswith("rpc:") for name in names):
        return {}
    from llmrun.lenders import find_lenders
    from llmrun.links import Links

    return find_lenders(names, Links(links_folder(), remeasure=remeasure))


def _told(devices: Iterable[Device], lenders: Mapping[str, Found]) -> tuple[Device, ...]:
    """Return devices with what their lenders say of them."""
    if not lenders:
        return tuple(devices)
    from llmrun.lenders import told

    return tuple(told(device, lenders) for device in devices)


def _listed(engine: Lists, wished: Sequence[str], lenders: Mapping[str, Found]) -> tuple[DeviceInfo, ...]:
    try:
        return list_devices(engine, wished)
    except EngineError as error:
        if not lenders:
            raise
        from llmrun.lenders import retold

        told = retold(error, lenders)
        if told is error:
            raise
        raise told from error


def same_site(found: Sequence[DeviceInfo], constraints: Constraints, threads: Threads, ours: int) -> Site:
    """Return this machine without devices, as it was planned for before; found: those that are here now.

    ours: see taken_by.
    """
    return _within_limits(_bare(threads, ours).with_devices(devices_of(found, ())), constraints)


def taken_by(standby: Standby) -> int:
    """Return the bytes that the waiting engine has already: the plan counts them among what it will take."""
    seen = [read_resident(pid) for pid in standby.pids]
    return sum(one.anonymous for one in seen if one is not None)


def list_devices(engine: Lists, names: Sequence[str]) -> tuple[DeviceInfo, ...]:
    """Return the engine's devices, those at the endpoints among the names too; raises EngineError."""
    return engine.devices(name for name in names if name.startswith("rpc:"))


def _bare(threads: Threads, ours: int) -> Site:
    memory = read_host_memory()
    memory = replace(memory, available=min(memory.total, memory.available + ours))
    return Site(memory, threads, layouts=read_layouts(), seen=read_margins())
