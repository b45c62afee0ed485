"""engine.wire: messages to bytes and back, in whatever pieces they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun import errors
from llmrun.engine import protocol as p
from llmrun.engine import states, wire
from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.message import Message
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
BUFFERS = st.builds(BufferSizes, st.none() | TEXT, *[st.integers(0, 1 << 50)] * 4)
MEMORY = st.builds(
    EngineMemory,
    BUFFERS,
    st.lists(BUFFERS, max_size=2).map(tuple),
    *[st.integers(0, 1 << 50)] * 5,
    st.none() | st.booleans(),
    st.sampled_from(["map", "log"]),
    st.booleans(),
)
TOKENS = st.lists(st.integers(-9, 1 << 18)).map(tuple)
MESSAGES = st.one_of(
    st.just(p.Load("/m.gguf", RunSettings(n_ctx=5))),
    st.builds(
        p.Generate,
        st.lists(st.builds(Message, TEXT, TEXT)).map(tuple),
        st.builds(Sampling, seed=st.none() | st.integers(0, 99)),
        st.none() | st.integers(1, 9),
        st.lists(TEXT).map(tuple),
    ),
    st.just(p.Cancel()),
    st.builds(states.SaveState, TEXT, *[st.integers(0, 1 << 50)] * 2, st.none() | TOKENS),
    st.builds(p.Tokenize, st.builds(p.Generate, st.just((Message("user", "hi"),)), st.just(Sampling()))),
    st.builds(states.PromptTokens, TOKENS, st.booleans(), st.booleans()),
    st.builds(states.RestoreState, TEXT, *[st.integers(0, 1 << 50)] * 2, TEXT),
    st.builds(states.StateSaved, st.integers(0, 1 << 50), TEXT, st.integers(0, 1 << 24)),
    st.builds(states.StateRestored, st.integers(0, 1 << 24)),
    st.builds(p.DryRun, st.binary(), st.integers(0, 1 << 50), st.just(RunSettings(devices=(), tensor_split=(0.5, 2)))),
    st.builds(p.ListDevices, st.lists(TEXT).map(tuple)),
    st.builds(p.DryRunResult, MEMORY),
    st.builds(p.DeviceList, st.lists(st.builds(p.DeviceInfo, *[TEXT] * 5, *[st.integers(0)] * 2)).map(tuple)),
    st.just(p.Ready(0.25)),
    st.sampled_from([p.Phase("idle"), p.Phase("decode"), p.LoadProgress(0.5), p.PrefillProgress(3, 9, 1, 0.5)]),
    st.builds(p.Chunk, TEXT, st.none() | st.just("stop"), st.none() | st.just(p.Usage(1, 0, 1, 2, 0.1, 0.2, 3))),
    st.builds(p.Failed, TEXT, TEXT, st.none() | TEXT),
)


@given(st.lists(MESSAGES, max_size=5), st.integers(1, 50))
def test_messages_survive_the_wire_in_pieces_of_any_size(messages: list[p.Event], size: int) -> None:
    data = b"".join(map(wire.encode, messages))
    decoder, received = wire.FrameDecoder(), []
    for start in range(0, len(data), size):
        received += decoder.feed(data[start : start + size])
    assert received == messages


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\x02{}",
        b"\0\0\0\x03abc",
        b"\0\0\0\x04\xff\xfe\xfd\xfc",
        b'\0\0\0\x1b{"type":"Nothing","body":{}}'[:31],
        b'\0\0\0\x1c{"type":"Ready","body":null}',
        b"\0\0\0\x00",
    ],
)
def test_a_frame_that_is_none_is_an_engine_error(frame: bytes) -> None:
    with pytest.raises(errors.EngineError):
        wire.FrameDecoder().feed(frame)


@pytest.mark.parametrize(
    "error",
    [
        errors.GGUFError("bad", "hint"),
        errors.ContextOverflowError("long"),
        errors.InsufficientMemoryError("small", None),
        errors.WorkerDiedError("gone"),
        errors.LenderLostError("lost", "hint"),
    ],
)
def test_an_error_crosses_the_wall_as_itself(error: errors.LLMRunError) -> None:
    back = wire.error_of(wire.failure_of(error))
    assert (type(back), back.message, back.hint) == (type(error), error.message, error.hint)


@pytest.mark.parametrize("kind", ["Nonsense", "ClassVar", "annotations", "__name__"])
def test_an_error_of_unknown_kind_is_an_engine_error(kind: str) -> None:
    assert type(wire.error_of(p.Failed(kind, "m"))) is errors.EngineError
