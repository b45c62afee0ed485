"""What our arithmetic says a row's context takes: the program's own functions, given what the row says.

Knows the traits of builds other than the installed one, as far as they can be told to `ContextShape`; must not know
what was printed of the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmrun.gguf.header import Entry, GGUFHeader, ValueType, align
from llmrun.gguf.types import ggml_type_named
from llmrun.memory.attention import CacheShape
from llmrun.memory.cache import indexer_size, layer_cache_size, place_context
from llmrun.memory.context import ContextShape, context_shape
from llmrun.memory.placement import Placement, place_layers
from llmrun.memory.shape import ModelShape, model_shape
from llmrun.settings import RunSettings
from scripts.measuring.headers import Unjudged
from scripts.measuring.rows import LoadLog

_LLAMA_N_BATCH, _LLAMA_N_UBATCH = 2048, 512  # common/common.h, where nothing else is asked for
_OLD_CELL_PAD = 32  # llama-kv-cache-unified.cpp until November 2025, without flash attention
_WINDOWS_PADDED_SINCE = 7000  # about: the padding to 256 came with llama.cpp's issue 17037, November 2025
_OUTPUT_COUNTED_SINCE = 8000  # about: until 2026 n_gpu_layers counted the output as the last to go, now as the first


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache as llama.cpp makes and prints it; bytes of K and V of all its layers."""

    name: str
    cells: int
    layers: int
    k: int
    v: int


@dataclass(frozen=True, slots=True)
class Types:
    """Cache types, and whether V is kept as it is; flash_attn None: not told, and V cannot be judged."""

    k: str
    v: str
    flash_attn: bool | None


def types_of(log: LoadLog, shape: ModelShape) -> Types:
    """Return the row's cache types; raises Unjudged where they are not printed, or are none."""
    if log.type_k is None or log.type_v is None:
        raise Unjudged("cache types not printed")
    for name in (log.type_k, log.type_v):
        try:
            kind = ggml_type_named(name)
        except KeyError as error:
            raise Unjudged("cache types unknown") from error
    flash_attn = log.flash_attn
    if flash_attn is None and kind.block_size > 1:
        flash_attn = True  # llama.cpp refuses a quantized V without it
    if flash_attn is None and not _v_varies(shape):
        flash_attn = True  # no matter: V is as wide in every layer
    return Types(log.type_k, log.type_v, flash_attn)


def _v_varies(shape: ModelShape) -> bool:
    return len({layer.cache.v_width for layer in shape.layers if layer.cache}) > 1


def context_of(log: LoadLog, shape: ModelShape) -> ContextShape:
    """Return the context as the row's build made it; raises Unjudged where the row has none."""
    n_seq = log.n_seq_max or 1
    unified = _is_unified(log, n_seq)
    n_ctx = log.n_ctx or _largest_cells(log)
    if not n_ctx:
        raise Unjudged("context not printed")
    if not unified and (log.n_ctx_of_stream or not log.n_ctx):
        n_ctx *= n_seq
    n_batch = log.n_batch or max(_LLAMA_N_BATCH, log.n_ubatch or 0)
    settings = RunSettings(
        n_ctx=n_ctx,
        n_seq_max=n_seq,
        kv_unified=unified,
        n_batch=n_batch,
        n_ubatch=log.n_ubatch or _LLAMA_N_UBATCH,
        swa_full=log.swa_full or _keeps_whole_windows(log, shape),
    )
    context = context_shape(settings, shape.n_ctx_train)
    if n_ctx % 256 and _pads_to_32(log, n_ctx):
        cells = align(n_ctx, _OLD_CELL_PAD)
        return replace(context, n_ctx=cells, n_ctx_seq=cells)
    return _with_printed_windows(log, shape, context)


def _is_unified(log: LoadLog, n_seq: int) -> bool:
    """Whether sequences share their cells: as printed, else by the streams, else by the cells of a stream."""
    if log.kv_unified is not None:
        return log.kv_unified or n_seq == 1
    streams = next((cache.streams for cache in log.caches if cache.streams), None)
    if streams is not None:
        return streams == 1
    return not (n_seq > 1 and log.n_ctx and _largest_cells(log) * n_seq == log.n_ctx)


def _largest_cells(log: LoadLog) -> int:
    return max([cache.cells or 0 for cache in log.caches] + [log.cells.get("non-SWA", 0)])


def _keeps_whole_windows(log: LoadLog, shape: ModelShape) -> bool:
    """Builds before May 2025, and forks, keep all tokens in layers with a window too: it is one cache then.

    Or bindings ask for it, and both caches have the cells of the context.
    """
    if not any(layer.cache is not None and layer.cache.windowed for layer in shape.layers):
        return False
    if log.engine.startswith("ik_llama"):
        return True
    if len(log.caches) == 1:
        return log.caches[0].layers in {None, sum(layer.cache is not None for layer in shape.layers)}
    return window_cells(log) == _largest_cells(log) > 0


def window_cells(log: LoadLog) -> int | None:
    """Return the cells printed of the cache of windows; llama.cpp prints it second."""
    if "SWA" in log.cells:
        return log.cells["SWA"]
    return log.caches[1].cells if len(log.caches) == 2 else None


