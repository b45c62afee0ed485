"""memory.compute: compute buffers against the engine's own figures, and the allocator it simulates."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.client import Engine
from llmrun.errors import GGUFError, UnknownArchitectureError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.memory.compute import compute_shape, estimate_compute, output_bytes
from llmrun.memory.context import context_shape
from llmrun.memory.footprint import Band
from llmrun.memory.graph.allocator import Lifetimes, Pool, Slot, lifetimes, peaks
from llmrun.memory.graph.hybrids import ARCHITECTURES
from llmrun.memory.graph.plan import collapse
from llmrun.memory.graph.shape import ComputeShape, PlacedLayer
from llmrun.memory.graph.tensor import F32, Graph, Op, Tensor, binary, mul_mat, plain, reshape, unary
from llmrun.memory.placement import place_layers
from llmrun.settings import RunSettings
from scripts.architectures.model import Model, Value
from scripts.architectures.model import Tensor as Weight
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost

N_CTX_TRAIN = 131072
BASE = RunSettings(n_ctx=4096, n_batch=2048, n_ubatch=512, devices=(), load_mode="none")


def renamed(name: str, architecture: str, keys: dict[str, Value], renames: dict[str, tuple[str, ...]]) -> Model:
    """A published model as one of another architecture: a tensor may become several, or none."""
    model, tensors = MODELS[name], []
    for tensor in model.tensors:
        stem = tensor.name.removesuffix(".weight").rpartition(".")[2]
        for new in renames.get(stem, (stem,)):
            tensors.append(Weight(tensor.name.replace(stem, new), tensor.dims))
    return replace(
        model, architecture=architecture, hyperparameters={**model.hyperparameters, **keys}, tensors=tuple(tensors)
    )


def qwen35moe() -> Model:
    """Qwen3-Next's sizes with the separate projections of its successor."""
    keys: dict[str, Value] = {"rope.dimension_sections": (11, 11, 10, 0)}
    model = renamed("qwen3-next-80b-a3b", "qwen35moe", keys, {"ssm_ba": ("ssm_beta", "ssm_alpha")})
    n_v = model.uint("ssm.time_step_rank")
    halved = ("ssm_beta.weight", "ssm_alpha.weight")
    tensors = (Weight(t.name, (t.dims[0], n_v)) if t.name.endswith(halved) else t for t in model.tensors)
    return replace(model, tensors=tuple(tensors))


SCALES: dict[str, Value] = {"logit_scale": 8.0, "residual_scale": 0.22, "embedding_scale": 12.0}
ALL: dict[str, Model] = {name: model for name, model in MODELS.items() if model.architecture in ARCHITECTURES} | {
    "mistral3": renamed("llama-3.2-1b", "mistral3", {}, {"rope_freqs": ()}),
    "granite": renamed("llama-3.2-1b", "granite", SCALES, {"rope_freqs": ()}),
    "granitemoe": renamed("mixtral-8x7b", "granitemoe", SCALES, {}),
    "qwen35moe": qwen35moe(),
}
# With quantized caches of their own for sequences, the engine's graph outgrows the room it makes for this one, and it
# aborts (ggml-impl.h:330; llama-context.cpp, graph_max_nodes: 8 operations a tensor).
ABORTS_WITH_SEPARATE_CACHES = {"phi-4"}


@cache
def header_of(name: str) -> GGUFHeader:
    header = parse_header(ghost(ALL[name])[0])
    assert isinstance(header, GGUFHeader)
    return header


@cache
def shape_of(name: str) -> ComputeShape:
    return compute_shape(header_of(name))


def estimated(name: str, settings: RunSettings, n_devices: int = 0) -> tuple[Band, ...]:
    shape = shape_of(name)
    placement = place_layers(shape.n_layer_all, settings.n_gpu_layers, [1.0] * n_devices)
    return estimate_compute(shape, context_shape(settings, N_CTX_TRAIN), settings, placement, n_devices)


