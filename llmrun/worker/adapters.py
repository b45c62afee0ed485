"""LoRA adapters beside a loaded model: read, given to a context, and how much memory they take.

llama.cpp frees adapters with their model. Their headers were checked before a worker is asked to load them
(gguf.adapter): what llama.cpp finds wrong even so it says itself, or this process ends of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as lib

from llmrun.engine.refusal import parse_refusal
from llmrun.errors import EngineError, GGUFError, InsufficientMemoryError
from llmrun.settings import Lora
from llmrun.worker.breakdown import Buffers, buffers_of_vector
from llmrun.worker.devices import bind, devices
from llmrun.worker.log import engine_log

_RESERVE = "_ZN13llama_context13sched_reserveEv"
# offsetof(llama_adapter_lora, bufs) in src/llama-adapter.h with libstdc++: a pointer, an unordered_map, a vector
_BUFFERS = 8 + 56 + 24


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """llama.cpp's pointer to an adapter, which its model owns, and how much of it is added to the model."""

    pointer: Any
    scale: float


def load_adapter(model: Any, path: Path, lora: Lora) -> LoadedAdapter:
    """Read an adapter beside a model (a pointer); raises GGUFError, or InsufficientMemoryError."""
    with engine_log().collecting() as complaints:
        pointer = lib.llama_adapter_lora_init(model, os.fsencode(path))
    if pointer:
        return LoadedAdapter(pointer, lora.scale)
    name = Path(lora.path).name
    reason = (complaints or ["no reason given"])[-1].rpartition("failed to apply lora adapter: ")[2].strip()
    if (refusal := parse_refusal(complaints, devices().by_buffer_type())) is not None or "allocate" in reason:
        raise InsufficientMemoryError(f"there was no memory for the adapter {name}", "try without --lora", refusal)
    raise GGUFError(f"the adapter {name} could not be loaded: {reason}", "it has to be made for this very model")


def set_adapters(context: Any, adapters: Sequence[LoadedAdapter]) -> None:
    """Give adapters to a new context, and let it make room for their computations now and not with the first token."""
    n = len(adapters)
    pointers = (ctypes.c_void_p * n)(*(ctypes.cast(one.pointer, ctypes.c_void_p).value for one in adapters))
    scales = (ctypes.c_float * n)(*(one.scale for one in adapters))
    # bound here: the bindings' own signature asks for an array of a type that nothing returns
    pointer = ctypes.c_void_p
    set_them = bind("llama_set_adapters_lora", ctypes.c_int32, pointer, pointer, ctypes.c_size_t, pointer)
    if set_them(context, ctypes.addressof(pointers), n, ctypes.addressof(scales)) != 0:
        raise EngineError("llama.cpp did not take the adapters")
    with contextlib.suppress(AttributeError):  # where it cannot be called the first decode does it
        bind(_RESERVE, None, ctypes.c_void_p)(context)


def adapter_buffers(adapters: Sequence[LoadedAdapter]) -> Iterator[Buffers]:
    """Yield the buffers of adapters, exact to the byte; nothing where they cannot be read here."""
    for adapter in adapters:
        address = ctypes.cast(adapter.pointer, ctypes.c_void_p).value or 0
        yield from buffers_of_vector(address + _BUFFERS)
