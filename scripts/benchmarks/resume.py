"""A conversation that was left and is resumed: taken back from its state, against reading it again."""

from __future__ import annotations

import os
import random
import string
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate, Usage
from llmrun.hardware.threads import count_threads
from llmrun.message import Message
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.states import Vault, state_key
from scripts.benchmarks.table import Row
from scripts.synthetic import QWEN3_0_6B, write_model

TURNS = 3  # on two cores, a turn of reading again takes three minutes
N_TOKENS = 4000
_MESSAGES = 15  # the last is a question
_ID = "the conversation"


def measure_resume(folder: Path) -> list[Row]:
    """The first new token of a conversation of 4,000 tokens with a 0.6B shape; and what keeping it takes at its end."""
    path = folder / "qwen3-0.6b-chat-Q4_K_M.gguf"
    if not path.exists():
        write_model(path, QWEN3_0_6B, mix="Q4_K_M")
    threads = count_threads()
    settings = RunSettings(n_ctx=5120, n_threads=threads, n_threads_batch=threads)
    key = state_key([path], settings)
    kept, taken_back, read_again = [], [], []
    with TemporaryDirectory(dir=folder) as place, Engine() as engine:
        engine.load(path, settings)
        vault = Vault(Path(place) / "states")
        for _ in range(TURNS):
            conversation = _conversation()
            text, seconds, usage = _first_token(engine, conversation)
            assert usage.read_tokens > N_TOKENS - 100
            read_again.append(seconds)
            start = time.perf_counter()
            assert vault.keep(engine, _ID, key) == usage.prompt_tokens
            kept.append(time.perf_counter() - start)
            _first_token(engine, (Message("user", "another conversation"),))
            _leave_page_cache(vault.folder)
            start = time.perf_counter()
            assert vault.restore(engine, _ID, key) == usage.prompt_tokens
            more = (*conversation, Message("assistant", text), Message("user", "go on"))
            _, _, usage = _first_token(engine, more)
            taken_back.append(time.perf_counter() - start)
            assert usage.read_tokens < 50
    bar = 0.1
    return [
        Row("resume 4,000 tokens, 0.6B, from disk", "s", tuple(taken_back), tuple(read_again), bar, at_least=False),
        Row("keep 4,000 tokens, 0.6B", "s", tuple(kept), tuple(read_again), bar, at_least=False),
    ]


def _conversation() -> tuple[Message, ...]:
    """Messages of random letters, each one token, beside some 11 of the template's."""
    n_letters = N_TOKENS // _MESSAGES - 11
    texts = ["".join(random.choices(string.ascii_letters, k=n_letters)) for _ in range(_MESSAGES)]
    return tuple(Message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts))


def _first_token(engine: Engine, messages: tuple[Message, ...]) -> tuple[str, float, Usage]:
    start = time.perf_counter()
    got = [event for event in engine.answer(Generate(messages, Sampling(temperature=0), 1)) if isinstance(event, Chunk)]
    seconds = time.perf_counter() - start
    assert got[-1].usage is not None
    return "".join(chunk.text for chunk in got), seconds, got[-1].usage


def _leave_page_cache(folder: Path) -> None:
    """Have states read from the disk, as after a night: nothing stays in memory, where that can be asked for."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDWR)
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
