"""The compute buffers of a dry run with devices, measured once more: llama.cpp's own measure forgets a wish of its own.

While it builds a graph, llama.cpp asks its scheduler to keep each layer's norms on the layer's device
(llama-context.cpp, graph_get_cb); `ggml_backend_sched_reserve_size` then resets the scheduler before it measures, and
the norms land on the device before, with copies of more tensors crossing. The graph that is split last, to count its
splits, is the right one: it lies in the scheduler, and is measured here. Nothing is read where the scheduler does not
look as expected (ggml-backend.cpp, struct ggml_backend_sched).
"""

from __future__ import annotations

import ctypes
from typing import Any

from llmrun.worker.devices import bind

_GET = "_ZNK13llama_context9get_schedEv"
_MAX_BACKENDS = 16

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


def measure_compute(context: Any) -> dict[int, int] | None:
    """Return the bytes of the compute buffers by buffer type, None where that cannot be told.

    Only for a context in which nothing is allocated: in another one the buffers would be lost.
    """
    try:
        address = bind(_GET, _Pointer, _Pointer)(context)
    except AttributeError:
        return None
    found = _Scheduler.from_address(address)
    if not _is_as_expected(address, found):
        return None
    sizes = (ctypes.c_size_t * found.n_backends)()
    arguments = (
        found.allocator,
        ctypes.addressof(found.graph),
        found.node_ids,
        found.leaf_ids,
        ctypes.addressof(sizes),
    )
    bind("ggml_gallocr_reserve_n_size", None, *(_Pointer,) * 5)(*arguments)
    compute: dict[int, int] = {}
    for kind, size in zip(found.types[: found.n_backends], sizes, strict=True):
        compute[kind] = compute.get(kind, 0) + size
    return compute


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
