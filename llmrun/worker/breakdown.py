"""The buffers of a context, exact to the byte, out of llama.cpp's own table of them.

`llama_get_memory_breakdown` (llama-ext.h) returns a std::map by value: the walk below knows how libstdc++ lays one out,
and reads nothing where anything about it is not as expected. Must not know what the sizes are wanted for.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from llmrun.worker.devices import bind, cpu_device, devices, kind_of

_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
_TREE = "_ZSt18_Rb_tree_incrementPSt18_Rb_tree_node_base"  # only libstdc++ has it
_DELETE = "_ZdlPv"
_MAX_ROWS = 64  # 16 devices, each with a handful of types
_MAX_BYTES = 1 << 50

_Pointer = ctypes.c_void_p


class Map(ctypes.Structure):
    """A std::map with keys and values of whole words in libstdc++ (bits/stl_tree.h, _Rb_tree_impl)."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("compare", "color", "root", "left", "right", "count"))


@dataclass(frozen=True, slots=True)
class Buffers:
    """What there is of one buffer type, in bytes; type and device are pointers, no device is the host.

    plain: the CPU can read it; on the host what is not plain is in a layout of its own, repacked.
    """

    type: int
    name: str
    device: int | None
    plain: bool
    weights: int
    context: int
    compute: int


def read_breakdown(context: Any) -> tuple[Buffers, ...] | None:
    """Return the buffers of a context by type, None where the table cannot be read here."""
    try:
        return _read_breakdown(context) if can_read_maps() else None
    except AttributeError:  # an engine built in parts lacks a function
        return None


def _read_breakdown(context: Any) -> tuple[Buffers, ...] | None:
    rows = read_map(bind(_BREAKDOWN, Map, _Pointer)(context), n_values=3)
    known = _known_types()
    if rows is None:
        return None
    if any(row[0] not in known or max(row[1:]) > _MAX_BYTES for row in rows):
        return None
    return tuple(_buffers(*row) for row in rows)


def read_map(table: Map, n_values: int) -> list[tuple[int, ...]] | None:
    """Return the keys and values, words, of a map that came by value and is freed here; None where it is no map."""
    nodes: list[tuple[int, ...]] = []
    whole = table.count <= _MAX_ROWS and _walk(table.root, nodes, n_values)
    if not whole or len(nodes) != table.count:
        return None
    for node in nodes:
        bind(_DELETE, None, _Pointer)(node[0])
    return [node[1:] for node in nodes]


def can_read_maps() -> bool:
    """Tell whether maps are here as libstdc++ lays them out."""
    if sys.platform != "linux" or ctypes.sizeof(_Pointer) != 8:
        return False
    try:
        return bool(bind(_BREAKDOWN, Map, _Pointer) and bind(_TREE, _Pointer, _Pointer))
    except AttributeError:
        return False


def _walk(address: int, nodes: list[tuple[int, ...]], n_values: int) -> bool:
    """Collect node, key and sizes in order; False where it is no tree: too many nodes, or no colour in its place."""
    if not address:
        return True
    color, _, left, right, *entry = (ctypes.c_uint64 * (5 + n_values)).from_address(address)
    if color & 0xFFFFFFFF > 1 or address % 8 or len(nodes) >= _MAX_ROWS:
        return False
    if not _walk(left, nodes, n_values):
        return False
    nodes.append((address, *entry))
    return _walk(right, nodes, n_values)


def _known_types() -> set[int]:
    """Every buffer type there can be: an address that is none of them is no buffer type."""
    default = bind("ggml_backend_dev_buffer_type", _Pointer, _Pointer)
    host = bind("ggml_backend_dev_host_buffer_type", _Pointer, _Pointer)
    found = {each(device) for device in devices().known() for each in (default, host)}
    found |= {bind("ggml_backend_cpu_buffer_type", _Pointer)(), _mapped_type(), _lazy_type(), *_extra_types()}
    return found - {None}


def _mapped_type() -> int | None:
    """The type of buffers that are pages of a file."""
    page = ctypes.create_string_buffer(128)
    aligned = (ctypes.addressof(page) + 63) // 64 * 64
    buffer = bind("ggml_backend_cpu_buffer_from_ptr", _Pointer, _Pointer, ctypes.c_size_t)(aligned, 64)
    try:
        kind: int | None = bind("ggml_backend_buffer_get_type", _Pointer, _Pointer)(buffer)
        return kind
    finally:
        bind("ggml_backend_buffer_free", None, _Pointer)(buffer)


