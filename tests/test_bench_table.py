"""scripts/bench's table: what a row says beside its ratio, and what the limit of writing is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmarks.limit import Memory, bytes_per_token
from scripts.benchmarks.table import Row, format_table
from scripts.synthetic import TINY, write_model

ROW = Row("write 64", "tok/s", (40.0, 50.0, 60.0), (40.0,) * 3, 0.98, command="llama-bench -n 64", limit=100.0)


def test_a_row_tells_its_limit_its_command_and_its_noise() -> None:
    assert (ROW.of_limit, ROW.noisy) == (0.5, True)
    assert {
        "limit": 100.0,
        "of_limit": 0.5,
        "noisy": True,
        "command": "llama-bench -n 64",
    }.items() <= ROW.data().items()
    head, row, command = format_table([ROW]).splitlines()
    assert head.split()[-4:] == ["limit", "of", "it", "bar"]
    assert "50%" in row
    assert row.endswith("noisy")
    assert command.strip() == "llama-bench -n 64"


def test_without_limits_there_is_no_column_for_them() -> None:
    assert "limit" not in format_table([Row("help", "s", (1.0,), (2.0,), 1.2, at_least=False)])


def test_a_token_needs_all_weights_but_the_table_of_words_and_the_cache(tmp_path: Path) -> None:
    shape = TINY
    path = write_model(tmp_path / "tiny.gguf", shape)  # F16, tied: the table of words is the output matrix
    each = (2 * shape.n_head + 2 * shape.n_head_kv) * shape.head_dim * shape.n_embd + 3 * shape.n_ff * shape.n_embd
    weights = 2 * (shape.n_layer * each + shape.n_vocab * shape.n_embd)
    cache = shape.n_layer * 2 * shape.n_head_kv * shape.head_dim * 2
    assert bytes_per_token(path, 0) == weights
    assert bytes_per_token(path, 10) == weights + 10 * cache


def test_memory_is_read_by_as_many_threads_as_asked() -> None:
    memory = Memory.of(2, 8 << 20)
    assert [len(part) for part in memory.parts] == [4 << 20, 4 << 20]
    assert 1e7 < memory.bandwidth(1) < 1e13


@pytest.mark.parametrize("mix", ["Q4_0", "IQ4_XS"])
def test_every_mix_of_the_bench_can_be_written(tmp_path: Path, mix: str) -> None:
    assert bytes_per_token(write_model(tmp_path / "tiny.gguf", mix=mix), 0) > 0
