"""The pages that weights lie in: huge ones make writing faster, since each token reads through all of them.

The malloc of this process asks for huge pages (engine.spawn), which are there sooner than small ones, too (2 MiB in 0.3
against 0.8 ms). But a virtual machine that gives free memory back to its host has to fetch each from there (4 ms: with
3.5 GiB of KV cache a start took 8 s, and 2.7 s in small pages). There weights are loaded into small ones, and moved
into huge ones while nobody waits for anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_THP_DISABLE = 41  # sys/prctl.h, PR_SET_THP_DISABLE; what is huge already stays so
_COLLAPSE = 25  # sys/mman.h, MADV_COLLAPSE, since Linux 6.1
_HUGE = 2 << 20  # bytes: x86-64's; where they are larger, Linux refuses what is not one of them
_MOST_REFUSED = 16  # of a load: where two mappings meet one is refused
_BALLOON, _REPORTING = "0x0005", 5  # virtio's number of the device, and the bit of its features (virtio_balloon.h)
_ANONYMOUS = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0\s*$", re.MULTILINE)

Range = tuple[int, int]  # addresses, the second one beyond


def gives_memory_back(system: Path = Path("/sys")) -> bool:
    """Tell whether this is a virtual machine whose host takes free memory away (free page reporting)."""
    for device in sorted((system / "bus/virtio/devices").glob("*")):
        with contextlib.suppress(OSError):
            features = (device / "features").read_text()
            if (device / "device").read_text().strip() == _BALLOON and features[_REPORTING : _REPORTING + 1] == "1":
                return True
    return False


def are_forbidden(system: Path = Path("/sys")) -> bool:
    """Tell whether the administrator wants no huge pages, or the system has none: MADV_COLLAPSE does not ask."""
    try:
        return "[never]" in (system / "kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return True


@contextlib.contextmanager
def small_pages(wanted: bool) -> Iterator[None]:
    """Where that is wanted, have what is touched from here on in small pages."""
    if wanted:
        _disable_huge_pages(True)
    try:
        yield
    finally:
        if wanted:  # else the process stays as whoever started it has it
            _disable_huge_pages(False)


def _disable_huge_pages(disabled: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_THP_DISABLE, int(disabled), 0, 0, 0)


def memory_ranges(maps: str) -> list[Range]:
    """Return where memory lies that is no file's, of the text of /proc/self/maps."""
    return [(int(start, 16), int(end, 16)) for start, end in _ANONYMOUS.findall(maps)]


def read_ranges() -> list[Range]:
    """Return where this process has such memory now; nowhere on systems that do not tell."""
    try:
        return memory_ranges(Path("/proc/self/maps").read_text())
    except OSError:
        return []


def new_pages(before: Iterable[Range], now: Iterable[Range]) -> list[int]:
    """Return the addresses at which a whole huge page fits into memory that was not there before."""
    pieces, taken = [one for one in now if one[1] - one[0] >= _HUGE], list(before)
    for first, last in taken:
        pieces = [piece for one in pieces for piece in _without(one, first, last)]
    return [page for start, end in pieces for page in range(-(-start // _HUGE) * _HUGE, end - _HUGE + 1, _HUGE)]


def _without(piece: Range, first: int, last: int) -> Iterator[Range]:
    start, end = piece
    if start < min(end, first):
        yield start, min(end, first)
    if max(start, last) < end:
        yield max(start, last), end


class Collapse:
    """Memory that is moved into huge pages, one after the other."""

    def __init__(self, pages: Iterable[int] = ()) -> None:
        self._pages = list(pages)
        self.n_refused = 0

    def step(self) -> bool:
        """Make the next page a huge one, some milliseconds; tells whether there are more."""
        if not self._pages:
            return False
        page = self._pages.pop()
        if ctypes.CDLL(None).madvise(ctypes.c_void_p(page), ctypes.c_size_t(_HUGE), _COLLAPSE):
            self.n_refused += 1
            if self.n_refused == _MOST_REFUSED:  # Linux before 6.1, or no such page is left
                self._pages.clear()
        return bool(self._pages)
