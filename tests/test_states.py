"""states: what is kept of conversations is private, bounded, and used only where it is surely what it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Usage
from llmrun.errors import WorkerDiedError
from llmrun.settings import RunSettings
from llmrun.state_files import HEADER_BYTES, MOST_BYTES, allowance, choose_victims
from llmrun.states import Header, Vault, parse_header, state_key
from tests.conftest import ONE_THREAD, chunks, request

SETTINGS = replace(ONE_THREAD, n_ctx=512)
QUESTION, FOLLOW = "what is a kv cache?", "and what is vram?"
SIZES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 100), max_size=8)


@dataclass
class Kept:
    """A conversation with guide that was kept: the engine that had it, and a second one that did not."""

    vault: Vault
    key: str
    text: str
    had: Engine
    new: Engine

    @property
    def path(self) -> Path:
        (path,) = self.vault.folder.glob("*.state")
        return path

    def going_on(self, engine: Engine) -> tuple[str, Usage]:
        got = chunks(engine, request(QUESTION, self.text, FOLLOW))
        assert got[-1].usage
        return "".join(chunk.text for chunk in got), got[-1].usage

    def restored(self) -> int:
        return self.vault.restore(self.new, "one", self.key)


@pytest.fixture(scope="module")
def engines(guide_file: Path) -> Iterator[tuple[Engine, Engine]]:
    with Engine() as one, Engine() as other:
        one.load(guide_file, SETTINGS)
        other.load(guide_file, SETTINGS)
        yield one, other


@pytest.fixture
def kept(engines: tuple[Engine, Engine], guide_file: Path, tmp_path: Path) -> Kept:
    had, new = engines
    key = state_key([guide_file], SETTINGS)
    assert key
    chunks(had, request("hello"))  # so that nothing of an earlier test is in memory
    chunks(new, request("hello"))
    got = chunks(had, request(QUESTION))
    vault = Vault(tmp_path / "cache" / "states")
    assert vault.keep(had, "one", key) > 30
    return Kept(vault, key, "".join(chunk.text for chunk in got), had, new)


def test_a_conversation_comes_back_and_goes_on_as_if_it_had_not_been_away(kept: Kept) -> None:
    n_tokens = kept.restored()
    text, usage = kept.going_on(kept.new)
    assert usage.cached_tokens == n_tokens > 30
    assert text == kept.going_on(kept.had)[0]


def test_what_is_kept_is_its_owners_alone(kept: Kept) -> None:
    assert kept.vault.folder.stat().st_mode & 0o777 == 0o700
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in kept.vault.folder.iterdir()] == [kept.path.name], "and nothing unfinished is left"


def test_a_conversation_has_one_state(kept: Kept) -> None:
    first = kept.path.stat().st_size
    kept.going_on(kept.had)
    kept.vault.keep(kept.had, "one", kept.key)
    assert kept.path.stat().st_size > first
    assert kept.vault.held() == kept.path.stat().st_size


def flip_last(kept: Kept) -> None:
    data = bytearray(kept.path.read_bytes())
    data[-1] ^= 1
    kept.path.write_bytes(data)


def cut(kept: Kept) -> None:
    os.truncate(kept.path, kept.path.stat().st_size - 1)


def cut_to_nothing(kept: Kept) -> None:
    os.truncate(kept.path, 0)


def lie_of_its_size(kept: Kept) -> None:
    """The header and the file agree, and the bytes are others."""
    header = parse_header(kept.path.read_bytes()[:HEADER_BYTES])
    assert header
    kept.path.write_bytes(replace(header, size=5).encode() + b"state")


def open_to_others(kept: Kept) -> None:
    kept.path.chmod(0o644)


def put_a_link(kept: Kept) -> None:
    path = kept.path
    path.rename(kept.vault.folder / "elsewhere")
    path.symlink_to(kept.vault.folder / "elsewhere")


def put_a_second_name(kept: Kept) -> None:
    os.link(kept.path, kept.vault.folder / "elsewhere")


def put_a_pipe(kept: Kept) -> None:
    path = kept.path
    path.unlink()
    os.mkfifo(path, 0o600)


def give_away(kept: Kept) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(kept.path, 12345, -1)


def put_anothers(kept: Kept) -> None:
    """The state of one conversation in the place of another's."""
    path = kept.path
    kept.vault.keep(kept.had, "two", kept.key)
    (other,) = (found for found in kept.vault.folder.glob("*.state") if found != path)
    other.replace(path)


