"""transfer: what a server says is understood before a byte is written, and what came stays; without a network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmrun.errors import GatedError, HubError, LLMRunError, NotFoundError
from llmrun.hub.address import file_url, host_of, is_same_origin
from llmrun.hub.answer import asked_wait, bytes_to_skip
from llmrun.hub.checksum import Checksum, RunningSum, parse_checksum
from llmrun.hub.failure import Asked, given_up, refused
from llmrun.hub.part import Part
from llmrun.hub.retries import MAX_IN_A_ROW, Retries
from llmrun.hub.setback import SetbackError
from llmrun.hub.waiting import answered
from llmrun.variant import RemoteFile

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
CONTENT = b"GGUF" + bytes(range(256)) * 9000
SHA256 = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())


# what a server says


@pytest.mark.parametrize(
    ("status", "headers", "skipped"),
    [
        (206, {"content-range": "bytes 100-999/1000"}, 0),
        (206, {"content-range": "bytes 100-499/1000"}, 0),  # a server may give less than was asked for
        (206, {"content-range": "bytes 100-999/*"}, 0),
        (206, {"content-range": "bytes 60-999/1000"}, 40),
        (200, {"content-length": "1000"}, 100),  # the range was passed over: so are the bytes that are here
        (200, {}, 100),
        (200, {"content-length": "1000", "content-encoding": "identity"}, 100),
    ],
)
def test_an_answer_with_the_files_bytes_begins_where_it_says(
    status: int, headers: dict[str, str], skipped: int
) -> None:
    assert bytes_to_skip(status, headers, 100, 1000, "cdn") == skipped


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (206, {"content-range": "bytes 100-998/999"}, "cdn offers 999 bytes, and the file has 1,000"),
        (
            206,
            {"content-range": "bytes 101-999/1000"},
            "cdn sent 'bytes 101-999/1000' when asked for the bytes from",
        ),
        (206, {"content-range": "rubbish"}, "cdn sent 'rubbish' when asked for the bytes from 100 on"),
        (206, {}, "cdn sent '' when asked for the bytes from 100 on"),
        (200, {"content-length": "900"}, "cdn offers 900 bytes, and the file has 1,000"),
        (200, {"content-length": "x" * 99}, f"cdn offers {'x' * 20!r} bytes, and the file has 1,000"),
        (200, {"content-length": "1000", "content-encoding": "gzip"}, "cdn sent the file packed as 'gzip'"),
        (200, {"content-type": "Text/HTML; charset=utf-8"}, "cdn sent a web page in place of the file: a login page"),
        (206, {"content-type": "text/html", "content-range": "bytes 100-999/1000"}, "cdn sent a web page in place of"),
    ],
)
def test_an_answer_with_other_bytes_is_told_before_one_is_written(
    status: int, headers: dict[str, str], reason: str
) -> None:
    with pytest.raises(SetbackError) as caught:
        bytes_to_skip(status, headers, 100, 1000, "cdn")
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "Tue, 24 Nov 2026 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Tue, 24 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:05 -0000"}, 5.0),
        ({"ratelimit": '"resolvers";r=0;t=55'}, 55.0),
        ({"ratelimit": '"resolvers";r=2998;t=172'}, None),  # said with every answer: there is no need to wait
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 5000}, None),
        ({"retry-after": "٣"}, None),
        ({}, None),
    ],
)
def test_a_server_may_ask_to_be_left_alone(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers, NOW) == seconds


def test_a_host_is_told_without_what_is_in_its_address() -> None:
    assert host_of("https://user:secret@cdn.hf.co:443/x?Signature=secret") == "cdn.hf.co"
    assert host_of("http://127.0.0.1:8000/x?Signature=secret") == "127.0.0.1:8000"


@pytest.mark.parametrize(
    ("url", "is_same"),
    [
        ("https://huggingface.co/a?b", True),
        ("https://huggingface.co:443/a", True),
        ("http://huggingface.co/a", False),
        ("https://huggingface.co:444/a", False),
        ("https://huggingface.co.evil.example/a", False),
        ("https://huggingface.co@evil.example/a", False),
        ("https://cdn.huggingface.co/a", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, is_same: bool) -> None:
    assert is_same_origin(url, "https://huggingface.co") == is_same


def test_a_path_is_written_into_an_address_so_that_it_stays_a_path() -> None:
    file = RemoteFile("acme/tiny", "1f" * 20, "Q4/a b?#%.gguf")
    assert file_url("https://hub", file) == f"https://hub/acme/tiny/resolve/{'1f' * 20}/Q4/a%20b%3F%23%25.gguf"


# what it means


NO_FILE = {"x-error-code": "EntryNotFound"}
NO_REVISION = {"x-error-code": "RevisionNotFound"}
NO_REPOSITORY = {"x-error-code": "RepoNotFound"}
GATED = {"x-error-code": "GatedRepo"}
BAD_TOKEN = {"x-error-message": "Invalid credentials in Authorization header"}


@pytest.mark.parametrize(
    ("status", "headers", "has_token", "kind", "message", "hint"),
    [
        (
            *(401, GATED, False, GatedError),
            "acme/tiny is gated: its owner gives it to those who ask, and no token says who asks",
            "ask for it at https://hub/acme/tiny, then set HF_TOKEN or run `hf auth login`",
        ),
        (
            *(403, GATED, True, GatedError),
            "acme/tiny is gated: its owner has not given it to the owner of this token",
            "ask for it at https://hub/acme/tiny",
        ),
        (
            *(401, BAD_TOKEN, True, HubError),
            "hub does not know the token that was sent along",
            "set HF_TOKEN to a valid one or run `hf auth login`; public models need none: unset HF_TOKEN",
        ),
        (
            *(401, NO_REPOSITORY, False, NotFoundError),
            "acme/tiny does not exist on the Hub, or is private",
            "`llmrun search WORDS` finds models; a private one needs HF_TOKEN or `hf auth login`",
        ),
        (
            *(404, NO_REPOSITORY, True, NotFoundError),
            "acme/tiny does not exist on the Hub, or this token may not see it",
            "`llmrun search WORDS` finds models",
        ),
        (
            *(404, NO_REVISION, False, NotFoundError),
            "acme/tiny has no such revision",
            "see https://hub/acme/tiny/commits/main",
        ),
        (404, NO_FILE, False, NotFoundError, "acme/tiny has no file t.gguf", "see https://hub/acme/tiny"),
        (403, {}, False, GatedError, "hub does not give t.gguf of acme/tiny to us (403)", "see https://hub/acme/tiny"),
        (
            *(429, {"retry-after": "55"}, False, HubError),
            "hub was asked too often (429): it asks for a pause of 55 s",
            "wait, or set HF_TOKEN: more is given to those who do",
        ),
        (
            *(429, {}, True, HubError),
            "hub was asked too often (429): it asks for a pause of a while",
            "wait, and type the same again",
        ),
        (500, {}, False, HubError, "hub answered 500 when asked for t.gguf of acme/tiny", "try again later"),
    ],
)
def test_each_refusal_says_what_to_do(
    status: int, headers: dict[str, str], has_token: bool, kind: type[LLMRunError], message: str, hint: str
) -> None:
    error = refused(status, headers, Asked("https://hub", "acme/tiny", "t.gguf", has_token))
    assert (type(error), error.message, error.hint) == (kind, message, hint)


def test_who_gives_up_says_what_is_kept() -> None:
    error = given_up("t.gguf", SetbackError("cdn broke off the connection"), 6, 3 << 30, 5 << 30)
    assert (error.message, error.hint) == (
        "t.gguf was not fetched: cdn broke off the connection, 6 times in a row",
        "type the same again later: the 3.0 GiB that came (60 %) are kept",
    )
    error = given_up("t.gguf", SetbackError("hub answered 429", wait=7200), 1, 0, 5 << 30)
    assert (error.message, error.hint) == (
        "t.gguf was not fetched: hub answered 429, and asks to wait 2 h 0 min",
        "try again later",
    )


# how often


def test_waits_grow_and_begin_anew_when_something_came() -> None:
    waits: list[float] = []
    retries = Retries(pause=waits.append)
    setback = SetbackError("cdn broke off the connection")
    for _ in range(3):
        assert retries.wait_after(setback, lambda *_: None)
    retries.progressed()
    while retries.wait_after(setback, lambda *_: None):
        pass
    assert waits == [1, 2, 4, 1, 2, 4, 8, 8]
    assert retries.in_a_row == MAX_IN_A_ROW + 1


def test_a_server_that_asks_for_time_gets_it_within_reason() -> None:
    waits: list[float] = []
    retries = Retries(pause=waits.append)
    assert retries.wait_after(SetbackError("expired", wait=0), lambda *_: None)
    assert retries.wait_after(SetbackError("expired", wait=0), lambda *_: None)
    assert retries.wait_after(SetbackError("busy", wait=120), lambda *_: None)
    assert not retries.wait_after(SetbackError("busy", wait=121), lambda *_: None)
    assert waits == [0, 2, 120]


def test_who_waits_says_why_and_how_long() -> None:
    told: list[tuple[str, float]] = []
    Retries(pause=lambda _: None).wait_after(SetbackError("cdn answered 503", wait=7), lambda *said: told.append(said))
    assert told == [("cdn answered 503", 7)]


def test_what_is_asked_may_fail_as_it_likes() -> None:
    with pytest.raises(ZeroDivisionError):
        answered(lambda: 1 / 0, "hub")


def test_a_name_that_is_looked_up_for_ever_is_given_up_after_two_seconds() -> None:
    for_ever = threading.Event()
    with pytest.raises(SetbackError) as caught:
        answered(for_ever.wait, "hub")
    for_ever.set()
    assert (caught.value.reason, caught.value.unreachable) == ("hub cannot be reached within 2 s", True)


# the part


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