def _lazy_type() -> int | None:
    """The type of tensors that are read from the file on demand."""
    try:
        kind: int | None = bind("_ZN18llama_model_loader9lazy_read4buftEv", _Pointer)()
    except AttributeError:
        return None
    return kind


def _extra_types() -> list[int]:
    """The CPU's own layouts."""
    registry = bind("ggml_backend_dev_backend_reg", _Pointer, _Pointer)(cpu_device())
    find = bind("ggml_backend_reg_get_proc_address", _Pointer, _Pointer, ctypes.c_char_p)
    address = find(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(_Pointer), _Pointer)(address)(cpu_device())
    found: list[int] = []
    while listed and (kind := listed[len(found)]):
        found.append(kind)
    return found


def _buffers(kind: int, weights: int, context: int, compute: int) -> Buffers:
    name = bind("ggml_backend_buft_name", ctypes.c_char_p, _Pointer)(kind).decode("utf-8", "replace")
    plain = bool(bind("ggml_backend_buft_is_host", ctypes.c_bool, _Pointer)(kind))
    return Buffers(kind, name, _device_of(kind, plain), plain, weights, context, compute)


def _device_of(kind: int, plain: bool) -> int | None:
    """The device whose memory it is; pinned memory belongs to a device's driver, and is the host's all the same."""
    device: int | None = bind("ggml_backend_buft_get_device", _Pointer, _Pointer)(kind)
    if device is None or kind_of(device) in ("CPU", "ACCEL"):
        return None
    default = bind("ggml_backend_dev_buffer_type", _Pointer, _Pointer)(device)
    return None if plain and kind != default else device


def buffers_of_vector(address: int) -> tuple[Buffers, ...]:
    """Return the buffers a std::vector of pointers to them at an address holds, none where that cannot be read here.

    Their bytes count as weights.
    """
    if not can_read_maps():
        return ()
    begin, end = (ctypes.c_uint64 * 2).from_address(address)
    count, rest = divmod(end - begin, ctypes.sizeof(_Pointer))
    if rest or not 0 < count <= _MAX_ROWS:
        return ()
    kind_of_buffer = bind("ggml_backend_buffer_get_type", _Pointer, _Pointer)
    size_of_buffer = bind("ggml_backend_buffer_get_size", ctypes.c_size_t, _Pointer)
    pointers = (ctypes.c_uint64 * count).from_address(begin)
    return tuple(_buffers(kind_of_buffer(one), size_of_buffer(one), 0, 0) for one in pointers)


def read_state(memory: Any) -> int | None:
    """Return the bytes of recurrent state in a context's memory, None where they cannot be told apart exactly.

    memory: llama_get_memory of the context. Which class it is tells the table of its virtual functions.
    """
    if not can_read_maps() or not memory:
        return None
    try:
        return _read_state(ctypes.cast(memory, _Pointer).value)
    except AttributeError:
        return None


def _read_state(recurrent: int | None) -> int | None:
    for name in ("llama_memory_hybrid", "llama_memory_hybrid_iswa"):
        if is_of_class(recurrent, name):
            recurrent = bind(f"_ZNK{mangled(name)}12get_mem_recrEv", _Pointer, _Pointer)(recurrent)
    if not is_of_class(recurrent, "llama_memory_recurrent"):
        return None
    sizes = ("size_r_bytes", "size_s_bytes", "size_p_bytes")
    getters = [bind(f"_ZNK22llama_memory_recurrent12{size}Ev", ctypes.c_size_t, _Pointer) for size in sizes]
    return sum(int(get(recurrent)) for get in getters)


def mangled(name: str) -> str:
    """Return a class of llama.cpp as it stands in the names of its functions (Itanium C++ ABI)."""
    return f"{len(name)}{name}"


def is_of_class(address: int | None, name: str) -> bool:
    """Tell whether an object with virtual functions is of exactly this class of llama.cpp."""
    try:
        table = ctypes.addressof(ctypes.c_char.in_dll(_library(), f"_ZTV{mangled(name)}"))
    except ValueError:
        return False
    # what an object points to comes after an offset and the type
    return bool(address) and ctypes.c_uint64.from_address(address or 0).value == table + 16


def _library() -> Any:
    from llama_cpp import llama_cpp as lib

    return lib._lib
