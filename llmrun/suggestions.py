"""Models that would run well on this machine: what it is, what is here, and whether the Hub answers, all at once.

Knows whom to ask; what is chosen from the answers is `suggesting`'s.
"""

from __future__ import annotations

import contextlib

from llmrun.catalog import entries
from llmrun.engine.standby import Standby
from llmrun.errors import EngineError
from llmrun.footprints import machine_of
from llmrun.hardware.device import Device
from llmrun.hardware.host_memory import read_host_memory
from llmrun.hardware.threads import usual_threads
from llmrun.hub.cache import read_cache
from llmrun.hub.presence import Presence
from llmrun.memory.estimate import Machine
from llmrun.site import Site
from llmrun.speeds import open_speeds
from llmrun.suggesting import Suggestion, suggest

HUB_SECONDS = 1.0  # that the Hub has to answer: longer is not waited where nobody asked for it


def read_suggestions(*, offline: bool = False) -> tuple[Suggestion, ...]:
    """Return what would run well here, the best first; only what is here where the Hub does not answer at once.

    Where there is something to suggest it takes as long as an engine takes to start, for the devices that it sees;
    where there is nothing, HUB_SECONDS at most.
    """
    presence = None if offline else Presence(HUB_SECONDS)  # asks while the rest is looked at
    here = models_here()
    threads = usual_threads()
    speeds = open_speeds(threads.decode)
    if not here and (presence is None or not presence.answers()):
        return ()  # before an engine is started for nothing
    with Standby() as standby:
        can_fetch = presence is not None and presence.answers()
        site = Site(read_host_memory(), threads, _devices(standby))
    return suggest(entries(), site, speeds, here, fetch=can_fetch)


def models_here() -> frozenset[str]:
    """Return the repositories of the catalog of which the cache, or another program, has a whole model."""
    from llmrun.grouping import group_files
    from llmrun.shelf.shelves import find_all, read_shelves

    known = {entry.repo_id for entry in entries()}
    kept = (repo for repo in read_cache().repos if repo.repo_id in known)
    cached = {repo.repo_id for repo in kept if group_files(repo.files, repo.repo_id).variants}
    shelved = [model for model in read_shelves() if model.problem is None]
    others = {
        entry.repo_id for entry in entries() if any(find_all(name, shelved) for name in (entry.name, entry.repo_id))
    }
    return frozenset(cached | others)


def _devices(standby: Standby) -> tuple[Device, ...]:
    with contextlib.suppress(EngineError):  # without an engine there is none, and the plan will say so
        return machine_of(standby.devices(), None, 0, Machine()).devices
    return ()
