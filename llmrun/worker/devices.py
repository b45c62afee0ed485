"""What ggml sees: the backends that are built in, by name.

Everything is looked up through libllama's own handle. Opening libggml.so by path would map a second copy of it
with an empty registry of its own (a wheel has no symlinks, so the two names are two files).
"""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cpp import llama_cpp as lib


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = lib._lib[name]
    function.restype, function.argtypes = result, list(arguments)
    return function


def list_backends() -> list[str]:
    """Return the names of the backends in ggml's registry, such as ["RPC", "CPU"]."""
    count = _function("ggml_backend_reg_count", ctypes.c_size_t)
    get = _function("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _function("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    lib.llama_backend_init()
    return [name(get(index)).decode() for index in range(count())]
