"""prompt_cache, prompt_files: a long text is read once, whoever asks about it next; and only where that is exact."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Usage
from llmrun.message import RawPrompt
from llmrun.prompt_cache import PromptCache, Taken, prompt_key
from llmrun.prompt_files import LEAST_TOKENS, Header, PromptFiles, common_beginning, pack, parse_header
from llmrun.state_files import HEADER_BYTES
from scripts.synthetic import LETTERS, RECURRENT, SLIDING, TINY, write_model
from tests.conftest import ONE_THREAD, chunks, figures, request

Run = Callable[..., subprocess.CompletedProcess[str]]
SHAPES = {"full attention": TINY, "sliding windows": SLIDING, "recurrent state": RECURRENT}
SETTINGS = replace(ONE_THREAD, n_ctx=2048)
TEXT = "the moon is made of green cheese, and mice know it well. " * 12
OTHER = "nobody has ever seen a whale that could not swim at all. " * 12
TOKENS = st.lists(st.integers(0, 3), max_size=40)


@dataclass
class Reader:
    """Runs that come one after the other: each has an engine that has read nothing, and the cache of all."""

    engine: Engine
    files: PromptFiles
    key: str | None

    def run(self, question: str, *, cached: bool = True, text: str = TEXT) -> tuple[str, Usage, Taken]:
        """Ask about a text, as a run of the program would."""
        # nothing of an earlier run is in memory
        chunks(self.engine, replace(request(max_tokens=1), raw=RawPrompt("", tokens=(7,))))
        wanted, alike = (request(text + asked, max_tokens=8) for asked in (question, "…"))
        cache = PromptCache(self.engine, self.key if cached else None, self.files)
        taken = cache.take(wanted, alike)
        got = chunks(self.engine, wanted)
        assert got[-1].usage
        usage = taken.counted(got[-1].usage)
        cache.leave(usage)
        return "".join(chunk.text for chunk in got), usage, taken

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.files.folder.iterdir()} if self.files.folder.exists() else set()

    @property
    def path(self) -> Path:
        (path,) = self.files.folder.iterdir()
        return path


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Engine, Path]]]:
    found = {}
    with ExitStack() as stack:
        for kind, shape in SHAPES.items():
            path = tmp_path_factory.mktemp("models") / "m.gguf"
            write_model(path, replace(shape, tied=False), writes=LETTERS)
            engine = stack.enter_context(Engine())
            engine.load(path, SETTINGS)
            found[kind] = engine, path
        yield found


@pytest.fixture
def read(engines: dict[str, tuple[Engine, Path]], tmp_path: Path) -> Callable[[str], Reader]:
    def make(kind: str = "full attention") -> Reader:
        engine, path = engines[kind]
        return Reader(engine, PromptFiles(tmp_path / "cache" / "prompts"), prompt_key([path], SETTINGS))

    return make


@pytest.fixture
def reader(read: Callable[..., Reader]) -> Reader:
    return read()


@pytest.mark.parametrize("kind", SHAPES)
def test_a_second_question_about_a_text_reads_only_the_question(kind: str, read: Callable[[str], Reader]) -> None:
    reader = read(kind)
    _, first, _ = reader.run(" who?")
    assert (first.cached_tokens, first.read_tokens) == (0, first.prompt_tokens)
    plain, _, _ = reader.run(" what for?", cached=False)
    text, usage, taken = reader.run(" what for?")
    assert text == plain
    assert usage.prompt_tokens - usage.read_tokens == usage.cached_tokens == taken.n_tokens
    assert usage.read_tokens < 50 < LEAST_TOKENS < usage.cached_tokens
    assert len(reader.names) == 1, "and a question is not worth a file of its own"


@pytest.mark.parametrize("kind", SHAPES)
def test_the_same_question_again_is_answered_the_same(kind: str, read: Callable[[str], Reader]) -> None:
    reader = read(kind)
    plain, _, _ = reader.run(" who?", cached=False)
    for _ in range(3):
        text, usage, _ = reader.run(" who?")
        assert text == plain
    assert usage.read_tokens < 50


def test_of_many_texts_the_one_that_is_asked_about_is_taken(reader: Reader) -> None:
    for text in (TEXT, OTHER):
        reader.run(" who?", text=text)
    assert len(reader.names) == 2
    for text in (OTHER, TEXT):
        assert reader.run(" what for?", text=text)[1].read_tokens < 50


def test_a_text_that_has_grown_takes_the_place_of_what_it_was(reader: Reader) -> None:
    reader.run("")
    before = reader.names
    _, usage, _ = reader.run("", text=TEXT + OTHER)
    assert usage.cached_tokens > LEAST_TOKENS
    assert reader.run(" who?", text=TEXT + OTHER)[1].read_tokens < 50
    reader.run(" who?", text=TEXT)
    assert len(reader.names - before) == 1


def test_a_short_prompt_is_not_kept(reader: Reader) -> None:
    reader.run(" who?", text="short")
    assert reader.names == set()


def test_what_is_kept_is_its_owners_alone_and_has_nothing_of_the_answer(reader: Reader) -> None:
    _, usage, _ = reader.run(" who?")
    assert reader.files.folder.stat().st_mode & 0o777 == 0o700
    assert reader.path.stat().st_mode & 0o777 == 0o600
    header = parse_header(reader.path.read_bytes()[:HEADER_BYTES])
    assert header
    assert header.n_tokens == usage.prompt_tokens
    tokens = reader.engine.tokenize(request(TEXT + " who?")).tokens
    assert reader.path.read_bytes()[HEADER_BYTES:][: 4 * len(tokens)] == pack(tokens)


def test_another_model_another_adapter_or_another_cache_type_reads_for_itself(
    reader: Reader, guide_file: Path, engines: dict[str, tuple[Engine, Path]]
) -> None:
    reader.run(" who?")
    _, path = engines["full attention"]
    keys = [
        prompt_key([guide_file], SETTINGS),
        prompt_key([path, guide_file], SETTINGS),
        prompt_key([path], replace(SETTINGS, type_k="q8_0")),
        prompt_key([path], replace(SETTINGS, flash_attn=False)),
    ]
    assert reader.key == prompt_key([path], replace(SETTINGS, n_ctx=512, n_threads=7, repack=True))
    assert len({reader.key, *keys}) == 5
    for key in keys:
        assert replace(reader, key=key).run(" who?")[1].cached_tokens == 0


def test_a_context_of_another_length_takes_what_it_can_hold(
    reader: Reader, engines: dict[str, tuple[Engine, Path]], start_engine: Callable[..., Engine]
) -> None:
    _, usage, _ = reader.run(" who?")
    path = engines["full attention"][1]
    longer = replace(reader, engine=start_engine(path, replace(SETTINGS, n_ctx=1024)))
    assert longer.run(" what for?")[1].read_tokens < 50
    shorter = replace(reader, engine=start_engine(path, replace(SETTINGS, n_ctx=512)))
    assert usage.prompt_tokens > 512
    assert shorter.run(" who?", text=TEXT[:400])[1].cached_tokens == 0
    assert len(reader.names) == 1, "and what another context can hold stays"


def test_a_context_beyond_what_the_model_was_made_for_reads_for_itself(
    reader: Reader, engines: dict[str, tuple[Engine, Path]], start_engine: Callable[..., Engine]
) -> None:
    reader.run(" who?")
    stretched = start_engine(engines["full attention"][1], replace(SETTINGS, n_ctx=4096))
    assert replace(reader, engine=stretched).run(" who?")[1].cached_tokens == 0


def flip_last(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def lie_about_tokens(path: Path) -> None:
    """The tokens in front are those of the prompt, and the state is another's."""
    header = parse_header(path.read_bytes()[:HEADER_BYTES])
    assert header
    data = bytearray(path.read_bytes())
    data[header.offset + 200] ^= 1
    path.write_bytes(data)