def likely(name: str, settings: RunSettings, n_devices: int = 0) -> tuple[int, ...]:
    return tuple(band.likely for band in estimated(name, settings, n_devices))


@pytest.fixture(scope="module")
def asker() -> Iterator[Engine]:
    """An engine that never loads anything."""
    with Engine() as engine:
        yield engine


def asked(engine: Engine, name: str, settings: RunSettings) -> tuple[int, ...]:
    memory = engine.dry_run(*ghost(ALL[name]), settings)
    assert not memory.scaled
    return (memory.host.compute, *(device.compute for device in memory.devices))


def sampled(name: str, n: int) -> Iterator[RunSettings]:
    """Settings that differ in everything a compute buffer depends on; the same ones every time."""
    pick = random.Random(name)
    shape = shape_of(name)
    small_state = max(kind.state for kind in shape.kinds) * len(shape.layers) < 100 << 20
    for _ in range(n):
        flash_attn = pick.choice([None, True, False])
        type_k = pick.choice(["f16", "q8_0", "q4_0"])
        n_seq_max = pick.choice([1, 1, 4]) if small_state else 1
        yield replace(
            BASE,
            n_ctx=pick.choice([512, 1000, 4096, 32768, 131072]),
            n_ubatch=pick.choice([16, 128, 512, 2048]),
            flash_attn=flash_attn,
            type_k="f16" if flash_attn is False and shape.uint("attention.kv_lora_rank") else type_k,
            type_v="f16" if flash_attn is False else type_k,
            n_seq_max=n_seq_max,
            kv_unified=pick.random() < 0.5 or name in ABORTS_WITH_SEPARATE_CACHES,
            n_outputs_max=pick.choice([n_seq_max, 4]),
            n_gpu_layers=pick.choice([0, 1, pick.randrange(shape.n_layer_all), *[shape.n_layer_all + 1] * 2]),
            cpu_experts=pick.choice([0, 0, 1, shape.n_layer_all]),
            offload_kqv=pick.random() < 0.95,
            swa_full=pick.random() < 0.1,
        )


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_is_the_engines_figure_to_the_byte_on_the_host(asker: Engine, name: str) -> None:
    for settings in sampled(name, 3):
        alone = replace(settings, n_gpu_layers=0, cpu_experts=0)
        assert likely(name, alone) == asked(asker, name, alone), alone


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_is_the_engines_figure_to_the_byte_with_a_device(asker: Engine, rpc_server: str, name: str) -> None:
    for settings in sampled(name, 4):
        shared = replace(settings, devices=(rpc_server,))
        assert likely(name, shared, 1) == asked(asker, name, shared), shared


@pytest.mark.parametrize("changes", [{}, {"offload_kqv": False}, {"n_gpu_layers": 9}, {"flash_attn": False}], ids=str)
@pytest.mark.parametrize("name", ["llama-3.2-1b", "gemma-3-1b", "lfm2-1.2b", "granite-4.0-h-tiny"])
def test_it_is_the_engines_figure_to_the_byte_with_two_devices(
    asker: Engine, rpc_server: str, other_rpc_server: str, name: str, changes: dict[str, Any]
) -> None:
    """With all layers on them several batches are under way at once, which takes copies."""
    devices = replace(BASE, devices=(rpc_server, other_rpc_server), tensor_split=(1.0, 1.0))
    settings = replace(devices, **({"n_gpu_layers": shape_of(name).n_layer_all + 1} | changes))
    assert likely(name, settings, 2) == asked(asker, name, settings)


def test_the_output_buffer_has_a_row_of_logits_for_each_sequence(asker: Engine) -> None:
    for n_seq_max in (1, 4):
        settings = replace(BASE, n_seq_max=n_seq_max, n_outputs_max=n_seq_max)
        memory = asker.dry_run(*ghost(ALL["qwen3-0.6b"]), settings)
        context = context_shape(settings, N_CTX_TRAIN)
        assert output_bytes(shape_of("qwen3-0.6b"), context, settings) == memory.output == n_seq_max * 151936 * 4


