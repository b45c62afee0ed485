"""`llmrun history`, as the real program."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess

import pexpect
import pytest
from rich.cells import cell_len

from llmrun.cli.conversations import ago, list_text, search_text
from llmrun.cli.main import main
from llmrun.folders import history_file
from llmrun.history.record import Hit, Summary, Turn
from llmrun.history.store import open_store
from tests.completion import completions
from tests.conftest import figures
from tests.environments import clean_environment
from tests.model_trees import posix_only

Run = Callable[..., CompletedProcess[str]]
Here = Callable[..., CompletedProcess[str]]
NOW = datetime(2026, 11, 25, 22, 5, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the program that `llmrun` runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    found = history_file()
    assert tmp_path in found.parents
    return found


@pytest.fixture
def ids(path: Path) -> list[str]:
    """Three conversations, the oldest first."""
    with open_store(path) as store:
        made = []
        for model, question, answer in (
            ("guide", "what is a KV cache?", "It keeps keys and values."),
            ("unsloth/Qwen3-32B-GGUF:Q4_K_M", "Plan a trip to Rome\nof three days", "**Day 1**: the \x1b[31mColosseum"),
            ("qwen3:8b", "日本語の本を三冊すすめてください。お願いします。", "はい。"),
        ):
            key = store.begin(model)
            store.add(key, Turn("user", question), Turn("assistant", answer))
            made.append(key)
        store.rename(made[1], "trip")
    return made


@pytest.fixture
def here(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs the program's `main` in this process, with the same home: a start of Python is not what is tested."""

    def run(*arguments: str) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["llmrun", *arguments])
        code: int | str | None = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        return CompletedProcess(arguments, int(code or 0), told.out, told.err)

    return run


def test_conversations_are_listed_the_last_one_first(llmrun: Run, ids: list[str]) -> None:
    done = llmrun("history")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head == "ID          WHEN         MODEL              SAID  WORDS"
    assert [row.split()[0] for row in rows] == ids[::-1]
    assert rows[1] == f"{ids[1]} just now     Qwen3-32B-GGUF:Q…     2  trip: Plan a trip to Rome of…"
    assert all(cell_len(row) <= 80 for row in rows)


def test_a_limit_says_what_it_leaves_out(here: Here, ids: list[str]) -> None:
    done = here("history", "--limit", "1")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "2 more: --limit 3 shows all\n"
    assert here("history", "--limit", "1", "--quiet").stderr == ""


def test_none_is_told_and_no_file_made(llmrun: Run, here: Here, path: Path) -> None:
    done = llmrun("history")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "no conversation is kept yet: `llmrun chat` begins one\n"
    assert figures(here("history", "--json")) == {"conversations": [], "total": 0}
    assert not path.parent.exists()


def test_the_list_as_json_has_stable_keys(here: Here, ids: list[str]) -> None:
    found = figures(here("history", "--json", "--limit", "2"))
    assert (found["total"], [one["id"] for one in found["conversations"]]) == (3, ids[:0:-1])
    assert set(found["conversations"][0]) == {"id", "name", "model", "created", "updated", "turns", "first"}


def test_a_search_shows_the_place(here: Here, ids: list[str]) -> None:
    done = here("history", "search", "keeps", "CACHE")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].startswith(ids[0])
    assert done.stdout.splitlines()[2:] in (
        ["  > user: what is a KV cache?"],
        ["  > assistant: It keeps keys and values."],
    )
    assert done.stderr == f"`llmrun history show {ids[0]}` shows all of one\n"
    (hit,) = figures(here("history", "search", "三冊", "--json"))["conversations"]
    assert (hit["id"], hit["role"]) == (ids[2], "user")


def test_what_nobody_said_is_not_found(here: Here, ids: list[str]) -> None:
    done = here("history", "search", "zebra")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "error: no conversation has 'zebra' in it\nhint: fewer words find more\n"
    assert figures(here("history", "search", "zebra", "--json"))["conversations"] == []
    assert here("history", "search", " ").returncode == 2


def test_one_is_shown_by_name_or_by_how_its_id_begins(here: Here, ids: list[str]) -> None:
    shown = here("history", "show", "trip").stdout
    assert here("history", "show", ids[1][:9]).stdout == shown
    assert shown.splitlines()[0] == "# trip"
    assert shown.endswith("**Day 1**: the \x1b[31mColosseum\n")  # a pipe gets it as it is
    assert figures(here("history", "show", "TRIP", "--json"))["id"] == ids[1]


def test_one_that_is_not_there_gets_what_is_close(here: Here, ids: list[str]) -> None:
    done = here("history", "show", "tripp")
    assert done.returncode == 5
    assert done.stderr == "error: no conversation is called 'tripp'\nhint: did you mean trip?\n"


def test_an_export_can_be_imported_elsewhere(here: Here, ids: list[str], tmp_path: Path) -> None:
    file = tmp_path / "trip.json"
    assert here("history", "export", "trip", "json", "--output", str(file)).returncode == 0
    assert here("history", "export", "trip", "json").stdout == file.read_text("utf-8")
    before = figures(here("history", "show", "trip", "--json"))
    assert here("history", "rm", "trip", "--yes").returncode == 0
    assert figures(here("history", "import", str(file), "--json")) == {"id": ids[1]}
    assert figures(here("history", "show", "trip", "--json")) == before == json.loads(file.read_text("utf-8"))


