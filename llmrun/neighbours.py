"""A plan beside other models that this program has loaded: what those that are idle hold counts as free.

Knows what each of them was planned to take and what its process holds; must not know who uses them, or for what.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from llmrun.engine.lost import lenders_of
from llmrun.engine.standby import Standby
from llmrun.errors import BusyError, InsufficientMemoryError
from llmrun.hardware.device import Device
from llmrun.hardware.resident import Resident, read_resident
from llmrun.hardware.threads import Threads
from llmrun.models import Model
from llmrun.planning.plan import Plan
from llmrun.planning.pools import Pool
from llmrun.settling import Settled, Stockroom, Wishes, settle
from llmrun.site import Site

State = Literal["idle", "busy", "pinned"]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A model that is loaded: what its plan has of each pool, the host's first, and what its process holds of RAM.

    state: idle is one that may be ended, busy one that may be once it has answered. held: None where nobody can tell.
    lenders: the other machines whose devices it has, each as "rpc:HOST:PORT".
    """

    name: str
    state: State
    pools: tuple[Pool, ...]
    held: Resident | None = None
    lenders: tuple[str, ...] = ()

    @property
    def given(self) -> int:
        """Bytes of the host that cannot be had while it is loaded: the pages of its file can, and do not count."""
        host = self.pools[0]
        if self.held is None:
            return host.used.anonymous + host.shared
        # a system that does not tell pages of files from others: what was planned of the others
        known = self.held.anonymous if self.held.mapped else min(self.held.anonymous, host.used.anonymous)
        return known + host.shared

    @property
    def owed(self) -> int:
        """Bytes of the host that it is still to take, or to take back: they can be had now, and are spoken for."""
        return max(0, self.pools[0].needed - self.given)

    def holds(self, pool_id: str) -> int:
        """Return the bytes of a pool that come back when it ends."""
        if pool_id == "host":
            return self.given
        return sum(pool.used.total for pool in self.pools[1:] if pool.id == pool_id)


class Neighbourhood(Protocol):
    """The models that are loaded, and the end of those that nobody needs."""

    def neighbours(self) -> tuple[Neighbour, ...]:
        """Return them as they are now, those first that are to go first."""

    def release(self, neighbour: Neighbour) -> bool:
        """End one and wait until it is gone; False where somebody needs it meanwhile."""

    def pids(self) -> tuple[int, ...]:
        """Return the processes in which they run."""

    def check(self, path: Path) -> None:
        """Raise where this file is loaded already."""


class Alone:
    """No other model is loaded."""

    def neighbours(self) -> tuple[Neighbour, ...]:
        """Return none."""
        return ()

    def release(self, neighbour: Neighbour) -> bool:
        """Return that there is none."""
        del neighbour
        return False

    def pids(self) -> tuple[int, ...]:
        """Return none."""
        return ()

    def check(self, path: Path) -> None:
        """Do nothing."""


def looked_at(name: str, state: State, plan: Plan, pid: int) -> Neighbour:
    """Return a loaded model with what its process holds now."""
    lenders = lenders_of(plan.settings.devices or ())
    return Neighbour(name, state, plan.forecast.pools, read_resident(pid), lenders)


def site_without(site: Site, stay: Iterable[Neighbour], go: Iterable[Neighbour]) -> Site:
    """Return a machine as it is when some of those it runs are gone, and the others have all that was planned for them.

    Pages of a model's file count as memory that can be had (/proc/meminfo, MemAvailable), whoever is about to read them
    again: those of a model that stays are taken off.
    """
    stays, goes = tuple(stay), tuple(go)
    memory = site.memory
    available = memory.available + sum(one.given for one in goes) - sum(one.owed for one in stays)
    devices = [_device_without(device, goes) for device in site.devices]
    return replace(site.with_devices(devices), memory=replace(memory, available=min(memory.total, max(0, available))))


