"""What a context takes, pool by pool: from llama.cpp's table of buffers where it can be read, from its log elsewhere.

Must not know whether the weights are there: a loaded model and a dry run are reported alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_cpp import llama_cpp as lib

from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.settings import RunSettings
from llmrun.worker.adapters import adapter_buffers
from llmrun.worker.breakdown import Buffers, read_breakdown, read_state
from llmrun.worker.devices import buffer_type_of, devices, name_of
from llmrun.worker.llama import Model
from llmrun.worker.log_sizes import (
    parse_buffers,
    parse_compute,
    parse_devices,
    parse_flash_attn,
    parse_memory,
    printed,
    since_last_reserve,
)

_LOG_ROUNDING = 5244  # bytes, upwards of half of 0.01 MiB


@dataclass(frozen=True, slots=True)
class Pools:
    """The devices of a context: ggml's pointers and names, names of their buffer types, what the settings call them."""

    pointers: tuple[int, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]
    ids: tuple[str, ...]


# How llama.cpp's table is read; None is where it cannot be.
ReadTable = Callable[[Any], tuple[Buffers, ...] | None]
# Sizes of every pool, host first, as the log has them; given where the log of a dry run needs help.
LogSizes = Callable[[Sequence[str], Pools], tuple[BufferSizes, ...]]


def report_memory(
    context: Any,
    model: Model,
    settings: RunSettings,
    lines: Sequence[str],
    by_log: LogSizes,
    *,
    read_table: ReadTable = read_breakdown,
    is_dry: bool = False,
) -> EngineMemory:
    """Return what a context and its model take; `lines` is the log since the load of the model began.

    by_log works the pools out of the log where the table is out of reach or contradicts the log.
    is_dry: nothing is allocated, so that compute buffers may be measured anew.
    """
    pools, lines = _pools(settings, lines), since_last_reserve(lines)
    table = read_table(context)
    if table is not None and is_dry:
        table = counted_once(table, lines)
    if table is not None and not (agrees(table, lines) and _is_of_pools(table, pools)):
        table = None
    if table is not None and is_dry:
        table = _remeasured(table, context, has_devices=bool(pools.pointers))
    sizes = by_log(lines, pools) if table is None else _by_table(table, pools)
    sizes = _with_adapters(sizes, model, lines, pools)
    caches, states, _ = parse_memory(lines)
    total = sum(pool.kv_cache for pool in sizes)
    state = _state(context, model, total, states) if table is not None else states
    return EngineMemory(
        host=sizes[0],
        devices=sizes[1:],
        kv_cache=total - state if table is not None else caches,
        state=state,
        output=_output(model, settings, lines),
        n_ctx=int(lib.llama_n_ctx(context)),
        n_ctx_seq=int(lib.llama_n_ctx_seq(context)),
        flash_attn=parse_flash_attn(lines),
        source="log" if table is None else "map",
    )


def agrees(table: Sequence[Buffers], lines: Sequence[str]) -> bool:
    """Tell whether the table says what the log says: each compute buffer to the digit, the context's memory in sum."""
    computes = {row.name: row.compute for row in table if row.compute > 1}
    logged = {name: printed(size) for name, size in parse_compute(lines).items()}
    if {name: printed(size) for name, size in computes.items()} != logged:
        return False
    caches, states, n_lines = parse_memory(lines)
    context = sum(row.context for row in table)
    # a cache's own figure leaves out the padding between its tensors, and rounds
    return n_lines == 0 or abs(context - caches - states) <= n_lines * _LOG_ROUNDING + context // 1000


