"""servers.note: what a server leaves is its user's alone, and what lies there is believed only if it is that."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.folders import servers_folder
from llmrun.hardware.process_identity import parse_stat, read_identity
from llmrun.servers.note import Note, ServedName, note_left, reachable, read_notes

GUIDE = (ServedName("guide", "guide"),)
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where notes go, not there yet."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    temporary = tmp_path / "temporary"  # what is taken where that is not as it should be
    temporary.mkdir(mode=0o700)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return tmp_path / "runtime" / "llmrun" / "servers"


@pytest.fixture
def note(folder: Path) -> Iterator[Path]:
    """The file of a note of this process."""
    with note_left(ADDRESS, "secret", GUIDE, pytest.fail):
        yield next(folder.iterdir())


def nobody(_: str) -> None: ...


def write(path: Path, note: Note) -> Path:
    path.write_bytes(msgspec.json.encode(note))
    path.chmod(0o600)
    return path


def test_a_note_is_there_while_the_server_is_and_no_longer(folder: Path) -> None:
    assert read_notes() == ()
    with note_left(ADDRESS, "secret", GUIDE, pytest.fail):
        (found,) = read_notes()
        assert (found.pid, found.address, found.key, found.models) == (os.getpid(), ADDRESS, "secret", GUIDE)
    assert read_notes() == ()
    assert list(folder.iterdir()) == []


def test_an_error_takes_the_note_away_too(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), note_left(ADDRESS, "secret", GUIDE, pytest.fail):
        raise ZeroDivisionError
    assert list(folder.iterdir()) == []


def test_nobody_else_may_read_it(note: Path) -> None:
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert stat.S_IMODE(note.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(note.parent.parent.stat().st_mode) == 0o700


def test_no_key_stands_in_a_traceback(note: Path) -> None:
    (found,) = read_notes()
    assert "secret" not in repr(found)


def test_the_youngest_server_comes_first(folder: Path, note: Path) -> None:
    (mine,) = read_notes()
    write(folder / "1.json", replace(mine, since=mine.since + 1, address="http://127.0.0.1:1"))
    write(folder / "2.json", replace(mine, since=mine.since - 1, address="http://127.0.0.1:2"))
    assert [found.address for found in read_notes()] == ["http://127.0.0.1:1", ADDRESS, "http://127.0.0.1:2"]


def test_what_a_killed_server_left_is_removed(note: Path) -> None:
    (mine,) = read_notes()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        other = read_identity(process.pid)
        assert other is not None
        stale = write(note.with_name("9.json"), replace(mine, pid=process.pid, identity=other))
        assert len(read_notes()) == 2
        process.kill()
    assert read_notes() == (mine,)
    assert not stale.exists()


def test_a_process_id_that_was_given_again_is_another_process(note: Path) -> None:
    (mine,) = read_notes()
    stale = write(note, replace(mine, identity="another/1"))
    assert read_notes() == ()
    assert not stale.exists()


def test_a_dead_process_that_nobody_has_waited_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert read_identity(process.pid) is None
    process.wait()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o602])
def test_a_file_that_others_may_open_is_not_believed(note: Path, mode: int) -> None:
    note.chmod(mode)
    assert read_notes() == ()
    assert note.exists()


def test_no_link_is_followed(note: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "note"
    note.rename(elsewhere)
    note.symlink_to(elsewhere)
    assert read_notes() == ()
    assert elsewhere.exists()


def test_a_file_with_a_second_name_is_not_believed(note: Path, tmp_path: Path) -> None:
    os.link(note, tmp_path / "second")
    assert read_notes() == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_is_not_believed(note: Path) -> None:
    os.chown(note, 65534, 65534)
    assert read_notes() == ()


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_in_another_users_folder_nothing_is_believed_or_left(note: Path, level: int) -> None:
    os.chown(note.parents[level], 65534, 65534)
    assert read_notes() == ()
    with note_left(ADDRESS, "secret", GUIDE, nobody):
        assert list(note.parent.iterdir()) == [note]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_folder_that_is_a_link_is_not_entered(folder: Path, tmp_path: Path, level: int) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    link = (folder, *folder.parents)[level]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    with note_left(ADDRESS, "secret", GUIDE, nobody):
        assert not [path for path in target.rglob("*") if path.is_file()]


def test_that_no_note_can_be_left_is_told_and_no_more(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.parents[1].chmod(0o700)
    folder.write_text("in the way")
    told: list[str] = []
    with note_left(ADDRESS, "secret", GUIDE, told.append):
        assert read_notes() == ()
    assert len(told) == 1
    assert "private folder" in told[0]


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"pid": "x"}', b" " * (2 << 20)])
def test_what_is_no_note_is_left_alone(note: Path, content: bytes) -> None:
    other = note.with_name("other.json")
    other.write_bytes(content)
    other.chmod(0o600)
    assert len(read_notes()) == 1
    assert other.exists()


def test_a_pipe_in_the_folder_holds_nobody_up(note: Path) -> None:
    os.mkfifo(note.with_name("pipe.json"), 0o600)
    assert len(read_notes()) == 1


def test_without_a_runtime_directory_there_is_one_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert servers_folder().parts[-2:] == ("llmrun", "servers")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("192.168.1.7", "http://192.168.1.7:80"),
    ],
)
def test_a_server_is_reached_where_this_machine_reaches_it(host: str, address: str) -> None:
    assert reachable(host, 80) == address


@given(st.text(), st.integers(0, 1 << 63), st.sampled_from("RSDZTtWXxKP"))
def test_the_name_of_a_process_cannot_lie_about_its_start(name: str, ticks: int, state: str) -> None:
    rest = " ".join(["0"] * 18)
    assert parse_stat(f"7 ({name}) {state} {rest} {ticks} 0 0\n") == (state, ticks)


@pytest.mark.parametrize("text", ["", "7", "7 (x) R 1 2", "7 (x) R " + "x " * 30])
def test_what_is_no_stat_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"stat|invalid literal"):
        parse_stat(text)