NAMES = st.sampled_from(["llama-3.2-1b", "gemma-3-1b", "qwen3-30b-a3b", "deepseek-v2-lite", "falcon-h1-0.5b"])
LENGTHS = st.integers(1, 512).map(lambda blocks: blocks * 256)


@given(NAMES, LENGTHS, LENGTHS, st.booleans())
def test_a_longer_context_never_takes_less(name: str, one: int, other: int, flash_attn: bool) -> None:
    shorter, longer = (replace(BASE, n_ctx=n_ctx, flash_attn=flash_attn) for n_ctx in sorted((one, other)))
    assert likely(name, shorter) <= likely(name, longer)


@given(NAMES, st.integers(5, 10), st.integers(0, 30))
def test_twice_the_batch_never_takes_less(name: str, power: int, n_gpu_layers: int) -> None:
    settings = replace(BASE, n_gpu_layers=min(n_gpu_layers, shape_of(name).n_layer_all + 1))
    small, large = (likely(name, replace(settings, n_ubatch=size), 1) for size in (1 << power, 2 << power))
    assert all(less <= more for less, more in zip(small, large, strict=True))
    assert small[0] < large[0]


@given(NAMES, st.integers(0, 60))
def test_a_band_holds_its_likely_figure(name: str, n_gpu_layers: int) -> None:
    settings = replace(BASE, n_gpu_layers=min(n_gpu_layers, shape_of(name).n_layer_all + 1))
    for band in estimated(name, settings, 1):
        assert band.likely * 0.8 <= band.low <= band.likely <= band.high <= band.likely * 1.25


def test_sending_the_hosts_weights_to_a_device_takes_room_there() -> None:
    """What CUDA does with a large batch, and an RPC server does not."""
    shape, settings = shape_of("qwen3-30b-a3b"), replace(BASE, n_gpu_layers=49, cpu_experts=48)
    context, placement = context_shape(settings, N_CTX_TRAIN), place_layers(48, 49, [1.0])
    rpc, cuda = (estimate_compute(shape, context, settings, placement, 1, (kind,))[1] for kind in ("RPC", "CUDA"))
    largest = max(weight.size for kind in shape.kinds for weight in kind.weights.values())
    assert rpc.likely + largest // 2 < cuda.likely < rpc.likely + 2 * largest
    assert cuda.low < cuda.likely < cuda.high


def test_an_architecture_without_a_known_graph_is_not_guessed() -> None:
    model = replace(MODELS["llama-3.2-1b"], architecture="rwkv7")
    with pytest.raises(UnknownArchitectureError, match="the compute graph of the architecture 'rwkv7' is not known"):
        compute_shape(parsed(model))


def test_a_weight_that_the_graph_does_not_use_is_not_ignored() -> None:
    model = MODELS["llama-3.2-1b"]
    extra = replace(model, tensors=(*model.tensors, Weight("blk.3.attn_q.scale", (1,))))
    with pytest.raises(UnknownArchitectureError, match=r"what attn_q\.scale does in a llama model is not known"):
        compute_shape(parsed(extra))


def test_a_weight_that_the_graph_needs_is_missed() -> None:
    model = MODELS["llama-3.2-1b"]
    less = replace(model, tensors=tuple(tensor for tensor in model.tensors if tensor.name != "blk.3.ffn_down.weight"))
    with pytest.raises(UnknownArchitectureError, match=r"a layer of a llama model lacks ffn_down\.weight"):
        compute_shape(parsed(less))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama-3.2-1b", "attention.head_count_kv", 0),
        ("qwen3-30b-a3b", "expert_used_count", 0),
        ("qwen3-30b-a3b", "expert_used_count", 2**31),
        ("falcon-h1-0.5b", "ssm.time_step_rank", 0),
        ("deepseek-v3", "expert_group_count", 2**31),
    ],
)
def test_sizes_that_make_no_graph_are_refused(name: str, key: str, value: int) -> None:
    model = MODELS[name]
    with pytest.raises(GGUFError):
        compute_shape(parsed(replace(model, hyperparameters={**model.hyperparameters, key: value})))