def open_to_others(path: Path) -> None:
    path.chmod(0o644)


def be_a_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def be_no_header(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def be_brackets(path: Path) -> None:
    path.write_bytes(b"llmrun prompt 1\n" + b"[" * (path.stat().st_size - 16))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    "damage", [flip_last, lie_about_tokens, open_to_others, be_a_link, be_no_header, cut, be_brackets]
)
def test_a_file_that_is_not_right_is_read_anew_and_replaced(damage: Callable[[Path], None], reader: Reader) -> None:
    plain, usage, _ = reader.run(" who?")
    damage(reader.path)
    text, again, _ = reader.run(" who?")
    assert (text, again.cached_tokens, again.read_tokens) == (plain, 0, usage.prompt_tokens)
    assert not reader.path.is_symlink()
    assert reader.run(" who?")[1].read_tokens < 50


def test_all_together_take_no_more_than_is_wished_and_the_last_used_stay(reader: Reader) -> None:
    texts = [f"{number} {TEXT}" for number in range(4)]
    reader.run(" who?", text=texts[0])
    size = reader.path.stat().st_size
    for age, text in enumerate(texts[1:]):
        reader.run(" who?", text=text)
        for path in reader.files.folder.iterdir():
            os.utime(path, (path.stat().st_mtime - 100 * (age + 1),) * 2)
    reader.run(" what for?", text=texts[0])  # used now
    few = replace(reader, files=PromptFiles(reader.files.folder, most=3 * size))
    few.run(" who?", text=OTHER)
    assert few.files.held() <= 3 * size
    assert few.run(" why?", text=OTHER)[1].read_tokens < 50
    assert few.run(" why?", text=texts[0])[1].read_tokens < 50
    assert few.run(" why?", text=texts[1])[1].read_tokens > 50


def test_a_prompt_larger_than_all_that_may_be_kept_is_not_kept(reader: Reader) -> None:
    small = replace(reader, files=PromptFiles(reader.files.folder, most=20_000))
    assert small.run(" who?")[1].cached_tokens == 0
    assert reader.names == set()


def test_what_is_cleared_is_gone(reader: Reader) -> None:
    reader.run(" who?")
    held = reader.files.held()
    assert reader.files.clear() == (1, held)
    assert (reader.files.held(), reader.files.clear()) == (0, (0, 0))


