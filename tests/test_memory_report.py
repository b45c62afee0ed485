"""worker.memory_report and dry_run: llama.cpp's table of buffers against its log, what is scaled against the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llama_cpp import llama_cpp as lib

from llmrun.errors import EngineError, QuestionTooLargeError
from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.settings import RunSettings
from llmrun.worker.breakdown import Buffers, read_breakdown
from llmrun.worker.dry_run import MAX_CELLS, dry_run, ghost
from llmrun.worker.ghost_log import sizes_by_header
from llmrun.worker.llama import load_model, make_context, start_backend
from llmrun.worker.log import engine_log
from llmrun.worker.log_sizes import parse_buffers, parse_compute, parse_flash_attn, parse_memory
from llmrun.worker.memory_report import Pools, agrees, counted_once, pool_of, report_memory, sizes_of_log
from llmrun.worker.scheduler import by_type
from scripts.architectures import write as architectures
from scripts.architectures.shapes import MODELS, small
from scripts.synthetic import SMALL, write_model
from tests.repacking import can_repack

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


def unreadable(context: object) -> None:
    """A table as it is on Windows and macOS, or where the library's own layout is another."""


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
    table, log = (dry_run(header, size, settings, read_table=read) for read in (read_breakdown, unreadable))
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
    table, log = (dry_run(header, size, settings, read_table=read) for read in (read_breakdown, unreadable))
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
    if settings.repack and not can_repack(path):
        pytest.skip("llama.cpp aborts")
    with real_context(path, settings) as (context, model, lines):
        table, log = (
            report_memory(context, model, settings, lines, sizes_of_log, read_table=read)
            for read in (read_breakdown, unreadable)
        )
    assert (table.source, log.source) == ("map", "log")
    assert figures(log) == sizes(table, lines=2)
    assert log.host.repack == pytest.approx(table.host.repack, abs=DIGIT)


