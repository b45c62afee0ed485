"""worker.state and the engine: what is in memory, in a file and back; a file that is not to the bit what it was is not
looked at."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Usage
from llmrun.engine.states import StateSaved
from llmrun.errors import EngineError
from llmrun.worker import state
from scripts.synthetic import LETTERS, RECURRENT, SLIDING, TINY, write_model
from tests.conftest import ONE_THREAD, chunks, request

SHAPES = {"full attention": TINY, "sliding windows": SLIDING, "recurrent state": RECURRENT}
SETTINGS = replace(ONE_THREAD, n_ctx=1024)
LONG = "abcdefghij" * 30
PLENTY = 1 << 30
RECORD = state.Record((1, 2, 3), "text", (1, 2))


def answer(engine: Engine, *turns: str) -> tuple[str, Usage]:
    got = chunks(engine, request(*turns, max_tokens=12))
    assert got[-1].usage
    return "".join(chunk.text for chunk in got), got[-1].usage


def saved_by(engine: Engine, path: Path) -> StateSaved:
    path.touch(0o600)
    return engine.save_state(path, 100, PLENTY)


def restored_by(engine: Engine, path: Path, saved: StateSaved) -> int:
    return engine.restore_state(path, 100, saved.size, saved.sha256)


@dataclass
class Memory:
    """What llama.cpp is to a state: bytes out, bytes in. It remembers what it was shown."""

    content: bytes
    shown: list[bytes] = field(default_factory=list)

    def state_size(self) -> int:
        return len(self.content)

    def get_state(self, buffer: ctypes.Array[ctypes.c_uint8]) -> bool:
        ctypes.memmove(buffer, self.content, len(self.content))
        return True

    def set_state(self, buffer: ctypes.Array[ctypes.c_uint8]) -> bool:
        self.shown.append(bytes(buffer))
        return True


def save(path: Path, memory: Memory, limit: int = PLENTY, offset: int = 10) -> tuple[int, str] | None:
    path.touch(0o600)
    return state.save(path, offset, limit, RECORD, memory)


def restore(path: Path, size: int, sha256: str, memory: Memory) -> state.Record | None:
    return state.restore(path, 10, size, sha256, memory)


@pytest.mark.parametrize("kind", SHAPES)
def test_an_engine_that_took_a_state_back_goes_on_as_the_one_that_kept_going(
    kind: str, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    path = write_model(tmp_path / "m.gguf", replace(SHAPES[kind], tied=False), writes=LETTERS)
    one, other = (start_engine(path, SETTINGS) for _ in range(2))
    text, first = answer(one, LONG)
    saved = saved_by(one, tmp_path / "state")
    assert saved.n_tokens == first.prompt_tokens + first.completion_tokens - 1
    assert restored_by(other, tmp_path / "state", saved) == saved.n_tokens
    for engine in (other, one):
        _, usage = answer(engine, LONG, text, "go on")
        assert usage.cached_tokens == saved.n_tokens
    assert answer(one, LONG, text, "go on")[0] == answer(other, LONG, text, "go on")[0]


def test_guide_answers_as_if_it_had_never_been_away(
    guide_file: Path, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    one, other = (start_engine(guide_file) for _ in range(2))
    question, follow = "what is a kv cache?", "and what is vram?"
    text = answer(one, question)[0]
    saved = saved_by(one, tmp_path / "state")
    assert restored_by(other, tmp_path / "state", saved) == saved.n_tokens
    (warm, usage), (kept, _) = answer(other, question, text, follow), answer(one, question, text, follow)
    assert warm == kept
    assert usage.cached_tokens == saved.n_tokens


@pytest.mark.parametrize(("type_kv", "flash_attn"), [("q8_0", True), ("q4_0", True), ("bf16", True), ("f16", False)])
def test_every_form_of_cache_is_taken_back(
    type_kv: str, flash_attn: bool, tmp_path: Path, tiny_model: Path, start_engine: Callable[..., Engine]
) -> None:
    """Without flash attention V is kept transposed (llama-kv-cache.cpp, v_trans)."""
    settings = replace(SETTINGS, type_k=type_kv, type_v=type_kv, flash_attn=flash_attn)
    engine = start_engine(tiny_model, settings)
    text, _ = answer(engine, LONG)
    saved = saved_by(engine, tmp_path / "state")
    going_on = answer(engine, LONG, text, "go on")[0]
    answer(engine, "something else")
    assert restored_by(engine, tmp_path / "state", saved) == saved.n_tokens
    again, usage = answer(engine, LONG, text, "go on")
    assert (again, usage.cached_tokens) == (going_on, saved.n_tokens)


def test_a_state_of_another_form_is_refused_by_llama_cpp_and_read_again(
    tiny_model: Path, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    """`llmrun.states` asks for no such thing, because its key has the settings; the worker survives it all the same."""
    one, other = (start_engine(tiny_model, replace(SETTINGS, type_k=name, type_v=name)) for name in ("f16", "q8_0"))
    answer(one, LONG)
    saved = saved_by(one, tmp_path / "state")
    fresh = answer(other, LONG)[0]
    assert restored_by(other, tmp_path / "state", saved) == 0
    again, usage = answer(other, LONG)
    assert (again, usage.cached_tokens) == (fresh, 0)


def test_a_state_of_more_tokens_than_the_context_holds_is_read_again(
    tiny_model: Path, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    one, other = (start_engine(tiny_model, replace(SETTINGS, n_ctx=n)) for n in (1024, 256))
    answer(one, LONG)
    assert restored_by(other, tmp_path / "state", saved_by(one, tmp_path / "state")) == 0
    assert answer(other, "short")[1].cached_tokens == 0


def test_an_engine_that_holds_nothing_saves_nothing(
    tiny_model: Path, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(tiny_model, SETTINGS)
    assert saved_by(engine, tmp_path / "state") == StateSaved(0, "", 0)
    assert (tmp_path / "state").read_bytes() == b""


def test_a_state_beyond_the_limit_is_not_written(
    tiny_model: Path, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(tiny_model, SETTINGS)
    answer(engine, LONG)
    size = saved_by(engine, tmp_path / "state").size
    (tmp_path / "other").touch(0o600)
    assert engine.save_state(tmp_path / "other", 100, size - 1) == StateSaved(0, "", 0)
    assert (tmp_path / "other").read_bytes() == b""
    assert engine.save_state(tmp_path / "other", 100, size).size == size


def test_a_file_that_cannot_be_written_is_an_error_and_the_engine_goes_on(
    tiny_model: Path, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(tiny_model, SETTINGS)
    answer(engine, LONG)
    with pytest.raises(EngineError, match="could not be kept: No such file"):
        engine.save_state(tmp_path / "gone" / "state", 0, PLENTY)
    assert answer(engine, LONG)[1].cached_tokens > 0


def test_what_lies_before_the_offset_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"0123456789 and more")
    memory = Memory(b"content")
    saved = save(path, memory)
    assert saved
    assert path.read_bytes()[:10] == b"0123456789"
    assert path.stat().st_size == 10 + saved[0]
    assert restore(path, *saved, memory) == RECORD
    assert memory.shown == [b"content"]


@given(data=st.data())
def test_of_a_file_that_is_not_to_the_bit_what_it_was_llama_cpp_sees_nothing(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    memory = Memory(data.draw(st.binary(min_size=1, max_size=200)))
    saved = save(path, memory)
    assert saved
    good = path.read_bytes()
    kind = data.draw(st.sampled_from(["flipped", "cut", "longer", "other sum"]))
    bad, sha256 = bytearray(good), saved[1]
    if kind == "flipped":
        bad[data.draw(st.integers(10, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del bad[data.draw(st.integers(0, len(good) - 1)) :]
    elif kind == "longer":
        bad += b"\0"
    else:
        sha256 = "0" * 64
    path.write_bytes(bad)
    assert restore(path, saved[0], sha256, memory) is None
    assert memory.shown == []
    path.write_bytes(good)
    assert restore(path, *saved, memory) == RECORD


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    memory = Memory(b"content")
    saved = save(tmp_path / "state", memory)
    assert saved
    (tmp_path / "link").symlink_to(tmp_path / "state")
    assert restore(tmp_path / "link", *saved, memory) is None
    assert memory.shown == []


def test_a_file_that_finds_no_room_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    """A mapping of a file whose blocks cannot be had would be a SIGBUS, so they are asked for first."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(EngineError, match="could not be kept: File too large"):
            save(tmp_path / "state", Memory(bytes(10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