HARM = [
    *(flip_last, cut, cut_to_nothing, lie_of_its_size, open_to_others, put_a_link, put_a_second_name, put_a_pipe),
    *(give_away, put_anothers),
]


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_a_state_that_is_not_what_was_kept_is_read_again(harm: Callable[[Kept], None], kept: Kept) -> None:
    harm(kept)
    assert kept.restored() == 0
    text, usage = kept.going_on(kept.new)
    assert text == kept.going_on(kept.had)[0]
    assert usage.cached_tokens < 5, "only what all conversations of this model begin with may be in memory"


def test_a_damaged_state_is_removed(kept: Kept) -> None:
    flip_last(kept)
    kept.restored()
    assert list(kept.vault.folder.iterdir()) == []


def test_a_folder_that_is_anothers_or_a_link_is_not_used(kept: Kept) -> None:
    folder = kept.vault.folder
    folder.rename(folder.parent / "moved")
    folder.symlink_to(folder.parent / "moved")
    assert kept.restored() == 0
    assert kept.vault.keep(kept.had, "one", kept.key) == 0
    assert kept.vault.held() == 0


def test_a_folder_that_others_could_enter_is_closed(kept: Kept) -> None:
    kept.vault.folder.chmod(0o755)
    assert kept.restored() > 0
    assert kept.vault.folder.stat().st_mode & 0o777 == 0o700


def test_a_state_of_other_settings_stays_for_them(kept: Kept) -> None:
    """Whoever goes back to the old settings finds it; who answers with the new ones replaces it."""
    assert kept.vault.restore(kept.new, "one", "another key") == 0
    assert kept.restored() > 0


def test_nothing_is_kept_without_a_key(kept: Kept) -> None:
    assert kept.vault.keep(kept.had, "two", None) == 0
    assert kept.vault.restore(kept.had, "one", None) == 0
    assert len(list(kept.vault.folder.iterdir())) == 1


def test_what_is_forgotten_is_gone(kept: Kept) -> None:
    kept.vault.keep(kept.had, "two", kept.key)
    kept.vault.forget("one")
    assert kept.restored() == 0
    assert len(list(kept.vault.folder.iterdir())) == 1
    kept.vault.clear()
    assert list(kept.vault.folder.iterdir()) == []


def test_names_of_conversations_are_part_of_no_path(kept: Kept) -> None:
    for name in ("../../up", "/etc/passwd", "", "a" * 10_000, "\udcff\0"):
        assert kept.vault.keep(kept.had, name, kept.key) > 0
    assert len(list(kept.vault.folder.iterdir())) == 6
    assert [path.name for path in kept.vault.folder.parent.iterdir()] == ["states"]


def test_an_engine_that_died_keeps_nothing_and_harms_nothing(
    kept: Kept, guide_file: Path, start_engine: Callable[..., Engine]
) -> None:
    dead = start_engine(guide_file, SETTINGS)
    dead.close()
    assert kept.vault.keep(dead, "one", kept.key) == 0
    assert kept.restored() > 0


def test_a_state_that_is_the_death_of_a_worker_is_not_that_of_the_next(
    kept: Kept, guide_file: Path, start_engine: Callable[..., Engine]
) -> None:
    dead = start_engine(guide_file, SETTINGS)
    dead.close()
    with pytest.raises(WorkerDiedError):
        kept.vault.restore(dead, "one", kept.key)
    assert kept.restored() == 0


def test_the_state_that_was_used_longest_ago_goes_first(kept: Kept) -> None:
    size = kept.path.stat().st_size
    vault = Vault(kept.vault.folder, most=3 * size)
    for age, name in ((30, "one"), (20, "two"), (10, "three")):
        vault.keep(kept.had, name, kept.key)
        newest = max(kept.vault.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (newest.stat().st_mtime - age,) * 2)
    assert kept.restored() > 0  # used now
    vault.keep(kept.had, "four", kept.key)
    assert vault.held() <= 3 * size
    assert [vault.restore(kept.new, name, kept.key) > 0 for name in ("one", "two", "three", "four")] == [
        *(True, False, True, True)
    ]


