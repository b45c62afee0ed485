"""The compute buffers of a dry run, measured once more: llama.cpp's own measure is of less than a load reserves.

While it builds a graph, llama.cpp asks its scheduler to keep each layer's norms on the layer's device
(llama-context.cpp, graph_get_cb); `ggml_backend_sched_reserve_size` then resets the scheduler before it measures, and
the norms land on the device before, with copies of more tensors crossing. The graph that is split last, to count its
splits, is the right one: it lies in the scheduler, and is measured here. A load also reserves the graph of one token a
sequence and keeps the larger of both (sched_reserve): that one is split and measured after it. Nothing is read where
the scheduler does not look as expected (ggml-backend.cpp, struct ggml_backend_sched).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from llama_cpp import llama_cpp as lib

from llmrun.worker.breakdown import is_of_class, mangled
from llmrun.worker.devices import bind

_GET = "_ZNK13llama_context9get_schedEv"
_SPLIT = "_ZN13llama_context13graph_reserveEjjjPK22llama_memory_context_ibPm"
_MAX_BACKENDS = 16
# What llama_get_memory may be: each is asked for a view of itself when full, of class NAME_context (llama-memory.h)
_MEMORIES = (
    "llama_kv_cache",
    "llama_kv_cache_iswa",
    "llama_kv_cache_dsa",
    "llama_kv_cache_dsa_iswa",
    "llama_kv_cache_dsv4",
    "llama_kv_cache_msa",
    "llama_memory_hybrid",
    "llama_memory_hybrid_idx",
    "llama_memory_hybrid_iswa",
    "llama_memory_recurrent",
)

_Pointer, _Int = ctypes.c_void_p, ctypes.c_int


class _HashSet(ctypes.Structure):  # ggml-impl.h
    _fields_ = (("size", ctypes.c_size_t), ("used", _Pointer), ("keys", _Pointer))


class _Graph(ctypes.Structure):  # ggml-impl.h, struct ggml_cgraph
    _fields_ = (
        ("size", _Int),
        ("n_nodes", _Int),
        ("n_leafs", _Int),
        *((name, _Pointer) for name in ("nodes", "grads", "grad_accs", "leafs", "use_counts")),
        ("visited", _HashSet),
        ("order", _Int),
        ("uid", ctypes.c_uint64),
    )


class _Scheduler(ctypes.Structure):  # ggml-backend.cpp, up to what is needed to know that all before it is right
    _fields_ = (
        ("is_reset", ctypes.c_bool),
        ("is_alloc", ctypes.c_bool),
        ("n_backends", _Int),
        ("backends", _Pointer * _MAX_BACKENDS),
        ("types", _Pointer * _MAX_BACKENDS),
        ("allocator", _Pointer),
        ("hash_set", _HashSet),
        *(
            (name, _Pointer)
            for name in ("hv_ids", "hv_copies", "node_ids", "leaf_ids", "prev_node_ids", "prev_leaf_ids")
        ),
        ("graph", _Graph),
        ("splits", _Pointer),
        ("n_splits", _Int),
        ("splits_capacity", _Int),
        ("n_copies", _Int),
    )


class _UniquePointer(ctypes.Structure):
    """A std::unique_ptr as it is returned: in memory, for which a structure must have more than two words."""

    _fields_ = (("value", _Pointer), ("_unused", _Pointer * 2))


def measure_compute(context: Any) -> dict[int, int]:
    """Return the bytes of the compute buffers by buffer type, nothing where that cannot be told.

    Only for a new context in which nothing is allocated: in another one the buffers would be lost.
    """
    try:
        address = bind(_GET, _Pointer, _Pointer)(context)
        compute = _measured_graph(address)
        if compute and _split_one_token_each(context):
            other = _measured_graph(address)
            compute = {kind: max(size, other.get(kind, 0)) for kind, size in compute.items()}
    except AttributeError:
        return {}
    return compute


def _split_one_token_each(context: Any) -> bool:
    """Leave the graph of one token a sequence in the scheduler, as sched_reserve does; False where that cannot be."""
    memory = ctypes.cast(lib.llama_get_memory(context), _Pointer).value
    name = next((name for name in _MEMORIES if is_of_class(memory, name)), None)
    if name is None:
        return False
    init_full = bind(f"_ZN{mangled(name)}9init_fullEv", _UniquePointer, _Pointer)
    delete = bind(f"_ZN{mangled(name + '_context')}D0Ev", None, _Pointer)
    split = bind(_SPLIT, _Pointer, _Pointer, *(ctypes.c_uint32,) * 3, _Pointer, ctypes.c_bool, _Pointer)
    full = init_full(memory).value
    if not is_of_class(full, f"{name}_context"):
        return False
    n = lib.llama_n_seq_max(context)
    try:
        return bool(split(context, n, n, n, full, True, None))
    finally:
        delete(full)


def _measured_graph(address: int) -> dict[int, int]:
    """Return the bytes by buffer type that the graph in a scheduler takes, nothing where it is not as expected."""
    found = _Scheduler.from_address(address)
    if not _is_as_expected(address, found):
        return {}
    sizes = (ctypes.c_size_t * found.n_backends)()
    arguments = (
        found.allocator,
        ctypes.addressof(found.graph),
        found.node_ids,
        found.leaf_ids,
        ctypes.addressof(sizes),
    )
    bind("ggml_gallocr_reserve_n_size", None, *(_Pointer,) * 5)(*arguments)
    return by_type(found.types[: found.n_backends], sizes)


def by_type(types: Sequence[int], sizes: Sequence[int]) -> dict[int, int]:
    """Return the bytes of each buffer type: backends that share one have one buffer, told for each of them."""
    return dict(zip(types, sizes, strict=True))


def _is_as_expected(address: int, found: _Scheduler) -> bool:
    """Compare what stands at our offsets with what ggml's own functions say of it, before and behind what is used."""

    def ask(name: str, result: Any, *arguments: Any) -> Any:
        return bind(f"ggml_backend_sched_get_{name}", result, *(_Pointer,) * (1 + len(arguments)))(address, *arguments)

    n = ask("n_backends", _Int)
    if found.n_backends != n or (found.n_splits, found.n_copies) != (ask("n_splits", _Int), ask("n_copies", _Int)):
        return False
    backend = bind("ggml_backend_sched_get_backend", _Pointer, _Pointer, _Int)
    backends = [backend(address, number) for number in range(n)]
    types = [ask("buffer_type", _Pointer, pointer) for pointer in backends]
    same = found.backends[:n] == backends and found.types[:n] == types
    return bool(same) and 0 < found.graph.n_nodes <= found.graph.size