def test_a_real_load_on_a_device_is_the_same_by_table_and_log(rpc_server: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", SMALL, mix="Q8_0")
    settings = replace(HOST, devices=(rpc_server,), n_gpu_layers=3)
    with real_context(path, settings) as (context, model, lines):
        table, log = (
            report_memory(context, model, settings, lines, sizes_of_log, read_table=read)
            for read in (read_breakdown, unreadable)
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


# a window of 4,096 tokens has 4,608 cells for each of 8 sequences, 33,280 where they share it
WINDOWED = replace(HOST, n_ctx=8 * 8192, n_seq_max=8, n_outputs_max=8, n_ubatch=512)


@pytest.mark.parametrize(
    ("changes", "max_cells"),
    [
        ({}, 8 * 5120),  # all three are longer than the window: 4,608, 4,864 and 5,120
        ({"kv_unified": True}, 50_000),
        ({"swa_full": True}, 8 * 1024),  # there is no window
        ({"n_ctx": 8 * 4608}, 8 * 1024),  # all are shorter, and so is the wished one
    ],
    ids=str,
)
def test_a_window_is_full_in_each_of_three_contexts_or_in_none(changes: dict[str, Any], max_cells: int) -> None:
    header, size = architectures.ghost(MODELS["gemma-2-9b"])
    settings = replace(WINDOWED, **changes)
    extended, whole = (dry_run(header, size, settings, max_cells=n) for n in (max_cells, MAX_CELLS))
    assert (extended.scaled, whole.scaled) == (True, False)
    assert replace(extended, scaled=False) == whole


@pytest.mark.parametrize("max_cells", [8 * 1024, 8 * 4608, 8 * 5119, 8 * 255, 0])
def test_contexts_too_short_to_fill_a_window_are_no_answer(max_cells: int) -> None:
    header, size = architectures.ghost(MODELS["gemma-2-9b"])
    with pytest.raises(QuestionTooLargeError, match="65,536 tokens is too long to be asked for"):
        dry_run(header, size, WINDOWED, max_cells=max_cells)


def test_many_sequences_of_a_windowed_model_are_asked_for() -> None:
    header, size = architectures.ghost(MODELS["gemma-2-9b"])
    settings = replace(WINDOWED, n_ctx=200 * 8192, n_seq_max=200, n_outputs_max=200, n_ubatch=256)
    found = dry_run(header, size, settings)
    cell = 21 * 2 * 8 * 256 * 2  # half of the layers, K and V, heads, numbers, bytes
    assert (found.kv_cache, found.n_ctx, found.scaled) == (cell * 200 * (8192 + 4352), 200 * 8192, True)


@pytest.mark.parametrize(
    ("name", "changes", "states"),
    [
        ("mamba-130m", {}, 0.5),  # not even one sequence
        ("mamba-130m", {"n_seq_max": 8, "n_outputs_max": 8}, 1.5),  # two would be needed
    ],
)
def test_a_monstrous_state_is_not_asked_for(name: str, changes: dict[str, Any], states: float) -> None:
    header, size = architectures.ghost(small(name))
    one = dry_run(header, size, HOST).state
    with pytest.raises(QuestionTooLargeError, match=r"recurrent state of .* cannot be asked for"):
        dry_run(header, size, replace(HOST, **changes), max_state=int(states * one))


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


METAL = """\
load_tensors:  MTL0_Mapped model buffer size =  1918.35 MiB
load_tensors:   CPU_Mapped model buffer size =   308.23 MiB
llama_kv_cache:       MTL0 KV buffer size =   448.00 MiB
sched_reserve:       MTL0 compute buffer size =   256.50 MiB
sched_reserve:        CPU compute buffer size =    20.01 MiB
""".splitlines()


def test_what_metal_maps_is_its_devices() -> None:
    """Printed by ollama's engine for Llama 3.2 3B, but for the line of the CPU's weights."""
    pools = Pools((1,), ("MTL0",), ("MTL0",), ("MTL0",))
    host, device = sizes_of_log(METAL, pools)
    as_printed = [f"{size / (1 << 20):.2f}" for size in (device.weights, device.kv_cache, device.compute)]
    assert as_printed == ["1918.35", "448.00", "256.50"]
    assert [f"{size / (1 << 20):.2f}" for size in (host.weights, host.kv_cache, host.compute)] == [
        "308.23",
        "0.00",
        "20.01",
    ]


@pytest.mark.parametrize(
    ("buffer", "number"),
    [
        ("CUDA0", 1),
        ("CUDA1", 2),
        ("CUDA10", 0),
        ("CUDA_Host", 0),
        ("CUDA1_Private", 2),
        ("RPC0[127.0.0.1:50052]", 3),
        ("CPU", 0),
        ("CPU_REPACK", 0),
    ],
)
def test_a_buffer_is_in_the_pool_its_type_is_named_after(buffer: str, number: int) -> None:
    names = ("CUDA0", "CUDA1", "RPC0")
    assert pool_of(buffer, Pools((1, 2, 3), names, ("CUDA0", "CUDA1", "RPC0[127.0.0.1:50052]"), names)) == number


def test_a_buffer_that_two_backends_share_is_counted_once() -> None:
    """An accelerator and the CPU, as in Apple's builds: the log tells it for each, and the table adds it up."""
    lines = [
        "sched_reserve:       MTL0 compute buffer size =   256.50 MiB",
        "sched_reserve:        CPU compute buffer size =    20.01 MiB",
        "sched_reserve:        CPU compute buffer size =    20.01 MiB",
    ]
    size = 20_980_000
    table = (Buffers(1, "CPU", None, True, 7, 9, 2 * size), Buffers(2, "MTL0", 5, False, 8, 0, 268_959_744))
    assert parse_compute(lines) == {"MTL0": 268_959_744, "CPU": 20_982_006}
    assert not agrees(table, lines)
    once = counted_once(table, lines)
    assert once == (replace(table[0], compute=size), table[1])
    assert agrees(once, lines)
    odd = (replace(table[0], compute=2 * size + 1), table[1])
    assert counted_once(odd, lines) == odd
    assert by_type([3, 4, 3], [10, 20, 10]) == {3: 10, 4: 20}


def test_a_log_that_does_not_say_where_layers_go_is_an_engine_error() -> None:
    header, _ = architectures.ghost(small("llama-3.2-1b"))
    with pytest.raises(EngineError, match="where 0 layers go"):
        sizes_by_header(header, HOST)(METAL, Pools((), (), (), ()))


def test_a_log_does_not_say_enough_of_an_architecture_we_do_not_know() -> None:
    model = small("llama-3.2-1b")
    header, _ = architectures.ghost(replace(model, architecture="arwkv7"))
    with pytest.raises(EngineError, match="does not say enough of 'arwkv7'"):
        sizes_by_header(header, HOST)(METAL, Pools((), (), (), ()))


def test_a_pools_total_is_all_of_its_buffers() -> None:
    pools = BufferSizes(None, 1, 20, 300, 1), BufferSizes("CUDA0", 4000, 50000, 600000)
    memory = EngineMemory(pools[0], (pools[1],), 50020, 0, 7000000, 256, 256, None, "log")
    assert memory.total == 7654321
