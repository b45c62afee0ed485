"""How much of a device others may have: what is lent of it is counted, and refused beyond that.

ggml's RPC server gives whatever it is asked for, and says that a CPU's free memory is all of the machine's. So two
functions of what is lent are replaced by ours: the one that allocates, and the one that tells of memory.
Must not know who borrows, nor how.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from llmrun.errors import EngineError, UsageError
from llmrun.hardware.detect import device_of
from llmrun.hardware.host_memory import read_memory_without_own_limits
from llmrun.hardware.resident import read_own_anonymous
from llmrun.planning.pools import DEVICE_RESERVE, host_reserve
from llmrun.units import format_bytes
from llmrun.worker.devices import bind, describe, name_of

_Pointer, _Size = ctypes.c_void_p, ctypes.c_size_t
_SizeOut = ctypes.POINTER(ctypes.c_size_t)
# ggml-backend-impl.h of llama.cpp 0c1e57098, counted in pointers: ggml_backend_buffer_type_i.alloc_buffer,
# ggml_backend_buffer_i.free_buffer and what follows that table in ggml_backend_buffer, ggml_backend_device_i.get_memory
_ALLOC, _FREE, _BUFFER_TYPE, _SIZE, _GET_MEMORY = 1, 0, 11, 13, 2
_AllocFunction = ctypes.CFUNCTYPE(_Pointer, _Pointer, _Size)
_FreeFunction = ctypes.CFUNCTYPE(None, _Pointer)
_MemoryFunction = ctypes.CFUNCTYPE(None, _Pointer, _SizeOut, _SizeOut)
_LEAST = 1 << 20  # bytes: with less no layer of any model can be lent


class Grant:
    """What is lent of one device.

    total: bytes that are lent at most. held: bytes that others have of it. Make it before the RPC server runs; the
    device tells everybody in this process what is left of the grant from then on.
    """

    def __init__(self, device: int, limit: int | None = None) -> None:
        """Lend a device of ggml, or so many bytes of it; raises UsageError where it does not have them.

        Raises EngineError where ggml's structures are not those that this was written for.
        """
        self.held = 0
        info = describe(device)
        self._is_host = info.kind == "CPU"
        self._is_unified = device_of(info).unified
        self._memory = _MemoryFunction(_word(device, _GET_MEMORY).value or 0)
        self._device = device
        self.total = _checked_limit(name_of(device), limit, self._lendable()[1])
        self._base = read_own_anonymous()
        self._freeing: dict[int, Any] = {}
        self._install(bind("ggml_backend_dev_buffer_type", _Pointer, _Pointer)(device))

    @property
    def free(self) -> int:
        """Bytes that can be had of it now: never more than there are, whatever the grant says."""
        spare = self._lendable()[0]
        if self._is_host:  # what was granted and is not written to yet still counts as available
            spare -= max(0, self.held - max(0, read_own_anonymous() - self._base))
        return max(0, min(self.total - self.held, spare))

    def _install(self, buffer_type: int) -> None:
        _check_layout(buffer_type)
        # kept: C holds only their addresses
        self._allocate = _AllocFunction(_word(buffer_type, _ALLOC).value or 0)
        self._hooks = (_AllocFunction(self._alloc), _FreeFunction(self._release), _MemoryFunction(self._tell_memory))
        _word(buffer_type, _ALLOC).value = _address(self._hooks[0])
        _word(self._device, _GET_MEMORY).value = _address(self._hooks[2])

    def _alloc(self, buffer_type: int, size: int) -> int | None:
        """Allocate as ggml does, within the grant; None is ggml's own word for a refusal."""
        if size > (free := self.free):
            sys.stderr.write(f"refused: {size} bytes of {name_of(self._device)} were asked for, {free} are free\n")
            return None
        buffer: int | None = self._allocate(buffer_type, size)
        if buffer:
            slot = _word(buffer, _FREE)
            self._freeing[buffer] = _FreeFunction(slot.value or 0)
            slot.value = _address(self._hooks[1])
            self.held += _word(buffer, _SIZE).value or 0
        return buffer

    def _release(self, buffer: int) -> None:
        self.held -= _word(buffer, _SIZE).value or 0
        self._freeing.pop(buffer)(buffer)

    def _tell_memory(self, _: int, free: Any, total: Any) -> None:
        free[0], total[0] = self.free, self.total

    def _lendable(self) -> tuple[int, int]:
        """Return how many bytes could be lent now, and of a device that nobody uses: what it keeps is taken off."""
        memory = read_memory_without_own_limits()
        kept = host_reserve(memory.machine_total or memory.total, memory.limit, memory.outside)
        host = (memory.available - kept, memory.total - kept)
        if self._is_host:
            return host
        free, total = _Size(), _Size()
        self._memory(self._device, free, total)
        own = (free.value - DEVICE_RESERVE, total.value - DEVICE_RESERVE)
        return (min(own[0], host[0]), min(own[1], host[1])) if self._is_unified else own


def _checked_limit(name: str, limit: int | None, most: int) -> int:
    """Return what is lent of a device that has `most` bytes to lend."""
    if most < _LEAST:
        raise UsageError(f"{name} has no memory to lend beyond what this machine keeps for itself")
    if limit is not None and limit > most:
        raise UsageError(
            f"{format_bytes(limit)} of {name} cannot be lent: it has {format_bytes(most)} beyond what this machine "
            "keeps for itself",
            f"--memory {most >> 20}MiB, or leave it out",
        )
    return most if limit is None else limit


def _check_layout(buffer_type: int) -> None:
    """Raise EngineError unless a buffer's structure is the one we know: what else we wrote into it would be a crash."""
    size = 4096
    buffer = bind("ggml_backend_buft_alloc_buffer", _Pointer, _Pointer, _Size)(buffer_type, size)
    if not buffer:
        raise EngineError("the device has no memory left", "end other programs that use it")
    known = _word(buffer, _BUFFER_TYPE).value == buffer_type
    known &= _word(buffer, _SIZE).value == bind("ggml_backend_buffer_get_size", _Size, _Pointer)(buffer)
    bind("ggml_backend_buffer_free", None, _Pointer)(buffer)
    if not known:
        raise EngineError(
            "the installed engine is not the one that llmrun was made for: it cannot limit what is lent",
            "`llmrun doctor --fix` installs the right one",
        )


def _word(address: int, index: int) -> ctypes.c_void_p:
    """Return the index-th pointer or size of a structure, to be read or written."""
    return ctypes.c_void_p.from_address(address + index * ctypes.sizeof(ctypes.c_void_p))


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value