def test_a_state_larger_than_all_that_may_be_held_is_not_kept(kept: Kept) -> None:
    vault = Vault(kept.vault.folder, most=kept.path.stat().st_size - 1)
    assert vault.keep(kept.had, "two", kept.key) == 0
    assert list(kept.vault.folder.iterdir()) == []


def test_what_was_never_finished_is_removed_after_an_hour(kept: Kept) -> None:
    for name, age in (("old.part", 4000), ("young.part", 10)):
        part = kept.vault.folder / name
        part.touch()
        os.utime(part, (part.stat().st_mtime - age,) * 2)
    kept.vault.keep(kept.had, "one", kept.key)
    assert {path.name for path in kept.vault.folder.iterdir()} == {kept.path.name, "young.part"}


@given(SIZES, st.integers(0, 500), st.randoms())
def test_what_stays_fits_and_nothing_goes_that_need_not(sizes: dict[str, int], most: int, random: Random) -> None:
    by_age = list(sizes)
    random.shuffle(by_age)
    victims = choose_victims(sizes, by_age, most)
    assert victims == by_age[: len(victims)], "the oldest go first"
    left = sum(sizes[name] for name in by_age[len(victims) :])
    assert left <= most
    if victims:
        assert left + sizes[victims[-1]] > most


@given(st.integers(0, 1 << 44), st.integers(0, 1 << 34))
def test_a_disk_is_never_filled(free: int, held: int) -> None:
    most = allowance(free, held)
    assert 0 <= most <= MOST_BYTES
    assert most * 20 <= free + held
    # while a new state is written the old ones are still there, `most` at the most
    assert free + held - 2 * most >= (free + held) * 9 // 10


@pytest.mark.parametrize(
    "changed",
    [
        {"n_ctx": 256},
        {"type_k": "q8_0"},
        {"type_v": "q8_0"},
        {"flash_attn": True},
        {"swa_full": True},
        {"n_seq_max": 2},
        {"kv_unified": True},
        {"devices": ("CUDA0",)},
    ],
)
def test_other_settings_have_another_key(changed: dict[str, Any], guide_file: Path) -> None:
    assert state_key([guide_file], SETTINGS) != state_key([guide_file], replace(SETTINGS, **changed))


@pytest.mark.parametrize(
    "changed",
    [{"n_threads": 7}, {"load_mode": "mmap"}, {"n_gpu_layers": 3}, {"draft": "/d"}, {"affinity": "cores"}],
)
def test_what_changes_no_state_changes_no_key(changed: dict[str, Any], guide_file: Path) -> None:
    assert state_key([guide_file], SETTINGS) == state_key([guide_file], replace(SETTINGS, **changed))


def test_another_model_has_another_key_even_with_the_same_name_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"one model")
    before, key = path.stat(), state_key([path], RunSettings())
    assert state_key([path], RunSettings()) == key
    path.write_bytes(b"an other.")
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # a file system's clock ticks some hundred times a second
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert state_key([path], RunSettings()) != key


def test_an_adapter_makes_another_key_and_a_file_that_is_gone_none(guide_file: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter.gguf").write_bytes(b"lora")
    assert state_key([guide_file], SETTINGS) != state_key([guide_file, tmp_path / "adapter.gguf"], SETTINGS)
    assert state_key([guide_file, tmp_path / "gone.gguf"], SETTINGS) is None


@given(st.binary(max_size=300))
def test_a_header_is_one_or_none(data: bytes) -> None:
    assert parse_header(data) is None
    header = Header("k", "c", 5, 6, "s")
    assert parse_header(header.encode()) == header
    assert len(header.encode()) == HEADER_BYTES


@pytest.mark.parametrize("text", ["[" * 4000, "{}", "[]", "1", '{"key": "k"}', "\xff", ""])
def test_a_page_that_is_no_header_is_none(text: str) -> None:
    assert parse_header(b"llmrun state 1\n" + text.encode("latin-1") + b"\n") is None


@pytest.mark.parametrize("wrong", [{"n_tokens": 0}, {"size": -1}, {"size": 1.5}, {"key": None}, {"size": True}])
def test_a_header_with_a_field_that_cannot_be_is_none(wrong: dict[str, Any]) -> None:
    assert parse_header(replace(Header("k", "c", 5, 6, "s"), **wrong).encode()) is None
