"""A flag that ends a computation between two nodes of its graph."""

from __future__ import annotations

import ctypes
import os

from llama_cpp import llama_cpp as lib


class CancelFlag:
    """A flag that C code can read while a graph is computed, and any thread can raise.

    llama.cpp asks its abort callback before every node of the graph, about a thousand times a token: a Python function
    there would cost a millisecond each token. `strlen` of a buffer that holds "" or "\\1" is the same predicate in C.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)
        c_library = ctypes.CDLL(None if os.name == "posix" else "msvcrt")
        self.callback = ctypes.cast(c_library.strlen, lib.ggml_abort_callback)
        self.address = ctypes.addressof(self._buffer)

    def set(self) -> None:
        """Stop what is being computed."""
        self._buffer[0] = b"\x01"

    def clear(self) -> None:
        """Let computations run."""
        self._buffer[0] = b"\x00"

    def is_set(self) -> bool:
        """Tell whether it is raised."""
        return bool(self._buffer[0] != b"\x00")
