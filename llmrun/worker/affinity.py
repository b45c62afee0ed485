"""The threads that compute, and the processors that each of them may run on.

ggml is built with OpenMP, whose threads belong to the one that calls llama.cpp: it is number 0 of each team, and the
others keep their numbers from team to team. Those beyond a smaller team end with its start, and where a later one is
larger again, new ones are made, which may run where number 0 may (libgomp's team.c, gomp_team_start). So each thread
is asked to bind itself, in a team of our own just before ggml's; where ggml was built without OpenMP none is bound.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from llmrun.hardware.affinity import Places, read_places
from llmrun.worker.devices import bind

_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class ComputingThreads:
    """All threads that compute for the one thread of this process that calls llama.cpp. There is one for the process.

    Nothing is done before the first context that wants its threads bound.
    """

    def __init__(self) -> None:
        self._allowed: frozenset[int] | None = None  # what the process may use, while threads may use less
        self._places: Places = ()
        self._threads: tuple[int, ...] = ()  # those that are bound, by their number

    def places(self, affinity: str) -> Places:
        """Return where threads of such an affinity are to run; none where they cannot be bound, or need not be."""
        if affinity == "free" or sys.platform != "linux" or not _has_teams():
            return ()
        return read_places(affinity, self._allowed or os.sched_getaffinity(0))

    def bind(self, places: Places, n_threads: int) -> None:
        """Bind the threads of the next step; no places is that they are free again. Call before anything computes."""
        if places != self._places:
            self.release()
        if places and not self._are_bound(n_threads):
            self._bind(places, n_threads)

    def release(self) -> None:
        """Let all threads run where the process may, whoever made them."""
        if self._allowed is None or sys.platform != "linux":
            return
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended since
                mask = os.sched_getaffinity(int(task.name))
                if any(mask <= place for place in self._places):
                    os.sched_setaffinity(int(task.name), self._allowed)
        self._allowed, self._places, self._threads = None, (), ()

    def _are_bound(self, n_threads: int) -> bool:
        """Tell whether the first threads are still those that were bound; forget those that the next team ends."""
        if n_threads > len(self._threads) or sys.platform != "linux":
            return False
        try:
            os.sched_getaffinity(self._threads[n_threads - 1])
        except ProcessLookupError:  # a step within had a smaller team
            return False
        if n_threads > 1:  # one thread alone is no team
            self._threads = self._threads[:n_threads]
        return True

    def _bind(self, places: Places, n_threads: int) -> None:
        if sys.platform != "linux":
            return
        if self._allowed is None:
            self._allowed = frozenset(os.sched_getaffinity(0))
        number, found = bind("omp_get_thread_num", ctypes.c_int), {}

        def settle(_: object) -> None:
            mine = number()
            found[mine] = threading.get_native_id()
            with contextlib.suppress(OSError):  # what may be used has changed since: it stays as it is
                os.sched_setaffinity(0, places[mine % len(places)])

        _team()(_Region(settle), None, n_threads, 0)
        self._places = places
        self._threads = tuple(found[mine] for mine in sorted(found))


@cache
def computing_threads() -> ComputingThreads:
    """Return the one."""
    return ComputingThreads()


def _team() -> Any:
    """Return what runs a function in each thread of a team: libgomp's own entry."""
    return bind("GOMP_parallel", None, _Region, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


@cache
def _has_teams() -> bool:
    try:
        _team()
    except AttributeError:
        return False
    return True
