"""llama.cpp's log: to stderr, where the parent keeps it; warnings and errors are also at hand here, for messages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_cpp import llama_cpp as lib

# ggml.h, enum ggml_log_level; the package's own table is of an older version and drops errors
_DEBUG, _WARN, _ERROR, _CONTINUED = 1, 3, 4, 5


class EngineLog:
    """Receives llama.cpp's log from construction on; debug lines, a dozen per graph, are dropped."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._level = 0
        self._callback: Any = lib.llama_log_callback(self._receive)  # kept: C holds only its address
        lib.llama_log_set(self._callback, None)

    @contextmanager
    def collecting(self) -> Iterator[list[str]]:
        """Yield the list into which warnings and errors go from here on."""
        self.complaints = []
        yield self.complaints

    def _receive(self, level: int, text: bytes, _: object) -> None:
        self._level = self._level if level == _CONTINUED else level
        if self._level <= _DEBUG:
            return
        os.write(2, text)
        if self._level in (_WARN, _ERROR):
            self.complaints.append(text.decode("utf-8", "replace").strip())


_log: EngineLog | None = None


def engine_log() -> EngineLog:
    """Return the process's one log; llama.cpp has only one as well."""
    global _log
    _log = _log or EngineLog()
    return _log