def _pads_to_32(log: LoadLog, n_ctx: int) -> bool:
    """Whether the build left a context between multiples of 256."""
    printed = _largest_cells(log)
    if printed:
        return printed == align(n_ctx, _OLD_CELL_PAD)
    return log.old_format and not log.flash_attn


def _with_printed_windows(log: LoadLog, shape: ModelShape, context: ContextShape) -> ContextShape:
    """Where n_ubatch is not printed, the cells of windows tell it: all but their padding."""
    printed = window_cells(log)
    if log.n_ubatch is not None or printed is None or context.swa_full or not shape.n_swa:
        return context
    n_ubatch = printed - shape.n_swa * (context.n_seq_max if context.kv_unified else 1)
    told = replace(context, n_ubatch=min(n_ubatch, context.n_batch))
    unchanged = context.window_cells(shape.n_swa) == printed or told.window_cells(shape.n_swa) != printed
    return context if unchanged else told


def pads_windows_to_32(log: LoadLog, shape: ModelShape, context: ContextShape) -> bool:
    """Whether the printed cells of windows are those of a build that padded them to 32."""
    if log.build is not None and log.build >= _WINDOWS_PADDED_SINCE:
        return False
    wanted = shape.n_swa * (context.n_seq_max if context.kv_unified else 1) + context.n_ubatch
    cells = align(min(context.n_ctx_seq, wanted), _OLD_CELL_PAD)
    return window_cells(log) == cells != context.window_cells(shape.n_swa)


def caches_of(shape: ModelShape, context: ContextShape, types: Types) -> list[Cache]:
    """Return the caches in the order llama.cpp makes them: all tokens', windows', the indexer's; none that is empty."""
    layers = [layer.cache for layer in shape.layers if layer.cache]
    whole, windowed = [c for c in layers if not c.windowed], [c for c in layers if c.windowed]
    indexed = [c for c in layers if c.indexer_width]
    v_padded_to = None if types.flash_attn is not False else shape.v_width_max

    def size(cache: CacheShape) -> int:
        return layer_cache_size(replace(cache, indexer_width=0), context, shape.n_swa, types.k, types.v, v_padded_to)

    def k_size(cache: CacheShape) -> int:
        return size(replace(cache, v_width=0))

    cells = context.window_cells(shape.n_swa) if windowed else 0
    found = [
        _cache("non-SWA" if windowed else "all", context.n_ctx_seq, whole, size, k_size),
        _cache("SWA", cells, windowed, size, k_size),
        Cache("indexer", context.n_ctx_seq, len(indexed), sum(indexer_size(c, context, types.k) for c in indexed), 0),
    ]
    return [cache for cache in found if cache.layers]


def _cache(
    name: str,
    cells: int,
    layers: Sequence[CacheShape],
    size: Callable[[CacheShape], int],
    k: Callable[[CacheShape], int],
) -> Cache:
    total_k = sum(map(k, layers))
    return Cache(name, cells, len(layers), total_k, sum(map(size, layers)) - total_k)


def merged(caches: Sequence[Cache]) -> Cache:
    """Return all caches as one, as builds have it that keep windows whole."""
    layers, k, v = (sum(getattr(cache, name) for cache in caches) for name in ("layers", "k", "v"))
    return Cache("all", caches[0].cells, layers, k, v)


def kv_by_pool(shape: ModelShape, context: ContextShape, types: Types, placement: Placement) -> tuple[int, ...]:
    """Return the bytes of KV cache on the host and on the one device, as the program places them."""
    kept = place_context(
        shape, context, placement, 1, type_k=types.k, type_v=types.v, flash_attn=types.flash_attn is not False
    )
    return tuple(memory.kv_cache for memory in kept)


def state_by_pool(shape: ModelShape, n_seq: int, rs_seq: int, placement: Placement) -> tuple[int, ...]:
    """Return the bytes of recurrent state on the host and on the one device, those for drafts included."""
    context = context_shape(RunSettings(n_ctx=256, n_seq_max=n_seq), shape.n_ctx_train)
    kept = place_context(shape, context, placement, 1, type_k="f16", type_v="f16", flash_attn=True)
    return tuple(memory.state * (1 + rs_seq) for memory in kept)


def on_host(shape: ModelShape) -> Placement:
    """Return the placement of every layer on the host."""
    return place_layers(shape.n_layer, 0, ())


def single_device(log: LoadLog, shape: ModelShape, names: Sequence[str]) -> Placement | None:
    """Return where layers are if a row has one device beside the host, and its build counts them as the installed."""
    if log.build is None or log.build < _OUTPUT_COUNTED_SINCE:
        return None
    others = [name for name in names if not name.startswith("CPU")]
    if len(others) != 1 or log.offloaded is None or log.offloaded[1] != shape.n_layer + 1:
        return None
    return place_layers(shape.n_layer, log.offloaded[0], (1.0,))


def without_convolution(header: GGUFHeader) -> ModelShape:
    """Return the same model with nothing of its recurrent layers but the state proper, which is printed apart as S."""
    metadata = dict(header.metadata)
    for key in ("ssm.conv_kernel", "shortconv.l_cache", "ple.conv_kernel"):
        if header.arch(key) in metadata:
            metadata[header.arch(key)] = Entry(ValueType.UINT32, 0)
    return model_shape(replace(header, metadata=metadata))
