"""llama.cpp's log: to stderr, where the parent keeps it; warnings and errors are also at hand here, for messages.

What else a line says of numbers can be recorded, for those who read sizes out of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llama_cpp import llama_cpp as lib

# ggml.h, enum ggml_log_level; the package's own table is of an older version and drops errors
_DEBUG, _WARN, _ERROR, _CONTINUED = 1, 3, 4, 5


class Recording:
    """Lines of the log since it was begun, debug lines included if they were wanted."""

    def __init__(self, *, debug: bool, quiet: bool) -> None:
        self.debug = debug
        self.quiet = quiet
        self._pieces: list[bytes] = []

    def add(self, text: bytes) -> None:
        """Take in a piece, which need not be a line."""
        self._pieces.append(text)

    def lines(self) -> list[str]:
        """Return what was said so far."""
        return b"".join(self._pieces).decode("utf-8", "replace").splitlines()


class EngineLog:
    """Receives llama.cpp's log from construction on; debug lines, a dozen per graph, are dropped."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._level = 0
        self._recording: Recording | None = None
        self._callback: Any = lib.llama_log_callback(self._receive)  # kept: C holds only its address
        lib.llama_log_set(self._callback, None)

    def hear(self, set_log: Callable[[Any, None], None]) -> None:
        """Take in another library's log too, whose messages are of the same form."""
        set_log(self._callback, None)

    @contextmanager
    def collecting(self) -> Iterator[list[str]]:
        """Yield the list into which warnings and errors go from here on."""
        self.complaints = []
        yield self.complaints

    @contextmanager
    def recording(self, *, debug: bool = False, quiet: bool = False) -> Iterator[Recording]:
        """Record the lines of a block; with `quiet` nobody else hears what is not an error."""
        self._recording = Recording(debug=debug, quiet=quiet)
        try:
            yield self._recording
        finally:
            self._recording = None

    def _receive(self, level: int, text: bytes, _: object) -> None:
        self._level = self._level if level == _CONTINUED else level
        recording = self._recording
        if recording is not None and (self._level > _DEBUG or recording.debug):
            recording.add(text)
        if self._level <= _DEBUG:
            return
        complains = self._level in (_WARN, _ERROR)
        if self._level == _ERROR or recording is None or not recording.quiet:
            os.write(2, text)
        if complains:
            self.complaints.append(text.decode("utf-8", "replace").strip())


_log: EngineLog | None = None


def engine_log() -> EngineLog:
    """Return the process's one log; llama.cpp has only one as well."""
    global _log
    _log = _log or EngineLog()
    return _log