def counted_once(table: Sequence[Buffers], lines: Sequence[str]) -> tuple[Buffers, ...]:
    """Return the table of a dry run with each compute buffer once: backends that share one count it for each of them.

    The log has a line for each (llama-context.cpp, memory_breakdown and sched_reserve).
    """
    times = Counter(line.name for line in parse_buffers(lines) if line.kind == "compute")
    return tuple(
        row if row.compute % times.get(row.name, 1) else replace(row, compute=row.compute // times.get(row.name, 1))
        for row in table
    )


def _pools(settings: RunSettings, lines: Sequence[str]) -> Pools:
    if settings.devices is not None:
        pointers, ids = devices().pointers(settings.devices), settings.devices
    else:
        by_name = {name_of(pointer): pointer for pointer in devices().known()}
        ids = tuple(name for name in parse_devices(lines) if name in by_name)
        pointers = tuple(by_name[name] for name in ids)
    return Pools(pointers, tuple(map(name_of, pointers)), tuple(map(buffer_type_of, pointers)), ids)


def _remeasured(table: Sequence[Buffers], context: Any, *, has_devices: bool) -> tuple[Buffers, ...]:
    """Return the table with room for every graph a load reserves: it has that of the first, and wrong with devices."""
    from llmrun.worker.scheduler import measure_compute  # here: only dry runs need it

    measured = measure_compute(context)

    def compute(row: Buffers) -> int:
        found = measured.get(row.type, row.compute)
        return found if has_devices else max(found, row.compute)

    return tuple(replace(row, compute=compute(row)) for row in table)


def _is_of_pools(table: Sequence[Buffers], pools: Pools) -> bool:
    return {row.device for row in table} <= {None, *pools.pointers}


def _by_table(table: Sequence[Buffers], pools: Pools) -> tuple[BufferSizes, ...]:
    places = zip((None, *pools.pointers), (None, *pools.ids), strict=True)
    return tuple(_sum([row for row in table if row.device == pointer], name) for pointer, name in places)


def _sum(rows: Sequence[Buffers], device: str | None) -> BufferSizes:
    return BufferSizes(
        device=device,
        weights=sum(row.weights for row in rows),
        kv_cache=sum(row.context for row in rows),
        compute=sum(row.compute for row in rows),
        repack=sum(row.weights for row in rows if device is None and not row.plain),
    )


def _with_adapters(
    sizes: tuple[BufferSizes, ...], model: Model, lines: Sequence[str], pools: Pools
) -> tuple[BufferSizes, ...]:
    """Return the pools with the adapters' buffers, which no table of llama.cpp's has, to the byte where they are read.

    What is read has to be what the log says.
    """
    logged = [line for line in parse_buffers(lines) if line.kind == "LoRA"]
    found = tuple(adapter_buffers(model.adapters))
    if sorted((one.name, printed(one.weights)) for one in found) != sorted((n.name, printed(n.size)) for n in logged):
        placed = [(pool_of(line.name, pools), line.size) for line in logged]
    else:
        places = {None: 0} | {pointer: number for number, pointer in enumerate(pools.pointers, 1)}
        placed = [(places.get(one.device, 0), one.weights) for one in found]
    more = [sum(size for pool, size in placed if pool == number) for number in range(len(sizes))]
    return tuple(
        replace(pool, weights=pool.weights + size, adapters=size) for pool, size in zip(sizes, more, strict=True)
    )


def _state(context: Any, model: Model, total: int, logged: int) -> int:
    if not model.is_recurrent:
        return logged  # what the log calls a state in models that can take tokens back, too
    exact = read_state(lib.llama_get_memory(context))
    return min(total, logged if exact is None else exact)


def _output(model: Model, settings: RunSettings, lines: Sequence[str]) -> int:
    """Bytes of the logits' buffer as it is made first: a row for each sequence (llama-context.cpp, output_reserve)."""
    size = settings.n_seq_max * model.vocabulary.n_tokens * 4
    logged = [line.size for line in parse_buffers(lines) if line.kind == "output"]
    return size if not logged or printed(size) == printed(logged[-1]) else logged[-1]


def pool_of(buffer: str, pools: Pools) -> int:
    """Return the number of the pool that buffers of a type of this name are in, 0 the host.

    Beside its own type a device may have others that are named after it: "MTL0_Mapped" (ggml-metal.cpp). Pinned memory
    of the host is named after its driver: "CUDA_Host".
    """
    for number, (own, device) in enumerate(zip(pools.types, pools.names, strict=True), 1):
        if buffer == own or buffer.startswith(f"{device}_"):
            return number
    return 0


def sizes_of_log(lines: Sequence[str], pools: Pools) -> tuple[BufferSizes, ...]:
    """Return the pools of a loaded model by the log, where every buffer is told with the name of its type."""
    places = [(pool_of(line.name, pools), line) for line in parse_buffers(lines)]

    def total(pool: int, *kinds: str) -> int:
        return sum(line.size for place, line in places if place == pool and line.kind in kinds)

    layouts = sum(line.size for place, line in places if place == 0 and line.kind == "model" and _is_layout(line.name))
    return tuple(
        BufferSizes(
            device=name,
            weights=total(pool, "model"),
            kv_cache=total(pool, "KV", "RS", "state"),
            compute=total(pool, "compute"),
            repack=0 if pool else layouts,
        )
        for pool, name in enumerate((None, *pools.ids))
    )


def _is_layout(name: str) -> bool:
    """Tell whether a host buffer type of this name is a layout of the CPU's own (ggml-cpu: repack, amx, kleidiai)."""
    return name in ("CPU_REPACK", "AMX", "CPU_KLEIDIAI")