def test_where_taking_back_was_slower_than_reading_nothing_is_taken(reader: Reader) -> None:
    reader.run(" who?")
    header = parse_header(reader.path.read_bytes()[:HEADER_BYTES])
    assert header
    slow = replace(header, save_seconds=header.token_seconds * header.n_tokens * 2)
    data = reader.path.read_bytes()
    reader.path.write_bytes(slow.encode() + data[HEADER_BYTES:])
    assert reader.run(" who?")[1].cached_tokens == 0
    assert reader.path.read_bytes()[:HEADER_BYTES] == slow.encode(), "and it is not written again and again"


@given(TOKENS, TOKENS)
def test_the_common_beginning_is_found(one: list[int], other: list[int]) -> None:
    n = common_beginning(pack(one), pack(other))
    assert one[:n] == other[:n]
    assert n == min(len(one), len(other)) or one[n] != other[n]


@given(st.integers(1, 1 << 24), st.integers(1, 1 << 40), st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_header_comes_back(n_tokens: int, size: int, save: float, token: float) -> None:
    header = Header("k" * 64, n_tokens, size, "5" * 64, save, token)
    assert parse_header(header.encode()) == header
    assert header.offset >= HEADER_BYTES + 4 * n_tokens


@given(st.binary(max_size=200))
def test_any_bytes_are_no_header(data: bytes) -> None:
    assert parse_header(b"llmrun prompt 1\n" + data) is None


def ask(llmrun: Run, *arguments: str) -> dict[str, Any]:
    return figures(llmrun("run", "guide", *arguments, "--json", "-n", "4", "--temp", "0", "--threads", "1"))


def test_two_runs_about_the_same_file_read_it_once(llmrun: Run, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text(TEXT * 2)
    about = ["--file", str(file), "--cache"]
    first, second = ask(llmrun, "who?", *about), ask(llmrun, "what for?", *about)
    plain = ask(llmrun, "what for?", *about[:2])
    assert first["usage"]["cached_tokens"] == first["cache"]["tokens"] == 0
    assert second["usage"]["cached_tokens"] == second["cache"]["tokens"] > LEAST_TOKENS
    assert second["usage"]["prompt_tokens"] - second["usage"]["cached_tokens"] < 40
    assert (plain["answer"], plain["usage"]["cached_tokens"]) == (second["answer"], 0)
    assert "cache" not in plain
    listed = llmrun("list")
    assert "of what models have read: `llmrun rm --cache` removes it" in listed.stdout
    held = figures(llmrun("list", "--json"))["total_remembered"]
    removed = figures(llmrun("rm", "--cache", "--json"))
    assert removed == {"prompts": 1, "conversations": 0, "tensors": 0, "freed": held}
    assert held > 0 == figures(llmrun("list", "--json"))["total_remembered"]


def test_what_is_kept_is_said_and_only_where_it_was_asked_for(llmrun: Run, tmp_path: Path) -> None:
    done = llmrun("run", "guide", "who?", "--threads", "1", "-n", "4", "--cache", stdin=TEXT * 2)
    assert done.returncode == 0
    assert "not read again; `llmrun rm --cache` removes it" in done.stderr
    assert "removed: what models had read of 1 prompt and 0 conversations" in llmrun("rm", "--cache").stderr
    assert llmrun("rm", "--cache").stderr == "there was nothing to remove\n"
    done = llmrun("run", "guide", "who?", "--threads", "1", "-n", "4", stdin=TEXT * 2)
    assert (done.returncode, "rm --cache" in done.stderr) == (0, False)
    assert not list((tmp_path / ".cache" / "llmrun" / "prompts").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "guide", "hi", "--cache", "--cache-size", "much"], "much"),
        (["rm"], "there is no model named"),
        (["rm", "--cache", "owner/repo"], "--cache stands alone"),
    ],
)
def test_what_cannot_be_meant_is_said(arguments: list[str], words: str, llmrun: Run) -> None:
    done = llmrun(*arguments)
    assert (done.returncode, words in done.stderr) == (2, True)


def test_runs_at_the_same_time_do_not_hurt_each_other(reader: Reader, engines: dict[str, tuple[Engine, Path]]) -> None:
    """Two engines with the same text, each keeping it while the other does, and one that takes it back meanwhile."""
    path = engines["full attention"][1]
    reader.run(" who?")
    results: list[tuple[str, Usage]] = []

    def go(engine: Engine) -> None:
        own = Reader(engine, PromptFiles(reader.files.folder), reader.key)
        for _ in range(3):
            text, usage, _ = own.run(" who?")
            results.append((text, usage))
            for file in list(own.files.folder.glob("*.prompt")):
                file.unlink(missing_ok=True)  # so that it is kept again and again

    with Engine() as one, Engine() as other:
        for engine in (one, other):
            engine.load(path, SETTINGS)
        threads = [threading.Thread(target=go, args=(engine,)) for engine in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 6
    assert len({text for text, _ in results}) == 1
    assert not list(reader.files.folder.glob("*.part"))