def parsed(model: Model) -> GGUFHeader:
    header = parse_header(ghost(model)[0])
    assert isinstance(header, GGUFHeader)
    return header


def test_of_many_layers_alike_some_are_left_out() -> None:
    layers = (PlacedLayer(0, 1, 1, 1),) * 30 + (PlacedLayer(0, 0, 0, 0),) * 30
    assert collapse(layers) == (PlacedLayer(0, 1, 1, 1),) * 8 + (PlacedLayer(0, 0, 0, 0),) * 8
    window = (PlacedLayer(0, 0, 0, 0),) * 5 + (PlacedLayer(1, 0, 0, 0),)
    assert collapse(window * 10) == window * 2
    assert collapse(layers[:8]) == layers[:8]


def test_the_smallest_free_block_that_fits_is_taken() -> None:
    pool = Pool()
    large, _, small, _ = (pool.take(size) for size in (96, 32, 64, 32))
    pool.give(large, 96)
    pool.give(small, 64)
    assert [pool.take(64), pool.take(64), pool.take(64)] == [small, large, 224]
    assert pool.peak == 288


def test_free_neighbours_become_one_block() -> None:
    pool = Pool()
    offsets = [pool.take(32) for _ in range(4)]
    for index in (0, 2, 1):
        pool.give(offsets[index], 32)
    assert pool.take(96) == 0


@given(st.lists(st.integers(1, 8).map(lambda n: n * 32), max_size=20), st.randoms(use_true_random=False))
def test_what_is_given_back_is_all_there_again(sizes: list[int], order: random.Random) -> None:
    pool = Pool()
    blocks = [(pool.take(size), size) for size in sizes]
    order.shuffle(blocks)
    for offset, size in blocks:
        pool.give(offset, size)
    assert (pool.take(sum(sizes)), pool.peak) == (0, sum(sizes))


def small_graph(build: Callable[[Tensor], Tensor]) -> Lifetimes:
    """A graph on an input of 8 columns of 64 numbers."""
    graph, x = Graph(), Tensor(Op.LEAF, F32, (64, 8, 1, 1))
    graph.expand(build(x))
    return lifetimes([(leaf, 0) for leaf in graph.leafs], [(node, 0) for node in graph.nodes])


def matrix(rows: int, columns: int) -> Tensor:
    weight = Tensor(Op.LEAF, F32, (columns, rows, 1, 1))
    weight.external = True
    return weight


X = Slot(0, 64 * 8 * F32)


def test_a_result_lies_where_its_source_is_if_nothing_else_needs_that() -> None:
    assert small_graph(lambda x: unary(unary(x))) == Lifetimes((X,), (0,))


def test_a_result_does_not_lie_where_its_source_is_still_needed() -> None:
    found = small_graph(lambda x: binary(unary(x), x))
    assert found == Lifetimes((X, X), (0, 1, ~0))


def test_a_view_keeps_what_it_shows() -> None:
    def build(x: Tensor) -> Tensor:
        shown = reshape(x, 512)
        return plain((512, 1, 1, 1), plain((32, 1, 1, 1), x), shown)

    found = small_graph(build)
    assert found.events == (0, 1, 2, ~1, ~0)


def test_products_in_a_row_need_two_places() -> None:
    found = small_graph(lambda x: mul_mat(matrix(16, 128), mul_mat(matrix(128, 64), x)))
    assert found == Lifetimes((X, Slot(0, 128 * 8 * F32), Slot(0, 16 * 8 * F32)), (0, 1, ~0, 2, ~1))
    assert peaks([0, 0, 0], [slot.size for slot in found.slots], found.events, 1) == (X.size + 128 * 8 * F32,)