def test_an_export_overwrites_nothing(here: Here, ids: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.md"
    file.write_text("mine")
    done = here("history", "export", "trip", "-o", str(file))
    assert (done.returncode, file.read_text()) == (2, "mine")
    assert here("history", "export", "trip", "pdf").stderr.startswith("error: 'pdf' is none of md, json\n")
    assert here("history", "export", "trip", "-o", str(tmp_path / "no" / "x.md")).returncode == 1


def test_what_is_no_export_is_not_imported(here: Here, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert here("history", "import", str(tmp_path / "x.json")).returncode == 2
    assert here("history", "import", str(tmp_path / "y.json")).returncode == 5
    assert here("history", "import", str(tmp_path)).returncode == 1


def test_nothing_is_removed_without_asking(here: Here, ids: list[str]) -> None:
    done = here("history", "rm", "trip", ids[0])
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["ID", ids[1], ids[0], "error:", "hint:"]
    assert figures(here("history", "--json"))["total"] == 3


def test_those_that_are_named_are_removed_or_all(here: Here, ids: list[str]) -> None:
    assert here("history", "rm", "trip", "nobody", "--yes").returncode == 5
    assert figures(here("history", "rm", "trip", ids[0], ids[0], "--yes", "--json")) == {"removed": [ids[1], ids[0]]}
    assert here("history", "rm", "--all", "--yes").stderr.endswith("removed: 1 conversation\n")
    assert here("history", "rm", "--all", "--yes").stderr == "removed: 0 conversations\n"
    assert [here("history", "rm", *more).returncode for more in ((), ("trip", "--all"))] == [2, 2]


@posix_only
def test_on_a_terminal_one_is_asked_and_sees_no_control_characters(ids: list[str], tmp_path: Path) -> None:
    def program(*arguments: str) -> pexpect.spawn[str]:
        command = ["-P", "-m", "llmrun.cli.main", "history", *arguments]
        return pexpect.spawn(
            sys.executable, command, env=clean_environment(tmp_path), encoding="utf-8", timeout=30, dimensions=(50, 80)
        )

    shown = program("show", "trip").read()
    assert "[31mColosseum" in shown
    assert re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", shown) is None
    child = program("rm", "trip")
    child.expect(re.escape("remove 1 conversation? [y/N]:"))
    child.sendline("n")
    child.expect("error: nothing was removed")
    child.close()
    child = program("rm", "trip")
    child.expect(re.escape("[y/N]:"))
    child.sendline("y")
    child.expect("removed: 1 conversation")
    child.close()


def test_a_damaged_file_is_set_aside_with_a_note(here: Here, ids: list[str], path: Path) -> None:
    path.write_text("nothing of the kind " * 500)
    done = here("history")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("note: the kept conversations could not be read, and lie in ")
    (aside,) = path.parent.glob("*.damaged-*")
    assert here("history", "rm", "--all", "--yes").stderr.splitlines() == [
        "removed: 0 conversations",
        f"note: older ones, which could not be read, are still in {aside}",
    ]


def test_an_option_before_its_command_is_told_where_it_goes(here: Here) -> None:
    done = here("history", "--json", "search", "x")
    assert (done.returncode, done.stderr.splitlines()[1]) == (2, "hint: llmrun history search … --json")


@pytest.mark.parametrize(
    ("past", "text"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=59, seconds=59), "59 min ago"),
        (timedelta(hours=2), "2 h ago"),
        (timedelta(hours=24), "yesterday"),
        (timedelta(days=13), "13 days ago"),
        (timedelta(days=20), "2026-11-05"),
    ],
)
def test_times_are_said_as_people_say_them(past: timedelta, text: str) -> None:
    assert ago(NOW - past, NOW) == text
    assert len(text) <= 11


def test_a_row_fits_80_columns_whatever_is_in_it() -> None:
    wide, long, then = "本" * 300, "x" * 300, NOW - timedelta(days=13)
    rows = [
        Summary("lusab-babad", name, model, then, then, 99_999, first)
        for name in (None, wide)
        for model in ("m", wide, long)
        for first in (wide, long)
    ]
    assert [line for line in list_text(rows, NOW).splitlines() if cell_len(line) > 80] == []
    assert "\\x1b" in list_text([Summary("lusab-babad", None, "\x1b[31m", NOW, NOW, 1, "\x1b\n\t")], NOW)


def test_a_shell_completes_ids_and_simple_names(
    ids: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What means something to a shell is not offered: zsh evaluates what it is given."""
    with open_store() as store:
        store.rename(ids[0], "$(reboot)")
    assert completions("llmrun history show ", monkeypatch, capsys) == [ids[2], "trip", ids[1], ids[0]]
    assert completions(f"llmrun history rm trip {ids[0][:9]}", monkeypatch, capsys) == [ids[0]]
    assert completions("llmrun history show zzz", monkeypatch, capsys) == []


def test_a_search_of_wide_letters_fits_80_columns() -> None:
    summary = Summary("lusab-babad", None, "guide", NOW, NOW, 2, "")
    shown = search_text([Hit(summary, "user", "本" * 150), Hit(summary, "assistant", "a本 " * 50)], NOW)
    assert [line for line in shown.splitlines() if cell_len(line) > 80] == []
    assert shown.count("本") == 200
