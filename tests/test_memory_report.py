"""worker.memory_report and dry_run: llama.cpp's table of buffers against its log, what is scaled against the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llama_cpp import llama_cpp as lib

from llmrun.errors import EngineError
from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.settings import RunSettings
from llmrun.worker.breakdown import Buffers, read_breakdown
from llmrun.worker.dry_run import MAX_CELLS, dry_run, ghost
from llmrun.worker.llama import load_model, make_context, start_backend
from llmrun.worker.log import engine_log
from llmrun.worker.log_sizes import parse_buffers, parse_flash_attn, parse_memory
from llmrun.worker.memory_report import agrees, report_memory, sizes_of_log
from scripts.architectures import write as architectures
from scripts.architectures.shapes import MODELS, small
from scripts.synthetic import SMALL, write_model

HOST = RunSettings(n_ctx=1024, devices=(), load_mode="none")
DIGIT = 5243  # bytes: half of the last digit the log prints, 0.01 MiB


@pytest.fixture(scope="module", autouse=True)
def backend() -> None:
    start_backend()


@contextmanager
def real_context(path: Path, settings: RunSettings) -> Iterator[tuple[Any, Any, list[str]]]:
    """A context of a loaded model, the model, and what the log said."""
    with engine_log().recording(quiet=True) as log:
        model = load_model(path, settings)
        context = make_context(model, settings)
    try:
        yield context, model, log.lines()
    finally:
        lib.llama_free(context)
        model.close()


def sizes(memory: EngineMemory, lines: int = 1) -> list[Any]:
    """Every size, as near as a log can come to it where a figure is made of so many lines."""
    pools = (memory.host, *memory.devices)
    found = [memory.kv_cache, memory.state, *(n for p in pools for n in (p.weights, p.kv_cache, p.compute))]
    return [pytest.approx(size, abs=lines * DIGIT) for size in found]


def figures(memory: EngineMemory) -> list[int]:
    pools = (memory.host, *memory.devices)
    return [memory.kv_cache, memory.state, *(n for p in pools for n in (p.weights, p.kv_cache, p.compute))]


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_ctx": 4096, "n_ubatch": 512}, {"type_k": "q8_0", "type_v": "q8_0"}, {"flash_attn": False}, {"n_ctx": 300}],
    ids=str,
)
@pytest.mark.parametrize(
    "name",
    [
        "llama-3.1-8b",
        "qwen3-30b-a3b",
        "gemma-3-1b",
        "mamba-130m",
        "qwen3.5-4b",
        "glm-4.5-air",
        "gemma-3n-e2b",
        "gemma-4-e2b",
    ],
)
def test_without_the_table_a_dry_run_is_the_same_to_the_printed_digit(name: str, changes: dict[str, Any]) -> None:
    header, size = architectures.ghost(MODELS[name] if name != "glm-4.5-air" else small(name))
    settings = replace(HOST, **changes)
    table, log = (dry_run(header, size, settings, use_table=use_table) for use_table in (True, False))
    assert (table.source, log.source) == ("map", "log")
    assert figures(log) == sizes(table, lines=2)
    assert (log.output, log.n_ctx, log.n_ctx_seq, log.flash_attn) == (
        table.output,
        table.n_ctx,
        table.n_ctx_seq,
        table.flash_attn,
    )


@pytest.mark.parametrize("n_gpu_layers", [0, 1, 3, 4, None])
@pytest.mark.parametrize("name", ["llama-3.2-1b", "gemma-4-e2b", "qwen3.5-4b", "qwen3-30b-a3b"])
def test_without_the_table_layers_are_counted_where_they_are(
    rpc_server: str, name: str, n_gpu_layers: int | None
) -> None:
    header, size = architectures.ghost(MODELS[name])
    settings = replace(HOST, devices=(rpc_server,), n_gpu_layers=n_gpu_layers, cpu_experts=2)
    table, log = (dry_run(header, size, settings, use_table=use_table) for use_table in (True, False))
    assert log.source == "log"
    assert figures(log) == sizes(table, lines=2)


@pytest.mark.parametrize(
    "changes", [{}, {"repack": True}, {"load_mode": "mmap"}, {"load_mode": "mmap", "repack": True}]
)
@pytest.mark.parametrize("name", ["llama-3.2-1b", "falcon-h1-0.5b", "deepseek-v2-lite"])
def test_without_the_table_a_real_load_is_the_same_to_the_printed_digit(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    path = architectures.write(tmp_path / "model.gguf", small(name), "Q4_K_M")
    settings = replace(HOST, **changes)
    with real_context(path, settings) as (context, model, lines):
        table, log = (
            report_memory(context, model, settings, lines, sizes_of_log, use_table=use_table)
            for use_table in (True, False)
        )
    assert (table.source, log.source) == ("map", "log")
    assert figures(log) == sizes(table, lines=2)
    assert log.host.repack == pytest.approx(table.host.repack, abs=DIGIT)


def test_a_real_load_on_a_device_is_the_same_by_table_and_log(rpc_server: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", SMALL, mix="Q8_0")
    settings = replace(HOST, devices=(rpc_server,), n_gpu_layers=3)
    with real_context(path, settings) as (context, model, lines):
        table, log = (
            report_memory(context, model, settings, lines, sizes_of_log, use_table=use_table)
            for use_table in (True, False)
        )
    assert (table.source, log.source) == ("map", "log")
    assert figures(log) == sizes(table)
    assert log.devices[0].weights > 0


def test_a_table_that_the_log_contradicts_is_not_believed(tiny_model: Path) -> None:
    with real_context(tiny_model, HOST) as (context, _, lines):
        table = read_breakdown(context)
    assert table
    assert agrees(table, lines)
    (row,) = table
    for wrong in (
        replace(row, compute=row.compute * 2),
        replace(row, context=row.context * 2),
        replace(row, compute=row.context, context=row.compute),
        replace(row, name="CUDA0"),
    ):
        assert not agrees([wrong], lines)
    assert not agrees([], lines)
    assert not agrees([row, Buffers(4, "RPC0", 5, False, 0, 0, 1 << 20)], lines)


@pytest.mark.parametrize("kv_unified", [False, True])
@pytest.mark.parametrize("name", ["mamba-130m", "falcon-h1-0.5b", "qwen3.5-4b"])
def test_a_state_too_large_to_be_made_is_scaled_exactly(name: str, kv_unified: bool) -> None:
    header, size = architectures.ghost(small(name))
    settings = replace(HOST, n_seq_max=8, n_outputs_max=8, n_ctx=4096, kv_unified=kv_unified)
    whole = dry_run(header, size, settings)
    one = dry_run(header, size, replace(settings, n_seq_max=1)).state
    assert whole.state == 8 * one
    scaled = dry_run(header, size, settings, max_state=3 * one)
    assert (whole.scaled, scaled.scaled) == (False, True)
    assert whole.host.compute <= scaled.host.compute <= 3 * whole.host.compute
    same = replace(scaled.host, compute=whole.host.compute)
    assert replace(scaled, host=same, scaled=False) == whole


def test_a_state_too_large_to_be_made_is_scaled_on_each_device(rpc_server: str) -> None:
    header, size = architectures.ghost(small("falcon-h1-0.5b"))
    settings = replace(HOST, n_seq_max=6, n_outputs_max=6, devices=(rpc_server,), n_gpu_layers=2)
    whole = dry_run(header, size, settings)
    scaled = dry_run(header, size, settings, max_state=whole.state // 3)
    assert [pool.kv_cache for pool in (scaled.host, *scaled.devices)] == [
        pool.kv_cache for pool in (whole.host, *whole.devices)
    ]
    assert (scaled.state, scaled.kv_cache, scaled.output, scaled.n_ctx) == (
        whole.state,
        whole.kv_cache,
        whole.output,
        whole.n_ctx,
    )


@pytest.mark.parametrize("changes", [{}, {"n_seq_max": 4, "n_outputs_max": 4}, {"flash_attn": False}], ids=str)
@pytest.mark.parametrize("name", ["llama-3.2-1b", "gemma-3-1b"])
def test_a_context_too_long_for_its_table_is_extended_in_a_straight_line(name: str, changes: dict[str, Any]) -> None:
    """Twice the limit is asked for in full, by a limit twice as high, and compared."""
    header, size = architectures.ghost(small(name))
    settings = replace(HOST, n_ctx=2 * MAX_CELLS, **changes)
    extended = dry_run(header, size, settings)
    whole = dry_run(header, size, settings, max_cells=2 * MAX_CELLS)
    assert (extended.scaled, whole.scaled) == (True, False)
    assert replace(extended, scaled=False) == whole


def test_a_ghost_takes_no_more_room_than_its_header() -> None:
    with ghost(b"GGUF" + bytes(1000), 40 << 30) as path:
        status = path.stat()
        assert (status.st_size, status.st_blocks * 512 < 1 << 16) == (40 << 30, True)
        with path.open("rb") as file:
            assert file.read(4) == b"GGUF"
    assert not path.exists()


def test_a_size_that_no_file_can_have_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="no stand-in"), ghost(b"GGUF", 1 << 63):
        pass


LOG = """\
load_tensors:   CPU_Mapped model buffer size =  4685.30 MiB
load_tensors:        CUDA0 model buffer size =   100.25 MiB
llama_context:  CUDA_Host  output buffer size =     0.49 MiB
llama_kv_cache: layer   0: dev = CUDA0
llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB
llama_kv_cache: size =  512.00 MiB (  4096 cells,  32 layers,  1/1 seqs), K (f16):  256.00 MiB, V (f16):  256.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =    75.38 MiB
llama_memory_recurrent: size =   75.38 MiB (     1 cells,  48 layers,  1 seqs  0 rs_seq), R (f32):    3.38 MiB
sched_reserve: Flash Attention not supported, set to disabled
sched_reserve:      CUDA0 compute buffer size =   266.50 MiB
sched_reserve:  CUDA_Host compute buffer size =    16.01 MiB
print_info: file size   = 4.58 GiB (4.89 BPW)
""".splitlines()


def test_the_log_of_a_driver_is_read_by_its_lines() -> None:
    assert [(line.name, line.kind, line.size / (1 << 20)) for line in parse_buffers(LOG)] == [
        ("CPU_Mapped", "model", pytest.approx(4685.30)),
        ("CUDA0", "model", 100.25),
        ("CUDA_Host", "output", pytest.approx(0.49, abs=1e-6)),
        ("CUDA0", "KV", 512),
        ("CUDA0", "RS", pytest.approx(75.38, abs=1e-6)),
        ("CUDA0", "compute", 266.5),
        ("CUDA_Host", "compute", pytest.approx(16.01, abs=1e-6)),
    ]
    caches, states, n_lines = parse_memory(LOG)
    assert (caches, round(states / (1 << 20), 2), n_lines) == (512 << 20, 75.38, 2)
    assert parse_flash_attn(LOG) is False
    assert parse_flash_attn([]) is None


def test_a_pools_total_is_all_of_its_buffers() -> None:
    pools = BufferSizes(None, 1, 20, 300, 1), BufferSizes("CUDA0", 4000, 50000, 600000)
    memory = EngineMemory(pools[0], (pools[1],), 50020, 0, 7000000, 256, 256, None, "log")
    assert memory.total == 7654321
