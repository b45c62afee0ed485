"""What `llmrun serve --emit` writes of: options, plans, and what these take of the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.deployment.limits import MemoryLimits, memory_limits
from llmrun.deployment.options import Option
from llmrun.margins import HOST
from llmrun.planning.margins import adjusted
from llmrun.settings import AUTO, MTP

if TYPE_CHECKING:
    from llmrun.cli.serving import ServeWish
    from llmrun.pipeline import Planned


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is to be served: the options as they were given, the models' plans, and what these take of the host."""

    wish: ServeWish
    options: tuple[Option, ...]
    planned: tuple[Planned, ...]
    limits: MemoryLimits

    @property
    def mlock(self) -> bool:
        """Whether a plan keeps pages in memory."""
        return any("mlock" in one.plan.settings.load_mode for one in self.planned)

    @property
    def backends(self) -> frozenset[str]:
        """The drivers' kinds, by ggml's names, of the devices that plans have layers on."""
        on_devices = [one for one in self.planned if one.plan.forecast.n_offloaded]
        return frozenset(device.backend for one in on_devices for device in one.site.devices)


def limits_of(planned: Sequence[Planned], reserve: int | None) -> MemoryLimits:
    """Return the limits for all models at once, or for as many as the memory there is now holds."""
    hosts = [one.plan.forecast.pools[0] for one in planned]
    needed = [host.needed for host in hosts]
    room = (hosts[0].available or 0) - hosts[0].reserve
    excess = adjusted(0, planned[0].site.seen.get(HOST, ()), shrinks=False)
    return memory_limits(max(max(needed), min(sum(needed), room)), reserve, excess)


def placed(options: Iterable[Option], place: Callable[[str], str]) -> tuple[Option, ...]:
    """Return the options with the models among them as they are called where it runs."""
    return tuple(
        replace(option, value=place(option.value)) if option.value and _is_model(option) else option
        for option in options
    )


def _is_model(option: Option) -> bool:
    is_draft = option.name == "--draft" and (option.value or "").lower() not in (AUTO, MTP)
    return is_draft or option.name == "--pin"


def absolute(path: Path) -> Path:
    """Return a path that means the same in every folder, without .. in it, under its own name."""
    path = path.expanduser().absolute()
    return path.resolve() if path.name == ".." else path.parent.resolve() / path.name
