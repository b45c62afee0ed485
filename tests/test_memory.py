"""The arithmetic of memory: placement, context, weights, cache and state, on real shapes; laws that hold for all."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.errors import GGUFError, UnknownArchitectureError
from llmrun.gguf.header import Entry, GGUFHeader, ValueType
from llmrun.gguf.parse import parse_header
from llmrun.hardware.cpu import cpu_layouts
from llmrun.hardware.device import Device
from llmrun.hardware.layout import Layout
from llmrun.memory.asked import footprint_of
from llmrun.memory.cache import layer_cache_size, row_size
from llmrun.memory.context import ContextShape, context_shape
from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.memory.estimate import Estimator, Machine
from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.memory.overhead import Overhead
from llmrun.memory.placement import Placement, place_layers
from llmrun.memory.shape import ModelShape, model_shape
from llmrun.memory.weights import place_weights
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost

MIB = 1 << 20
GPU = Machine((Device("GPU0", "RPC", "a device", None, 1),))
TWO_GPUS = Machine((Device("GPU0", "RPC", "large", None, 3), Device("GPU1", "RPC", "small", None, 1)))
MOE, DENSE, WINDOWED, LATENT, STATE, HYBRID = (
    "qwen3-30b-a3b",
    "llama-3.1-8b",
    "gemma-3-27b",
    "deepseek-v3",
    "mamba2-2.7b",
    "granite-4.0-h-tiny",
)


@cache
def header_of(name: str, mix: str = "Q4_K_M") -> GGUFHeader:
    header = parse_header(ghost(MODELS[name], mix)[0])
    assert isinstance(header, GGUFHeader)
    return header


@cache
def estimator(name: str) -> Estimator:
    return Estimator(header_of(name))


@cache
def shape_of(name: str) -> ModelShape:
    return model_shape(header_of(name))


# ---- context


@pytest.mark.parametrize(
    ("wish", "n_ctx", "n_ctx_seq", "n_stream"),
    [
        (RunSettings(n_ctx=5000), 5120, 5120, 1),
        (RunSettings(n_ctx=5000, n_seq_max=3), 5376, 1792, 3),
        (RunSettings(n_ctx=5000, n_seq_max=3, kv_unified=True), 5120, 5120, 1),
        (RunSettings(n_ctx=1), 256, 256, 1),
        (RunSettings(), 8192, 8192, 1),
    ],
)
def test_cells_are_padded_as_llama_cpp_pads_them(wish: RunSettings, n_ctx: int, n_ctx_seq: int, n_stream: int) -> None:
    found = context_shape(wish, 131072)
    assert (found.n_ctx, found.n_ctx_seq, found.n_stream) == (n_ctx, n_ctx_seq, n_stream)


def test_batches_are_cut_to_the_context_that_was_asked_for() -> None:
    found = context_shape(RunSettings(n_ctx=100, n_batch=512, n_ubatch=128), 4096)
    assert (found.n_batch, found.n_ubatch) == (100, 100)


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({}, 1280),  # 1024 + 128 padded to 256
        ({"n_ubatch": 2048}, 3072),
        ({"n_seq_max": 4, "kv_unified": True}, 4352),
        ({"n_seq_max": 4, "kv_unified": False}, 1280),
        ({"swa_full": True}, 32768),
        ({"n_ctx_seq": 512}, 512),
    ],
)
def test_a_window_has_cells_for_itself_and_for_one_step(changes: dict[str, Any], cells: int) -> None:
    context = replace(context_shape(RunSettings(n_ctx=32768), 131072), **changes)
    assert context.window_cells(1024) == cells


# ---- placement


@pytest.mark.parametrize(
    ("n_gpu_layers", "split", "layers", "output"),
    [
        (0, (1.0,), (None, None, None, None), None),
        (1, (1.0,), (None, None, None, None), 0),
        (3, (1.0,), (None, None, 0, 0), 0),
        (99, (1.0,), (0, 0, 0, 0), 0),
        (None, (1.0,), (0, 0, 0, 0), 0),
        (None, (), (None, None, None, None), None),
        (5, (3.0, 1.0), (0, 0, 0, 0), 1),
        (5, (1.0, 1.0), (0, 0, 0, 1), 1),
        (4, (1.0, 1.0), (None, 0, 0, 1), 1),
        (5, (0.0, 1.0), (1, 1, 1, 1), 1),
    ],
)
def test_layers_are_placed_from_the_end(
    n_gpu_layers: int | None, split: tuple[float, ...], layers: tuple[int | None, ...], output: int | None
) -> None:
    assert place_layers(4, n_gpu_layers, split) == Placement(layers, output)


@given(
    n_layer=st.integers(1, 100),
    n_gpu_layers=st.integers(0, 110),
    split=st.lists(st.floats(0.125, 100, width=32), min_size=1, max_size=4),
)
def test_every_layer_has_one_place_and_devices_come_in_order(
    n_layer: int, n_gpu_layers: int, split: list[float]
) -> None:
    found = place_layers(n_layer, n_gpu_layers, split)
    places = [-1 if place is None else place for place in (*found.layers, found.output)]
    assert len(found.layers) == n_layer
    assert places == sorted(places)
    assert sum(place >= 0 for place in places) == min(n_gpu_layers, n_layer + 1)
    assert all(place < len(split) for place in places)


# ---- weights


def test_all_weights_are_somewhere_exactly_once() -> None:
    """Untied and without repacking, moving layers moves bytes and makes none."""
    shape = shape_of("qwen3-8b")
    sums = set()
    for n_gpu_layers in range(shape.n_layer + 2):
        found = place_weights(shape, place_layers(shape.n_layer, n_gpu_layers, (1.0,)), ("RPC",), mmap=False)
        sums.add(found.host + sum(found.devices))
    assert sums == {header_of("qwen3-8b").tensor_bytes}


def test_a_tied_embedding_is_there_twice_once_the_output_is_on_a_device() -> None:
    shape = shape_of("gemma-3-1b")
    assert shape.tied is not None
    host, split = (place_weights(shape, place_layers(shape.n_layer, n, (1.0,)), ("RPC",), mmap=False) for n in (0, 1))
    assert split.devices[0] == shape.output.size + shape.tied.size
    assert split.host == host.host - shape.output.size


def test_the_input_embedding_never_leaves_the_host() -> None:
    shape = shape_of(DENSE)
    found = place_weights(shape, place_layers(shape.n_layer, None, (1.0,)), ("RPC",), mmap=False)
    assert found.host == shape.input.size > 0


def test_experts_can_stay_while_their_layers_go() -> None:
    shape = shape_of(MOE)
    placement = place_layers(shape.n_layer, None, (1.0,))
    gone, kept = (place_weights(shape, placement, ("RPC",), mmap=False, cpu_experts=n) for n in (0, 10))
    moved = sum(layer.experts.size for layer in shape.layers[:10])
    assert (kept.host - gone.host, gone.devices[0] - kept.devices[0]) == (moved, moved)
    assert moved > 2**30


def test_repacked_weights_of_a_mapped_file_are_there_twice() -> None:
    shape, nowhere = shape_of(DENSE), place_layers(shape_of(DENSE).n_layer, 0, ())
    rows = cpu_layouts("x86_64", frozenset({"avx2"}))
    copied, mapped = (place_weights(shape, nowhere, (), mmap=mmap, layouts=rows) for mmap in (False, True))
    assert copied.repacked == mapped.repacked > 3 * 2**30
    assert copied.host == header_of(DENSE).tensor_bytes
    assert mapped.host == mapped.mapped + mapped.repacked
    assert mapped.mapped >= copied.host


def test_what_cannot_be_repacked_is_not() -> None:
    shape = shape_of(DENSE)
    placement = place_layers(shape.n_layer, 0, ())
    assert place_weights(shape, placement, (), mmap=False, layouts={"Q4_0": (Layout(8),)}).repacked == 0
    assert place_weights(shape, placement, (), mmap=False, layouts={"Q4_K": (Layout(1000),)}).repacked == 0


def test_layers_for_drafting_are_not_loaded() -> None:
    shape = shape_of("glm-4.5-air")
    assert shape.layers[-1].weights.size == shape.layers[-1].experts.size == 0
    assert shape.layers[-1].cache is None


# ---- cache and state


@pytest.mark.parametrize(
    ("name", "n_ctx", "kv_type", "mib"),
    [
        (DENSE, 4096, "f16", 512.0),  # notes of measurements with the installed engine
        (DENSE, 4096, "q8_0", 272.0),
        ("gemma-3-27b", 32768, "f16", 3184.0),
        (LATENT, 32768, "f16", 2196.0),
        (LATENT, 32768, "q8_0", 1166.625),
    ],
)
def test_caches_measured_on_the_engine(name: str, n_ctx: int, kv_type: str, mib: float) -> None:
    found = estimator(name).estimate(RunSettings(n_ctx=n_ctx, n_ubatch=512, type_k=kv_type, type_v=kv_type))
    assert found.kv_cache == mib * MIB


def test_a_state_grows_with_sequences_and_not_with_the_context() -> None:
    one, long, four = (
        estimator(STATE).estimate(RunSettings(n_ctx=n_ctx, n_seq_max=n, n_outputs_max=n)).state
        for n_ctx, n in ((512, 1), (65536, 1), (512, 4))
    )
    assert one == long > 100 * MIB
    assert four == 4 * one


def test_a_hybrid_has_both() -> None:
    found = estimator(HYBRID).estimate(RunSettings(n_ctx=4096))
    assert found.kv_cache > 0
    assert found.state > 0


def test_rows_are_whole_blocks() -> None:
    assert [row_size(kind, 64) for kind in ("f16", "q8_0", "q4_0", "q5_1", "f32")] == [128, 68, 36, 48, 256]


def test_without_flash_attention_v_is_as_wide_as_the_widest_layers() -> None:
    context = context_shape(RunSettings(n_ctx=512), 512)
    cache_shape = next(layer.cache for layer in shape_of("gemma-4-e2b").layers if layer.cache and layer.cache.windowed)
    plain = layer_cache_size(cache_shape, context, 512, "f16", "f16")
    padded = layer_cache_size(cache_shape, context, 512, "f16", "f16", shape_of("gemma-4-e2b").v_width_max)
    assert padded == plain // 2 + plain // 2 * 2


# ---- the whole estimate


@pytest.mark.parametrize("name", [DENSE, MOE, WINDOWED, LATENT, STATE, HYBRID])
@settings(max_examples=15)
@given(data=st.data())
def test_a_longer_context_never_takes_less(name: str, data: st.DataObject) -> None:
    n_ctx = data.draw(st.integers(256, 131072))
    more = data.draw(st.integers(n_ctx, 262144))
    split = data.draw(st.integers(0, shape_of(name).n_layer + 1))
    short, long = (
        estimator(name).estimate(RunSettings(n_ctx=n, n_gpu_layers=split), GPU).footprint for n in (n_ctx, more)
    )
    assert short.host.total <= long.host.total
    assert short.devices[0].total <= long.devices[0].total


@pytest.mark.parametrize("name", [DENSE, MOE, WINDOWED])
def test_a_layer_more_on_the_device_takes_more_there(name: str) -> None:
    totals = [
        estimator(name).estimate(RunSettings(n_ctx=4096, n_gpu_layers=n), GPU).footprint.devices[0]
        for n in range(shape_of(name).n_layer + 2)
    ]
    assert [total.weights for total in totals] == sorted(total.weights for total in totals)
    assert [total.kv_cache for total in totals] == sorted(total.kv_cache for total in totals)
    assert totals[0].total == 0


def test_two_devices_share_by_their_free_memory() -> None:
    first, second = estimator(DENSE).estimate(RunSettings(n_ctx=4096), TWO_GPUS).footprint.devices
    assert first.kv_cache / second.kv_cache == pytest.approx(25 / 7)


def test_a_given_split_is_taken_at_its_word() -> None:
    wish = RunSettings(n_ctx=4096, tensor_split=(1.0, 1.0))
    first, second = estimator(DENSE).estimate(wish, TWO_GPUS).footprint.devices
    assert first.kv_cache / second.kv_cache == pytest.approx(17 / 15)


def test_what_a_driver_pins_is_not_repacked() -> None:
    rows = cpu_layouts("x86_64", frozenset({"avx2"}))
    wish = RunSettings(n_ctx=512, n_gpu_layers=1, repack=True, load_mode="none")
    rpc, cuda = (
        estimator(DENSE).weights(wish, Machine((Device("X", backend, "", None, 1),), rows))
        for backend in ("RPC", "CUDA")
    )
    assert rpc.repacked > 0
    assert cuda.repacked == 0


def test_an_architecture_the_arithmetic_does_not_know_raises() -> None:
    header = header_of(DENSE)
    metadata = {**header.metadata, "general.architecture": Entry(ValueType.STRING, "hovercraft")}
    with pytest.raises(UnknownArchitectureError, match="hovercraft"):
        Estimator(replace(header, metadata=metadata))


@pytest.mark.parametrize(
    ("key", "value"), [("llama.block_count", 0), ("llama.block_count", 4096), ("llama.block_count", 5)]
)
def test_a_header_that_contradicts_itself_raises(key: str, value: int) -> None:
    header = header_of(DENSE)
    with pytest.raises(GGUFError):
        model_shape(replace(header, metadata={**header.metadata, key: Entry(ValueType.UINT32, value)}))


@pytest.mark.parametrize(
    ("name", "key", "entry"),
    [
        ("qwen3.5-4b", "qwen35.full_attention_interval", Entry(ValueType.UINT32, 0)),
        (MOE, "qwen3moe.expert_used_count", Entry(ValueType.FLOAT32, float("nan"))),
        (STATE, "mamba2.ssm.group_count", Entry(ValueType.UINT32, 0)),
    ],
)
def test_what_the_arithmetic_trips_over_is_the_engines_to_judge(name: str, key: str, entry: Entry) -> None:
    header = header_of(name)
    with pytest.raises(UnknownArchitectureError):
        Estimator(replace(header, metadata={**header.metadata, key: entry})).estimate(RunSettings(n_ctx=512))


def test_a_tensor_without_dimensions_is_the_engines_to_judge() -> None:
    header = header_of(DENSE)
    tensors = tuple(replace(t, shape=()) if t.name == "token_embd.weight" else t for t in header.tensors)
    with pytest.raises(UnknownArchitectureError):
        Estimator(replace(header, tensors=tensors))


# ---- the engine's answer as a footprint


ASKED = EngineMemory(
    host=BufferSizes(None, weights=100, kv_cache=10, compute=5, repack=40),
    devices=(BufferSizes("GPU0", weights=50, kv_cache=7, compute=3),),
    kv_cache=15,
    state=2,
    output=4,
    n_ctx=512,
    n_ctx_seq=512,
    flash_attn=True,
    source="map",
)


def test_a_mapped_file_counts_its_pages_beside_the_repacked_copies() -> None:
    found = footprint_of(ASKED, Overhead(30, 20), (1,), maps=True, span=96)
    assert found == Footprint(MemoryBreakdown(136, 10, 9, 30, mapped=116), (MemoryBreakdown(50, 7, 3, 1),))
    assert found.host.anonymous == 40 + 10 + 9 + 10


def test_a_copied_file_is_all_anonymous() -> None:
    found = footprint_of(ASKED, Overhead(30, 20), (1,), maps=False)
    assert found.host == MemoryBreakdown(100, 10, 9, 30, mapped=20)


# ---- the context


def test_a_context_shape_is_a_value() -> None:
    assert context_shape(RunSettings(n_ctx=256), 256) == ContextShape(256, 256, 1, 1, 256, 128, 1, False, False)
