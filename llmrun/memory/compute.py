"""Compute buffers by arithmetic: the graph llama.cpp would reserve memory for is built and its allocation simulated.

Source: llama.cpp 0c1e57098, src/llama-context.cpp (sched_reserve, graph_reserve, output_reserve). Pure. An architecture
whose graph is not known here raises, as does a file with weights that its graph does not use: the engine is asked then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from llmrun.errors import UnknownArchitectureError
from llmrun.gguf.adapter import Adapter
from llmrun.gguf.header import GGUFHeader, TensorInfo, align
from llmrun.memory.attention import LayerMemory, n_layer_of, per_layer, remembering, window_of
from llmrun.memory.context import ContextShape
from llmrun.memory.footprint import Band
from llmrun.memory.graph.builder import Builder
from llmrun.memory.graph.hybrids import ARCHITECTURES
from llmrun.memory.graph.plan import Question, buffer_sizes, collapse
from llmrun.memory.graph.scheduler import PIPELINE_COPIES, Split, split
from llmrun.memory.graph.shape import Batch, ComputeShape, LayerKind, PlacedLayer, Weight
from llmrun.memory.graph.tensor import Tensor
from llmrun.memory.graph.tensor import shape as four_dimensions
from llmrun.memory.placement import Placement
from llmrun.settings import RunSettings

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_F32 = 4  # bytes; of a logit
_PINNED_BELOW = 32  # tokens; llama-context.cpp, graph_get_cb
_MARGIN = 5  # percent; where layers were left out it made a difference of at most 4.4 %
# percent; real loads on Vulkan devices are 7.7 % above and 1.8 % below, with a build months older, their hosts equal
_OTHER_MARGIN = 12
_SIMULATED = ("CPU", "RPC")
# drivers that take over operations on the host's weights (offload_op in ggml/src/ggml-*)
_SHIPPING = ("CUDA", "ROCm", "MUSA", "Vulkan", "SYCL", "CANN", "MTL")
_SHARING = ("gemma3n", "gemma4")
_SHARING_PERIOD = 5  # gemma3n.cpp: every so many layers one has no window
_SPARSE = 10  # models.h: gemma3n's n_layer_sparsity
_MAX_EXPERTS = 1024  # llama-hparams.h, LLAMA_MAX_EXPERTS
_UNQUANTIZED = ("f32", "f16", "bf16")

Weights = dict[str, Weight]


def compute_shape(header: GGUFHeader, adapters: Sequence[Adapter] = ()) -> ComputeShape:
    """Return what the compute buffers of a model with adapters depend on.

    Raises UnknownArchitectureError where its graph is not known, GGUFError for a header that lacks what a model needs.
    """
    if header.architecture not in ARCHITECTURES:
        raise UnknownArchitectureError(f"the compute graph of the architecture {header.architecture!r} is not known")
    outer, layers = _weights(header, adapters)
    memories = remembering(header)
    caches = _caches(header, memories)
    kinds, indices = _kinds(header, layers, memories, caches)
    numbers = _numbers(header)
    head = header.uint(header.arch("embedding_length")) // (kinds[0].n_head or 1)
    shape = ComputeShape(
        architecture=header.architecture,
        n_embd=header.uint(header.arch("embedding_length")),
        n_vocab=_n_vocab(header, outer),
        n_swa=window_of(header),
        head_k=int(numbers.get("attention.key_length", head)),
        head_v=int(numbers.get("attention.value_length", head)),
        v_width_max=max((memory.cache.v_width for memory in memories if memory.cache), default=0),
        numbers=MappingProxyType(numbers),
        outer=MappingProxyType(outer),
        kinds=kinds,
        layers=indices,
        caches=caches,
        n_layer_all=len(layers),
    )
    _check(shape)
    return shape


def _weights(header: GGUFHeader, adapters: Sequence[Adapter]) -> tuple[Weights, list[Weights]]:
    n_all, _ = n_layer_of(header)
    beside: dict[str, list[tuple[Weight, Weight]]] = {}
    for pair in (pair for adapter in adapters for pair in adapter.pairs if _is_applied(pair.base)):
        beside.setdefault(pair.base, []).append((_weight(pair.a), _weight(pair.b)))
    outer: Weights = {}
    layers: list[Weights] = [{} for _ in range(n_all)]
    for tensor in header.tensors:
        weight = _weight(tensor)._replace(loras=tuple(beside.get(tensor.name, ())))
        match = _LAYER.fullmatch(tensor.name)
        if match is None:
            outer[tensor.name] = weight
        elif int(match[1]) < n_all:
            layers[int(match[1])][match[2]] = weight
        else:
            raise UnknownArchitectureError(f"there is a tensor {tensor.name}, but the model has {n_all} layers")
    return outer, layers


def _weight(tensor: TensorInfo) -> Weight:
    return Weight(four_dimensions(tensor.shape), tensor.size)


def _is_applied(base: str) -> bool:
    """Whether llama.cpp multiplies by a tensor in a way that takes adapters into account."""
    return not base.endswith((".attn_k_b.weight", ".attn_v_b.weight"))  # models/deepseek2.cpp: ggml_mul_mat


def _caches(header: GGUFHeader, memories: tuple[LayerMemory, ...]) -> tuple[int, ...]:
    """Return of each layer the one whose cache it reads.

    In gemma3n and gemma4 the last ones read one of the last two that have any: the one with a window, or the one
    without (llama-model.cpp, create_memory).
    """
    _, n_layer = n_layer_of(header)
    if header.architecture not in _SHARING:
        return tuple(range(n_layer))
    own = sum(memory.cache is not None for memory in memories)
    listed = header.uints_or_none(header.arch("attention.sliding_window_pattern"))
    windowed = [listed[il] if listed else (il + 1) % _SHARING_PERIOD for il in range(n_layer)]
    return tuple(il if il < own else own - (2 if windowed[il] else 1) for il in range(n_layer))


def _kinds(
    header: GGUFHeader, layers: list[Weights], memories: tuple[LayerMemory, ...], caches: tuple[int, ...]
) -> tuple[tuple[LayerKind, ...], tuple[int, ...]]:
    """Return the different layers, and of each layer which of them it is.

    How many bytes a weight has makes no difference: quantizations vary them from layer to layer.
    """
    n_all, n_layer = n_layer_of(header)
    n_head = per_layer(header, "attention.head_count", n_all, 0)
    n_head_kv = per_layer(header, "attention.head_count_kv", n_all, None) or n_head
    kinds: dict[object, tuple[int, LayerKind]] = {}
    indices = []
    for il in range(n_layer):
        traits = (
            n_head[il],
            n_head_kv[il],
            memories[caches[il]].cache,
            memories[il].state,
            caches[il] != il,
            header.architecture == "gemma3n" and il < _SPARSE,
        )
        key = (frozenset((name, weight.form) for name, weight in layers[il].items()), traits)
        if key not in kinds:
            kinds[key] = len(kinds), LayerKind(MappingProxyType(layers[il]), *traits)
        indices.append(kinds[key][0])
    return tuple(kind for _, kind in kinds.values()), tuple(indices)


def _numbers(header: GGUFHeader) -> dict[str, float]:
    prefix = header.arch("")
    entries = header.metadata.items()
    return {
        key.removeprefix(prefix): entry.value
        for key, entry in entries
        if key.startswith(prefix) and isinstance(entry.value, (int, float))
    }


def _n_vocab(header: GGUFHeader, outer: Mapping[str, Weight]) -> int:
    embedding = outer.get("token_embd.weight")
    if embedding is None:
        raise UnknownArchitectureError("there is no token embedding")
    listed = header.array_length_or_none("tokenizer.ggml.tokens")
    return listed or header.uint_or_none(header.arch("vocab_size")) or embedding.ne[1]


def _check(shape: ComputeShape) -> None:
    """Build a graph with one layer of each kind, to see whether it needs all weights there are, and no other."""
    if shape.uint("expert_used_count") > _MAX_EXPERTS:
        raise UnknownArchitectureError(
            f"{shape.uint('expert_used_count')} experts at once are more than llama.cpp allows"
        )
    batch = Batch(1, 1, 1, 1, "f16", "f16", flash_attn=True, v_transposed=False, offload_kqv=True)
    builder = Builder(shape, batch, [PlacedLayer(kind, 0, 0, 0) for kind in range(len(shape.kinds))], 0, 0)
    try:
        ARCHITECTURES[shape.architecture](builder)
    except KeyError as error:
        raise UnknownArchitectureError(f"a layer of a {shape.architecture} model lacks {error.args[0]}") from error
    except (ArithmeticError, AssertionError, IndexError, ValueError) as error:
        raise UnknownArchitectureError(f"the sizes of this {shape.architecture} model make no graph") from error
    present: set[tuple[int | None, str]] = {(None, name) for name in shape.outer}
    present |= {(index, name) for index, kind in enumerate(shape.kinds) for name in kind.weights}
    unused = sorted(name for _, name in present - builder.used)
    if unused:
        raise UnknownArchitectureError(f"what {unused[0]} does in a {shape.architecture} model is not known")


def flash_attention(shape: ComputeShape, settings: RunSettings) -> bool:
    """Return whether the cache is made for flash attention.

    Left to llama.cpp it is, for all architectures that are known here. It may then still find that a layer would be
    computed on another device than its weights' and not use it; the cache remains as made.
    """
    del shape
    return settings.flash_attn is not False


def estimate_compute(
    shape: ComputeShape,
    context: ContextShape,
    settings: RunSettings,
    placement: Placement,
    n_devices: int,
    backends: Sequence[str] = (),
) -> tuple[Band, ...]:
    """Return the bytes of the compute buffers on the host and then on each device.

    backends: the kinds of the devices' drivers as ggml names them, () is RPC servers of a CPU. For these and the host
    it is exact, but for long runs of layers, of which only a part is simulated: the band is for a difference of which
    one setting in 2,000 has some. Other drivers may send the host's weights to the device, which is simulated, and pad
    tensors or lack operations, which is not: their band is wider.
    """
    layers = _placed(shape, settings, placement, n_devices)
    # where layers have something of their own from elsewhere, all of that is copied at once: none can be left out
    simulated = layers if shape.architecture in _SHARING else collapse(layers)
    everything = None not in placement.layers and placement.output is not None
    pipelined = n_devices > 1 and everything and settings.offload_kqv and not settings.cpu_experts
    question = Question(
        batch=_batch(shape, context, settings, everything=everything),
        layers=simulated,
        output=n_devices if placement.output is None else placement.output,
        host=n_devices,
        probes=settings.flash_attn is None and settings.type_v in _UNQUANTIZED and shape.has_states and n_devices > 0,
        n_copies=PIPELINE_COPIES if pipelined else 1,
        ships=n_devices > 0 and bool(backends) and backends[0] in _SHIPPING and not settings.repack,
    )
    build = ARCHITECTURES[shape.architecture]
    sizes = buffer_sizes(shape, build, question, context.n_ctx_seq, context.window_cells(shape.n_swa))
    margin = _MARGIN if simulated != layers else 0
    if any(backend not in _SIMULATED for backend in backends):
        margin = _OTHER_MARGIN
    return tuple(_band(size, margin) for size in (sizes[-1], *sizes[:-1]))


def step_graph(
    shape: ComputeShape, settings: RunSettings, placement: Placement, n_devices: int, n_tokens: int, n_outputs: int
) -> tuple[Sequence[Split], Tensor]:
    """Return the graph of a step of one sequence in the parts that it is computed in, and what they end in.

    Numbers of cells are formal ones, see llmrun.memory.graph.shape.
    """
    everything = None not in placement.layers and placement.output is not None
    fused = flash_attention(shape, settings)
    step = Batch(
        n_tokens=n_tokens,
        n_seqs=1,
        n_outputs=n_outputs,
        n_stream=1,
        type_k=settings.type_k,
        type_v=settings.type_v,
        flash_attn=fused,
        v_transposed=not fused,
        offload_kqv=settings.offload_kqv,
        pin_norms=everything or n_tokens < _PINNED_BELOW,
        pin_attention=not fused and not settings.offload_kqv,
    )
    output = n_devices if placement.output is None else placement.output
    builder = Builder(shape, step, _placed(shape, settings, placement, n_devices), output, n_devices)
    ARCHITECTURES[shape.architecture](builder)
    return split(builder.graph, n_devices), builder.graph.nodes[-1]


def _band(size: int, margin: int) -> Band:
    return Band(size - size * margin // 100, size, size + size * margin // 100)


def _placed(shape: ComputeShape, settings: RunSettings, placement: Placement, host: int) -> tuple[PlacedLayer, ...]:
    backends = [host if place is None else place for place in placement.layers]
    layers = []
    for il, kind in enumerate(shape.layers):
        moved = il < settings.cpu_experts and "ffn_down_exps.weight" in shape.kinds[kind].weights
        layers.append(PlacedLayer(kind, backends[il], host if moved else backends[il], backends[shape.caches[il]]))
    return tuple(layers)


def _batch(shape: ComputeShape, context: ContextShape, settings: RunSettings, *, everything: bool) -> Batch:
    """The batch that is reserved for: as many tokens as a step takes, rounded up to as many for each sequence.

    everything: all layers are on devices.
    """
    n_tokens = min(context.n_ctx, context.n_ubatch)
    fused = flash_attention(shape, settings)
    return Batch(
        n_tokens=align(n_tokens, context.n_seq_max),
        n_seqs=context.n_seq_max,
        n_outputs=min(n_tokens, context.n_outputs),
        n_stream=context.n_stream,
        type_k=settings.type_k,
        type_v=settings.type_v,
        flash_attn=fused,
        v_transposed=not fused,
        offload_kqv=settings.offload_kqv,
        pin_norms=everything or align(n_tokens, context.n_seq_max) < _PINNED_BELOW,
        pin_attention=not fused and not settings.offload_kqv,
    )


def output_bytes(shape: ComputeShape, context: ContextShape, settings: RunSettings) -> int:
    """Return the bytes of the buffer that logits are copied to, on the host (llama-context.cpp, output_reserve)."""
    del settings
    return max(context.n_outputs, context.n_seq_max) * shape.n_vocab * _F32
