"""history.database: whose file it is, what happens to one that is damaged, and many processes at once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmrun.errors import HistoryError
from llmrun.folders import history_file
from llmrun.history.record import Saved, Turn
from llmrun.history.store import Store, open_store, read_store
from tests.model_trees import posix_only

ROOT = Path(__file__).parent.parent
Q, A = Turn("user", "what is a KV cache?"), Turn("assistant", "It keeps keys and values.")
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history" / "conversations.db"


def fill(path: Path, count: int = 1) -> list[str]:
    with open_store(path) as store:
        return [keep(store) for _ in range(count)]


def keep(store: Store, *turns: Turn) -> str:
    key = store.begin("guide")
    store.add(key, *(turns or (Q, A)))
    return key


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs a piece of code."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@posix_only
def test_only_its_owner_can_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        with open_store(path) as store:
            keep(store)
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {path.name: 0o600, f"{path.name}-wal": 0o600, f"{path.name}-shm": 0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


@posix_only
def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    fill(path)
    path.chmod(0o644)
    path.parent.chmod(0o755)
    fill(path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_it_lies_in_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in history_file().parents


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database at all, but notes of some length " * 100)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def by_another_program(path: Path) -> None:
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE conversations (id INTEGER)")
    other.commit()
    other.close()


@pytest.mark.parametrize("harm", [overwrite, damage_pages, cut_off, by_another_program])
def test_a_file_that_cannot_be_read_is_set_aside_and_the_chat_goes_on(path: Path, harm: Callable[[Path], None]) -> None:
    fill(path, 50)
    harm(path)
    harmed = path.read_bytes()
    told: list[str] = []
    with open_store(path, told.append) as store:
        key = keep(store)
        assert [summary.id for summary in store.list()] == [key]
    (aside,) = path.parent.glob("conversations.damaged-*.db")
    assert aside.read_bytes() == harmed
    assert len(told) == 1
    assert told[0].startswith("the kept conversations could not be read, and lie in ")
    assert str(aside) in told[0]


def test_damage_that_shows_on_the_way_is_told_and_nothing_raised(path: Path) -> None:
    fill(path, 50)
    told: list[str] = []
    with open_store(path, told.append) as store:
        key = keep(store)
        damage_pages(path)  # under its hands
        store.add(key, Q, A)
        store.add(keep(store), Q, A)
        store.list()
    assert len(told) <= 2
    assert fill(path)


def test_one_that_another_process_has_replaced_already_is_not_set_aside(path: Path) -> None:
    fill(path, 50)
    told: list[str] = []
    with open_store(path, told.append) as first, open_store(path, told.append) as second:
        path.with_name(path.name + "-wal").write_bytes(b"")
        damage_pages(path)
        keys = [keep(first), keep(second)]
    with open_store(path, told.append) as store:
        assert len(store.list()) >= 1
        assert {summary.id for summary in store.list()} <= set(keys)
    assert len(list(path.parent.glob("conversations.damaged-*.db"))) == 1


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert fill(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_of_a_later_llmrun_is_left_alone(path: Path) -> None:
    fill(path)
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version = 99")
    later.close()
    before = path.read_bytes()
    with pytest.raises(HistoryError, match="by a later llmrun"):
        open_store(path)
    told: list[str] = []
    with open_store(path, told.append) as store:
        keep(store)
    assert (path.read_bytes(), len(told)) == (before, 1)


def test_where_nothing_can_be_written_the_chat_goes_on(tmp_path: Path) -> None:
    """A home that is a file stands for one that is read-only, which root does not meet."""
    (tmp_path / "home").write_text("")
    path = tmp_path / "home" / "history" / "conversations.db"
    told: list[str] = []
    with open_store(path, told.append) as store:
        assert store.find(keep(store)).turns[0].content == Q.content
    assert [line.split(":")[0] for line in told] == ["this conversation is not kept"]
    with pytest.raises(HistoryError, match="Not a directory") as caught:
        open_store(path)
    assert caught.value.hint == "--no-history keeps none, and asks none"


@posix_only
def test_what_is_there_can_be_read_where_nothing_can_be_written(path: Path) -> None:
    """Root, who may write everywhere, becomes somebody else for it."""
    (key,) = fill(path)
    code = (
        "import os, sys, pathlib, platformdirs\n"
        "from llmrun.history import store\nfrom llmrun.errors import HistoryError\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "s = store.read_store(pathlib.Path(sys.argv[1]))\nprint([x.id for x in s.list()], len(s.search('cache')))\n"
        "try: s.rename(s.list()[0].id, 'x')\nexcept HistoryError as error: print('refused')\ns.close()"
    )
    for folder in path.parent.parents if AS_ROOT else ():
        if folder.stat().st_mode & 0o055 != 0o055:  # pytest's folders are root's alone
            folder.chmod(0o755)
    path.chmod(0o444 if AS_ROOT else 0o400)
    path.parent.chmod(0o555 if AS_ROOT else 0o500)
    done = python(code, path)
    try:
        assert done.communicate()[0] == f"['{key}'] 1\nrefused\n"
    finally:
        path.parent.chmod(0o700)


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    """All of them make the file, too."""
    code = (
        "import pathlib, sys\nfrom llmrun.history.store import open_store\nfrom llmrun.history.record import Turn\n"
        "sys.stdin.readline()\n"
        "with open_store(pathlib.Path(sys.argv[1])) as store:\n"
        "    key = store.begin(sys.argv[2])\n"
        "    for i in range(25): store.add(key, Turn('user', f'q{i}'), Turn('assistant', f'a{i}'))\n"
    )
    writers = [python(code, path, f"model-{number}") for number in range(4)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [(writer.communicate(timeout=60), writer.returncode)[1] for writer in writers] == [0] * 4
    with read_store(path) as store:
        assert sorted((summary.model, summary.n_turns) for summary in store.list()) == [
            (f"model-{number}", 50) for number in range(4)
        ]
        turns = store.find(store.list()[0].id).turns
        assert [turn.content for turn in turns] == [f"{side}{index}" for index in range(25) for side in "qa"]


@posix_only
def test_a_crash_loses_nothing_that_was_answered(path: Path) -> None:
    code = (
        "import pathlib, sys, os, signal\nfrom llmrun.history.store import open_store\n"
        "from llmrun.history.record import Turn\n"
        "store = open_store(pathlib.Path(sys.argv[1]))\nkey = store.begin('guide')\n"
        "store.add(key, Turn('user', 'q'), Turn('assistant', 'a'))\nstore.add(key, Turn('user', 'q2'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    crashed = python(code, path)
    crashed.communicate()
    assert crashed.returncode == -signal.SIGKILL
    with read_store(path) as store:
        (summary,) = store.list()
        assert [turn.content for turn in store.find(summary.id).turns] == ["q", "a"]


@contextmanager
def busy(path: Path, store: Store) -> Iterator[None]:
    """Another process writes, and takes its time."""
    store._database._connection.execute("PRAGMA busy_timeout = 0")  # five seconds are long for a test
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def contents(store: Store, key: str) -> list[str]:
    return [turn.content for turn in store.find(key).turns]


def test_what_a_busy_database_did_not_take_comes_with_the_next_answer(path: Path) -> None:
    told: list[str] = []
    with open_store(path, told.append) as store:
        key = keep(store)
        with busy(path, store):
            store.add(key, Turn("user", "q2"), Turn("assistant", "a2"))
            store.add(key, Turn("user", "q3"), Turn("assistant", "a3"))
            assert len(contents(store, key)) == 2
        store.add(key, Turn("user", "q4"), Turn("assistant", "a4"))
        assert contents(store, key)[2:] == ["q2", "a2", "q3", "a3", "q4", "a4"]
    assert len(told) == 1
    assert "database is locked" in told[0]


def test_so_does_a_replacement(path: Path) -> None:
    with open_store(path, lambda _: None) as store:
        key = keep(store, Q, A, Turn("user", "q2"), Turn("assistant", "a2"))
        with busy(path, store):
            store.replace_turns(key, (Turn("user", "q5"), Turn("assistant", "a5"), Turn("user", "q6")))
            assert contents(store, key)[2:] == ["q2", "a2"]
        store.add(key, Turn("assistant", "a6"))
        assert contents(store, key) == ["q5", "a5", "q6", "a6"]


def test_who_does_not_want_to_be_told_gets_an_error(path: Path) -> None:
    with open_store(path) as store:
        key = keep(store)
        with busy(path, store), pytest.raises(HistoryError, match="database is locked"):
            store.add(key, Q, A)


def test_a_sqlite_without_an_index_reads_and_writes_the_same_file(path: Path) -> None:
    """And one that has it knows again of all that was written meanwhile."""
    fill(path)
    with open_store(path, index=False) as plain:
        key = keep(plain, Turn("user", "of zebras"), A)
        assert [hit.summary.id for hit in plain.search("zebra")] == [key]
        assert len(plain.search("cache")) == 1
        assert not plain._database.has_words
    with open_store(path) as store:
        assert store._database.has_words
        assert [hit.summary.id for hit in store.search("zebra")] == [key]
        store.delete(key)
        assert store.search("zebra") == ()


def test_a_file_of_the_first_version_is_read_and_written(path: Path) -> None:
    """As it was made by the llmrun that had it: what is in golden/history never changes."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as old:
        old.executescript((ROOT / "tests" / "golden" / "history" / "version-1.sql").read_text("utf-8"))
    at = datetime(2026, 5, 1, 12, 30, 0, 123456, UTC)
    saved = Saved(
        "lusab-babad",
        "Trip",
        "qwen3:8b",
        "Qwen/Qwen3-8B-GGUF:Q4_K_M",
        "Be brief.",
        {"temperature": 0.2, "think": True},
        at,
        at,
        (
            Turn("user", "Where to?", images=("map.png",), at=at),
            Turn("assistant", "Rome.", "Hm.", (), "guide", "stop", {"prompt_tokens": 9, "seed": None}, at),
        ),
    )
    told: list[str] = []
    with open_store(path, told.append) as store:
        assert store.find("trip") == saved
        assert [hit.summary.id for hit in store.search("rome where")] == [saved.id]
        store.add(saved.id, Q, A)
        assert len(store.find(saved.id).turns) == 4
    assert told == []


def test_two_chats_that_continue_one_conversation_lose_nothing_of_it(path: Path) -> None:
    (key,) = fill(path)
    with open_store(path) as one, open_store(path) as other:
        one.add(key, Turn("user", "q1"), Turn("assistant", "a1"))
        other.add(key, Turn("user", "q2"), Turn("assistant", "a2"))
        one.add(key, Turn("user", "q3"), Turn("assistant", "a3"))
        assert contents(other, key)[2:] == ["q1", "a1", "q2", "a2", "q3", "a3"]
