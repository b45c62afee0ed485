"""worker.pages: where weights lie in huge pages, and how they get there without anybody waiting for it."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from pathlib import Path

import pytest

from llmrun.worker.pages import (
    Collapse,
    are_forbidden,
    gives_memory_back,
    memory_ranges,
    new_pages,
    read_ranges,
    small_pages,
)

HUGE = 2 << 20
MAPS = """\
55d0c0000000-55d0c0001000 r--p 00000000 fe:00 12 /usr/bin/python3
55d0c1000000-55d0c1200000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000800000 rw-p 00000000 00:00 0
7f0001000000-7f0001800000 r--p 00000000 00:00 0
7f0002000000-7f0002800000 rw-p 00000000 fe:00 77 /models/model.gguf
7f0003000000-7f0003001000 rw-p 00000000 00:00 0 \n"""


@pytest.mark.parametrize(
    ("device", "features", "gives"),
    [("0x0005", "0110010100", True), ("0x0005", "0110000100", False), ("0x0001", "1111110000", False)],
)
def test_a_machine_whose_host_takes_free_memory_away_is_told_by_its_balloon(
    tmp_path: Path, device: str, features: str, gives: bool
) -> None:
    assert not gives_memory_back(tmp_path)
    (folder := tmp_path / "bus/virtio/devices/virtio0").mkdir(parents=True)
    (folder / "device").write_text(f"{device}\n")
    (folder / "features").write_text(f"{features}\n")
    assert gives_memory_back(tmp_path) == gives


@pytest.mark.parametrize(
    ("enabled", "forbidden"), [("always [madvise] never", False), ("always madvise [never]", True)]
)
def test_an_administrators_never_is_respected(tmp_path: Path, enabled: str, forbidden: bool) -> None:
    assert are_forbidden(tmp_path)
    (folder := tmp_path / "kernel/mm/transparent_hugepage").mkdir(parents=True)
    (folder / "enabled").write_text(enabled)
    assert are_forbidden(tmp_path) == forbidden


def test_only_memory_that_is_no_files_is_found() -> None:
    assert memory_ranges(MAPS) == [(0x7F0000000000, 0x7F0000800000), (0x7F0003000000, 0x7F0003001000)]


@pytest.mark.parametrize(
    ("before", "now", "pages"),
    [
        ([], [(0, 3 * HUGE)], [0, HUGE, 2 * HUGE]),
        ([], [(1, 3 * HUGE)], [HUGE, 2 * HUGE]),  # aligned
        ([(0, HUGE)], [(0, 3 * HUGE)], [HUGE, 2 * HUGE]),  # a mapping that grew
        ([(HUGE, 2 * HUGE)], [(0, 3 * HUGE)], [0, 2 * HUGE]),
        ([(0, 3 * HUGE)], [(0, 3 * HUGE)], []),
        ([], [(0, HUGE - 1)], []),
    ],
)
def test_pages_are_those_that_fit_into_what_is_new(
    before: list[tuple[int, int]], now: list[tuple[int, int]], pages: list[int]
) -> None:
    assert new_pages(before, now) == pages


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's pages")
def test_memory_is_moved_into_huge_pages_as_it_is() -> None:
    before = read_ranges()
    with small_pages(True):
        memory = mmap.mmap(-1, 8 * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for start in range(0, len(memory), 4096):
            memory[start : start + 8] = start.to_bytes(8, "little")
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    pages = [page for page in new_pages(before, read_ranges()) if address <= page < address + len(memory)]
    assert len(pages) >= 7
    assert huge_bytes(address) == 0
    collapse = Collapse(pages)
    while collapse.step():
        pass
    assert not collapse.step()
    assert huge_bytes(address) == (len(pages) - collapse.n_refused) * HUGE
    assert all(
        memory[start : start + 8] == start.to_bytes(8, "little") for start in range(0, len(memory), 4096)
    )  # every page says where it is


def test_who_is_refused_again_and_again_stops_asking() -> None:
    collapse = Collapse([HUGE * number for number in range(1, 100)])  # nothing is there
    n = 1
    while collapse.step():
        n += 1
    assert n == collapse.n_refused < 99


def huge_bytes(address: int) -> int:
    """Bytes of the mapping around an address that lie in huge pages."""
    for part in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
        start, end = (int(text, 16) for text in part.split(" ", 1)[0].split("-"))
        if start <= address < end and (found := re.search(r"^AnonHugePages:\s+(\d+) kB", part, re.MULTILINE)):
            return int(found[1]) * 1024
    raise AssertionError(hex(address))
