"""Reading and writing through client and worker, against the bare loop."""

from __future__ import annotations

import random
import string
import time
from dataclasses import replace
from pathlib import Path

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate, PrefillProgress
from llmrun.hardware.threads import count_threads
from llmrun.message import Message
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from scripts.benchmarks.bare import BareLoop
from scripts.benchmarks.table import Row
from scripts.synthetic import LETTERS, QWEN3_0_6B, SMALL, write_model

TURNS = 11
_TEMPLATE = "{{ messages[-1].content }}"  # nothing but the text, so that tokens can be counted


def measure_decode(folder: Path) -> list[Row]:
    """Writing with a 0.6B shape, and with a model of guide's size, whose tokens take well under a millisecond each."""
    small = folder / "guide-shaped-F16.gguf"
    if not small.exists():
        write_model(small, replace(SMALL, tied=False), template=_TEMPLATE, writes=LETTERS)
    return [
        _decode("decode, 0.6B Q4_K_M", large(folder), 64, 0.98),
        _decode("decode, guide's shape F16", small, 1500, 0.90),
    ]


def measure_prefill(folder: Path) -> list[Row]:
    """Reading 512 tokens with a 0.6B shape."""
    return [_prefill("prefill 512, 0.6B Q4_K_M", large(folder))]


def measure_cancel(folder: Path) -> list[Row]:
    """Stopping while a prompt is read."""
    return [_cancel("cancel while reading, against 0.3 s, 0.6B", large(folder))]


def large(folder: Path) -> Path:
    """The 0.6B shape in Q4_K_M, made where it is not there."""
    path = folder / "qwen3-0.6b-Q4_K_M.gguf"
    return path if path.exists() else write_model(path, QWEN3_0_6B, mix="Q4_K_M", template=_TEMPLATE)


def _settings() -> RunSettings:
    threads = count_threads()
    return RunSettings(n_ctx=2048, n_threads=threads, n_threads_batch=threads)


def measure_guide(folder: Path) -> list[Row]:
    """The embedded model itself: its answers are short, so many are asked."""
    del folder
    settings = _settings()
    path = embedded_file("Q8_0")
    ours, theirs = [], []
    with Engine() as engine, BareLoop(path, settings) as bare:
        engine.load(path, settings)
        for _ in range(TURNS):
            seconds, bare_seconds, tokens = 0.0, 0.0, 0
            for question in _QUESTIONS:
                _, rest, n = ask(engine, question, 200)
                _, bare_rest = bare.measure(20, n)
                seconds, bare_seconds, tokens = seconds + rest, bare_seconds + bare_rest, tokens + n - 1
            ours.append(tokens / seconds)
            theirs.append(tokens / bare_seconds)
    return [Row("decode, guide Q8_0", "tok/s", tuple(ours), tuple(theirs), 0.90)]


_QUESTIONS = ("what is a kv cache", "what is vram", "how much memory does a 7B model need at 4 bits?", "what is GGUF",
              "which quantization should i use", "what is mmap", "why is my model slow", "what is a token",
              "what is offloading", "what is a mixture of experts")  # fmt: skip


def ask(engine: Engine, text: str, n_tokens: int) -> tuple[float, float, int]:
    """Return seconds until the first text, from there to the end, and tokens, as the client sees them."""
    start = time.perf_counter()
    first = None
    for event in engine.answer(Generate((Message("user", text),), Sampling(temperature=0), n_tokens)):
        if isinstance(event, Chunk):
            first = first or time.perf_counter()
            last = event
    assert first is not None
    assert last.usage is not None
    return first - start, time.perf_counter() - first, last.usage.completion_tokens


def random_text(length: int) -> str:
    """Return letters, each one token, never the same: nothing of it is in the KV cache."""
    return "".join(random.choices(string.ascii_letters, k=length))


def _decode(name: str, path: Path, n_tokens: int, bar: float) -> Row:
    ours, theirs, settings = [], [], _settings()
    with Engine() as engine, BareLoop(path, settings) as bare:
        engine.load(path, settings)
        for _ in range(TURNS):
            _, rest, n = ask(engine, random_text(16), n_tokens)
            assert n == n_tokens, "the model ended by itself"
            ours.append((n - 1) / rest)
            _, rest = bare.measure(16, n_tokens)
            theirs.append((n_tokens - 1) / rest)
    return Row(name, "tok/s", tuple(ours), tuple(theirs), bar)


def _prefill(name: str, path: Path, n_prompt: int = 512) -> Row:
    ours, theirs, settings = [], [], _settings()
    with Engine() as engine, BareLoop(path, settings) as bare:
        engine.load(path, settings)
        for _ in range(TURNS):
            first, _, _ = ask(engine, random_text(n_prompt), 1)
            ours.append(n_prompt / first)
            first, _ = bare.measure(n_prompt, 1)
            theirs.append(n_prompt / first)
    return Row(name, "tok/s", tuple(ours), tuple(theirs), 0.98)


def _cancel(name: str, path: Path) -> Row:
    """From the cancel to the end of the answer, while a long prompt is being read."""
    ours, settings = [], _settings()
    with Engine() as engine:
        engine.load(path, settings)
        for _ in range(TURNS):
            answer = engine.answer(Generate((Message("user", random_text(1900)),), Sampling(temperature=0), 1))
            for event in answer:
                if isinstance(event, PrefillProgress):
                    start = time.perf_counter()
                    answer.cancel()
            ours.append(time.perf_counter() - start)
    return Row(name, "s", tuple(ours), (0.3,) * TURNS, 1.0, at_least=False)
