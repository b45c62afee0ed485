"""part: what came of a file stays, whatever becomes of the process, the disk or the line, and is added up rightly."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmrun.hub.checksum import Checksum, RunningSum, parse_checksum
from llmrun.hub.part import Part

CONTENT = b"GGUF" + bytes(range(256)) * 9000
SHA256 = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())


@pytest.mark.parametrize(("size", "pieces"), [(0, 1), (1, 1), (1 << 20, 3), ((1 << 20) + 1, 700), (9 << 20, 5)])
def test_the_sum_of_pieces_is_the_sum_of_all(size: int, pieces: int) -> None:
    content = os.urandom(size)
    for checksum in (
        Checksum("sha256", hashlib.sha256(content).hexdigest()),
        Checksum("git", hashlib.sha1(b"blob %d\0" % size + content).hexdigest()),
    ):
        with closing(RunningSum(checksum, size)) as running:
            step = size // pieces + 1
            for start in range(0, size, step):
                running.add(content[start : start + step])
            assert running.matches()
            running.add(b"x")
            assert not running.matches()


def test_a_tag_is_a_checksum_or_it_is_not() -> None:
    assert parse_checksum("ab" * 32) == Checksum("sha256", "ab" * 32)
    assert parse_checksum("ab" * 20) == Checksum("git", "ab" * 20)
    assert [parse_checksum(tag) for tag in ("", "AB" * 32, "ab" * 32 + "\n", "../" + "ab" * 20)] == [None] * 4


def part_of(path: Path) -> closing[Part]:
    return closing(Part(path, len(CONTENT), SHA256))


def test_what_was_appended_is_in_the_file_at_once_and_counted_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "blobs" / "part"
    with part_of(path) as part:
        part.append(CONTENT[:70_001])
        assert path.read_bytes() == CONTENT[:70_001]
    told: list[tuple[int, int]] = []
    with part_of(path) as part:
        part.take_stock(lambda *said: told.append(said))
        part.append(CONTENT[part.length :])
        assert part.is_right()
    assert path.read_bytes() == CONTENT
    assert told == [(70_001, 70_001)]


def test_a_part_that_is_too_long_is_the_file_if_it_begins_as_it(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(CONTENT + b"and more")
    with part_of(path) as part:
        part.take_stock(lambda *_: None)
        assert part.is_right()
    assert path.read_bytes() == CONTENT


def test_a_part_with_other_bytes_is_not_right_and_can_start_over(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"HTML" + CONTENT[4:])
    with part_of(path) as part:
        part.take_stock(lambda *_: None)
        assert not part.is_right()
        assert not part.begins_as(b"GGUF")
        part.restart()
        assert path.read_bytes() == b""
        part.append(CONTENT)
        assert part.is_right()


def test_a_few_bytes_begin_as_a_file_whose_beginning_they_are(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"GG")
    with part_of(tmp_path / "part") as part:
        part.take_stock(lambda *_: None)
        assert part.begins_as(b"GGUF")
        assert not part.begins_as(b"HTML")


def test_a_second_process_that_writes_too_does_no_harm(tmp_path: Path) -> None:
    """As on network file systems whose locks hold for one machine: the same bytes go to the same places."""
    with part_of(tmp_path / "part") as part, part_of(tmp_path / "part") as other:
        part.append(CONTENT[:1000])
        other.append(CONTENT[:500])
        part.append(CONTENT[1000:])
        other.append(CONTENT[500:2000])
        assert part.is_right()
        assert (tmp_path / "part").read_bytes() == CONTENT


FILL = """
import resource, signal, sys
from pathlib import Path
from llmrun.errors import LLMRunError
from llmrun.hub.part import Part
path, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
part = Part(path, 5 << 20, None)
try:
    for _ in range(80):
        part.append(b"G" * (64 << 10))
except LLMRunError as error:
    print(type(error).__name__, error.message, error.hint, part.length, path.stat().st_size, sep="\\n")
"""


def fill(path: Path, limit: int, *before: str) -> list[str]:
    command = [*before, sys.executable, "-P", "-c", FILL, str(path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_a_file_system_for_small_files_is_told_of_and_what_came_is_kept(tmp_path: Path) -> None:
    assert fill(tmp_path / "part", 3_000_000) == [
        "DiskFullError",
        f"no file in {tmp_path} may be larger than 2.9 MiB: 2.1 MiB are lacking",
        "set HF_HUB_CACHE to a folder on another disk",
        "3000000",
        "3000000",
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "llmrun-test", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_told_of_and_what_came_is_kept(small_disk: Path) -> None:
    assert fill(small_disk / "part", 0) == [
        "DiskFullError",
        f"the disk of {small_disk} is full: 3.0 MiB are lacking of 5.0 MiB",
        "make room and type the same again: the 2.0 MiB that came are kept",
        "2097152",
        "2097152",
    ]
