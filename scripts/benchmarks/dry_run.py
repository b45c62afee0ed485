"""Asking what a model would take: time for a question once the worker is warm, and what the worker has in memory."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from llmrun.engine.client import Engine
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost
from scripts.benchmarks.table import Row

SHAPES = ("qwen2.5-0.5b", "llama-3.2-1b", "llama-3.1-8b", "qwen3-30b-a3b", "qwen3-32b", "llama-3.1-70b")
QUESTIONS = 21  # each of another context, so that nothing could be remembered
_LIMIT = 0.050  # seconds
_RESIDENT = 100.0  # MiB


def measure_dry_run(folder: Path) -> list[Row]:
    """Q4_K_M headers without tokenizer; the worst of all questions, and the memory of the worker at the end."""
    del folder
    rows: list[Row] = []
    worst: list[float] = []
    with Engine() as engine:
        engine.devices()  # warm: the import is not counted
        for name in SHAPES:
            header, size = ghost(MODELS[name])
            engine.dry_run(header, size, RunSettings(devices=()))
            seconds = tuple(_ask(engine, header, size, 256 * number) for number in range(8, 8 + QUESTIONS))
            rows.append(Row(f"dry run, {name}", "s", seconds, (_LIMIT,) * QUESTIONS, 1.0, at_least=False))
            worst.append(max(seconds))
        resident = psutil.Process(engine.pid).memory_info().rss / (1 << 20)
    rows.append(Row("dry run, worst question of all", "s", (max(worst),), (_LIMIT,), 1.0, at_least=False))
    rows.append(Row("dry run, worker resident", "MiB", (resident,), (_RESIDENT,), 1.0, at_least=False))
    return rows


def _ask(engine: Engine, header: bytes, size: int, n_ctx: int) -> float:
    start = time.perf_counter()
    memory = engine.dry_run(header, size, RunSettings(n_ctx=n_ctx, devices=()))
    seconds = time.perf_counter() - start
    assert memory.n_ctx == n_ctx
    return seconds
