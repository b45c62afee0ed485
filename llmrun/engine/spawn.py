"""The worker's process: begun at the first moment of a program that will need one, or else when it is asked for.

Light to import: the sooner a worker is begun, the more of its start lies beside that of the program itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from llmrun.errors import EngineError

# How often a thread of the engine looks for what it waits for before it sleeps, where it uses libgomp, whose own number
# is 300,000. Tokens a second of 0.6B in Q4_K_M with 2 threads on 2 cores (medians of 3 or 4, 2026-11): alone 35 with
# 20,000, 34 with 2,000, 32 with libgomp's own, 18 with 0; beside one busy process 2, 11 and 1.4, one thread has 21.
# Where others are busy threads become fewer (worker.crew): these are the steps until then, and those that are fixed.
_SPINS = "20000"
# glibc's word for memory in pages of 2 MiB, where the system leaves that to programs. Weights that are copies lie in
# such memory then. Tokens a second of 1.2B in Q4_K_M on 2 cores of a Xeon (2026-11): repacked 21.0 against 18.5, in
# AMX's buffers 21.5 against 17.0.
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


@dataclass(frozen=True, slots=True)
class Begun:
    """A process and the moment it was begun, by time.perf_counter."""

    process: subprocess.Popen[bytes]
    at: float


_begun: Begun | None = None


def begin() -> None:
    """Begin the worker that the next `spawn` hands out; it ends with this program where nobody asks for it.

    A worker that cannot be begun is left to `spawn`, which says why.
    """
    global _begun
    if _begun is None:
        with contextlib.suppress(EngineError):
            _begun = _begin()
            atexit.register(discard)


def spawn() -> Begun:
    """Hand out the worker that was begun, else a new one; raises EngineError where none can be started."""
    global _begun
    if _begun is not None and _begun.process.poll() is None:
        begun, _begun = _begun, None
        return begun
    discard()
    return _begin()


def discard() -> None:
    """End the worker that was begun and is not needed after all."""
    global _begun
    begun, _begun = _begun, None
    if begun is None:
        return
    begun.process.kill()  # it has nothing to finish
    begun.process.wait()
    for pipe in (begun.process.stdin, begun.process.stdout, begun.process.stderr):
        if pipe is not None:
            pipe.close()


def environment_of(own: Mapping[str, str]) -> dict[str, str]:
    """Return the worker's environment, by that of this process; what the user has set of it stays."""
    changed = {"GGML_NO_BACKTRACE": "1"}  # an abort would start a debugger to print a backtrace
    if not own.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        changed["GOMP_SPINCOUNT"] = _SPINS
    return {**own, **changed}


def with_huge_pages(own: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which malloc asks for huge pages, unless the user has set malloc up already."""
    return {"GLIBC_TUNABLES": _HUGE_PAGES, **own}


def _begin() -> Begun:
    # -P: a file of the current directory must not be able to take a module's place.
    at = time.perf_counter()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "llmrun.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=with_huge_pages(environment_of(os.environ)),
        )
    except OSError as error:
        raise EngineError(
            f"the engine's process could not be started: {error.strerror}", "close other programs"
        ) from error
    return Begun(process, at)
