"""engine.questions: each question is asked once, and a cache that is broken is only slow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmrun import __version__
from llmrun.engine import build
from llmrun.engine.protocol import Ready
from llmrun.engine.questions import MAX_FILES, Questions
from llmrun.engine.wire import encode
from llmrun.errors import GGUFError
from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.settings import RunSettings

HOST = RunSettings(devices=())
ANSWER = EngineMemory(BufferSizes(None, 1, 2, 3, 1), (), 2, 0, 4, 512, 256, True, "map")


class Counted:
    """Answers like an engine and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, int, RunSettings]] = []

    def __call__(self, header: bytes, size: int, settings: RunSettings) -> EngineMemory:
        self.asked.append((header, size, settings))
        return replace(ANSWER, n_ctx=settings.n_ctx or 512)


def test_the_same_question_is_asked_once() -> None:
    engine = Counted()
    asked = Questions(engine)
    assert {asked.memory(b"a", 1, HOST) for _ in range(3)} == {ANSWER}
    assert len(engine.asked) == 1


@pytest.mark.parametrize(
    ("header", "size", "settings"),
    [(b"b", 1, HOST), (b"a", 2, HOST), (b"a", 1, replace(HOST, n_ctx=9)), (b"a", 1, RunSettings())],
)
def test_another_question_is_asked_for_itself(header: bytes, size: int, settings: RunSettings) -> None:
    engine = Counted()
    asked = Questions(engine)
    asked.memory(b"a", 1, HOST)
    asked.memory(header, size, settings)
    assert len(engine.asked) == 2


def test_threads_and_the_way_of_loading_make_no_other_question() -> None:
    engine = Counted()
    asked = Questions(engine)
    asked.memory(b"a", 1, HOST)
    asked.memory(b"a", 1, replace(HOST, n_threads=7, n_threads_batch=3, load_mode="mmap"))
    assert len(engine.asked) == 1


def test_an_answer_outlives_the_process_in_its_folder(tmp_path: Path) -> None:
    engine = Counted()
    Questions(engine, tmp_path / "new").memory(b"a", 1, HOST)
    assert Questions(engine, tmp_path / "new").memory(b"a", 1, HOST) == ANSWER
    assert len(engine.asked) == 1
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".answer"]


@pytest.mark.parametrize("settings", [RunSettings(), RunSettings(devices=("CUDA0",))])
def test_questions_about_devices_are_asked_anew_in_every_process(tmp_path: Path, settings: RunSettings) -> None:
    engine = Counted()
    for _ in range(2):
        Questions(engine, tmp_path).memory(b"a", 1, settings)
    assert len(engine.asked) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "garbage", [b"", b"\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x02{}", encode(Ready(0.5)), encode(Ready(0.5)) * 2]
)
def test_garbage_in_the_folder_is_replaced(tmp_path: Path, garbage: bytes) -> None:
    engine = Counted()
    Questions(engine, tmp_path).memory(b"a", 1, HOST)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(garbage)
    assert Questions(engine, tmp_path).memory(b"a", 1, HOST) == ANSWER
    assert len(engine.asked) == 2
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Questions(Counted(), tmp_path / "file").memory(b"a", 1, HOST) == ANSWER


def test_the_folder_is_bounded(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 5):
        (tmp_path / f"{number}.answer").write_bytes(b"")
    Questions(Counted(), tmp_path).memory(b"a", 1, HOST)
    assert len(list(tmp_path.iterdir())) == MAX_FILES


def test_an_error_is_not_remembered() -> None:
    counted: list[int] = []

    def refuse(header: bytes, size: int, settings: RunSettings) -> EngineMemory:
        counted.append(size)
        raise GGUFError("refused")

    asked = Questions(refuse)
    for _ in range(2):
        with pytest.raises(GGUFError):
            asked.memory(b"a", 1, HOST)
    assert counted == [1, 1]


def test_the_engine_is_told_apart_by_its_files_and_by_what_asks_it() -> None:
    version, ours, *rest = build.engine_id()
    assert version == "0.3.36"
    assert ours == f"llmrun {__version__}"
    assert any("libllama" in line or "llama.dll" in line for line in rest)


def test_a_library_from_elsewhere_is_another_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLAMA_CPP_LIB_PATH is where llama_cpp looks for its library instead of beside itself."""
    find = build.engine_id.__wrapped__
    (tmp_path / "libllama.so").write_bytes(b"one")
    own = find()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    one = find()
    (tmp_path / "libllama.so").write_bytes(b"another")
    another = find()
    assert len({own, one, another}) == 3
    assert one[:4] == another[:4] == own[:4]
    assert [str(tmp_path / "libllama.so") in line for line in one[4:]] == [True]
