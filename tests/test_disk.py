"""disk: how fast a file's storage is read, past the page cache."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llmrun.hardware.disk import plan_pieces, read_disk_speed

MIB = 1 << 20


def can_read_directly(path: Path) -> bool:
    """Whether the system lets a program read past its page cache here."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except (AttributeError, OSError):
        return False
    return True


def test_a_files_storage_has_a_speed_where_it_can_be_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(MIB) * 32)
    speed = read_disk_speed(path)
    if not can_read_directly(path):
        assert speed is None
        return
    assert speed is not None
    assert MIB < speed < 1 << 40  # bytes a second: no storage is slower, none as fast


def test_what_cannot_be_timed_has_no_speed(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(5000))
    assert read_disk_speed(small) is None
    assert read_disk_speed(tmp_path / "none") is None
    assert read_disk_speed(tmp_path) is None


@given(st.integers(0, 1 << 42))
def test_pieces_lie_in_the_file_and_none_twice(size: int) -> None:
    pieces = plan_pieces(size)
    assert len(set(pieces)) == len(pieces) <= 16
    assert (pieces == ()) == (size < 16 * MIB)
    assert all(0 <= offset <= size - 4 * MIB and offset % (4 * MIB) == 0 for offset in pieces)
    if size >= 64 * MIB:
        assert len(pieces) == 16
        assert pieces[-1] > size // 2
