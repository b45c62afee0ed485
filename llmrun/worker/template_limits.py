"""How long, how large and how much memory a chat template may take: it is a program out of a file that nobody checked.

Knows nothing of jinja. Three limits, because no one of them catches everything: a watchdog in C ends the process when
time is up, even inside one huge operation that never gives the interpreter back; a lower limit on the address space
turns a memory bomb into MemoryError; and whoever joins the pieces counts them. The parent turns a death into an error.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmrun.errors import GGUFError

RENDER_SECONDS = 2.0
RENDER_MEMORY = 1 << 30  # bytes a render may add to the process's address space
TEXT_FACTOR = 4  # a result may be this many times its input ...
TEXT_ALLOWANCE = 1 << 20  # ... and this many characters more: default system prompts and tool descriptions
_STDERR = 2


@contextlib.contextmanager
def render_limits() -> Iterator[None]:
    """Around anything a template decides: RENDER_SECONDS end the process, RENDER_MEMORY more bytes raise MemoryError.

    Not reentrant: the watchdog is one per process. Where the address space cannot be limited (Windows, macOS), time
    and length still are.
    """
    faulthandler.dump_traceback_later(RENDER_SECONDS, exit=True, file=_STDERR)
    try:
        with _address_space_limit(RENDER_MEMORY):
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def join_limited(pieces: Iterable[str], input_length: int) -> str:
    """The pieces as one text; GGUFError as soon as they are longer than the input allows. Lengths are characters."""
    limit = TEXT_FACTOR * input_length + TEXT_ALLOWANCE
    kept: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > limit:
            raise GGUFError(
                f"the model's chat template makes over {limit:,} characters out of {input_length:,}",
                "the file is broken or hostile: use another one",
            )
        kept.append(piece)
    return "".join(kept)


if sys.platform == "linux":
    import resource

    @contextlib.contextmanager
    def _address_space_limit(extra: int) -> Iterator[None]:
        """Lower RLIMIT_AS to what is in use and `extra` more; never raises it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _read_address_space() + extra
        if soft != resource.RLIM_INFINITY:
            limit = min(limit, soft)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    def _read_address_space() -> int:
        """Bytes of address space of this process; proc_pid_statm(5), first field, in pages."""
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return pages * resource.getpagesize()

else:

    @contextlib.contextmanager
    def _address_space_limit(extra: int) -> Iterator[None]:
        """Nothing: macOS accepts RLIMIT_AS without enforcing it, Windows does not know it."""
        del extra
        yield