def _device_without(device: Device, goes: Sequence[Neighbour]) -> Device:
    if device.free is None or device.unified:  # what is unified is counted on the host
        return device
    free = device.free + sum(one.holds(device.id) for one in goes)
    return replace(device, free=free if device.total is None else min(device.total, free))


def lacking_pools(plan: Plan, site: Site) -> frozenset[str]:
    """Return the pools in which a plan has no room on a machine as it is now."""
    free = {device.id: device.free for device in site.devices} | {"host": site.memory.available}
    pools = (replace(pool, available=free.get(pool.id, pool.available)) for pool in plan.forecast.pools)
    return frozenset(pool.id for pool in pools if not pool.fits)


@dataclass(frozen=True, slots=True)
class Settling:
    """What is to be planned: a model, for whom, and beside whom."""

    model: Model
    standby: Standby
    wishes: Wishes
    threads: Threads
    beside: Neighbourhood

    def settled(self) -> Settled:
        """Return a plan for which there is room, as good as if those that are idle were not there; some may be gone.

        Raises what settle raises; BusyError where it fits only once a busy one is gone, and what Neighbourhood.check
        raises.
        """
        self._free_lenders()
        while True:
            around = self.beside.neighbours()
            wished = self._wished(around)
            if not around:
                return wished
            if wished.chosen.variant.is_here:
                self.beside.check(wished.chosen.variant.path)
            if not any(one.state == "idle" for one in around) or self._made_room(wished.plan):
                # what was free before loading, for whoever compares it with what is free after it
                return replace(wished, site=self._site())

    def _free_lenders(self) -> None:
        """End idle ones that have devices of the lenders that are wished for: these have one borrower at a time."""
        wished = frozenset(lenders_of(self.wishes.constraints.devices or ()))
        while wished and (have := [one for one in self.beside.neighbours() if not wished.isdisjoint(one.lenders)]):
            stays = next((one for one in have if one.state != "idle"), None)
            if stays is None and self.beside.release(have[0]):
                continue
            holder = stays or have[0]
            lender = next(name for name in holder.lenders if name in wished)
            if holder.state == "pinned":
                raise InsufficientMemoryError(
                    f"{lender} is lent to {holder.name}, which is pinned",
                    f"a lender has one borrower at a time: `llmrun stop {holder.name}` unloads that one",
                )
            raise BusyError(
                f"{lender} is lent to {holder.name}, which answers others now",
                "ask again when the answers are finished: a lender has one borrower at a time",
            )

    def _wished(self, around: Sequence[Neighbour]) -> Settled:
        idle = [one for one in around if one.state == "idle"]
        try:
            return self._settled(around, idle)
        except InsufficientMemoryError:
            busy = [one for one in around if one.state == "busy"]
            if not busy:
                raise
            self._settled(around, [*idle, *busy])  # raises where it would not fit even then
            names = ", ".join(one.name for one in busy)
            raise BusyError(
                f"there is no room for the model beside {names}, which answers others now",
                "ask again when the answers are finished",
            ) from None

    def _settled(self, around: Sequence[Neighbour], go: Sequence[Neighbour]) -> Settled:
        site = site_without(self._site(), [one for one in around if one not in go], go)
        wishes = self.wishes
        room = Stockroom(site, self.standby if site.here else None, wishes.loras, wishes.eye, wishes.draft)
        return settle(self.model, room, self.wishes)

    def _site(self) -> Site:
        return self.wishes.site(self.standby, self.model.found()[0][1], self.threads)

    def _made_room(self, plan: Plan) -> bool:
        """End idle ones until there is room for a plan; False where that changed, or did not suffice."""
        while True:
            around = self.beside.neighbours()
            lacking = lacking_pools(plan, site_without(self._site(), around, ()))
            if not lacking:
                return True
            idle = (one for one in around if one.state == "idle" and any(one.holds(pool) for pool in lacking))
            first = next(idle, None)
            if first is None or not self.beside.release(first):
                return False
