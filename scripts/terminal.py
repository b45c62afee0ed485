"""A terminal without a window: the real program in it, keys sent, the screen read. It answers what programs ask it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import pexpect
import pyte

_PATIENCE = 30.0  # seconds for something to appear
_QUIET = 0.2  # seconds without output after which a screen is taken to be drawn


class _Screen(pyte.HistoryScreen):
    """A screen that remembers what was scrolled off it, and answers what it is asked: where the cursor is."""

    def __init__(self, columns: int, lines: int, answer: Callable[[str], object]) -> None:
        super().__init__(columns, lines, history=5000, ratio=0.001)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        """Hear what the terminal says to the program."""
        self._answer(data)


class Terminal:
    """A program in a terminal of so many columns and lines; a context manager, which ends the program."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], columns: int = 80, lines: int = 24) -> None:
        self._screen = _Screen(columns, lines, lambda text: self._child.send(text))
        self._stream = pyte.Stream(self._screen)
        self._child = pexpect.spawn(
            command[0],
            list(command[1:]),
            env=dict(env),
            dimensions=(lines, columns),
            encoding="utf-8",
            codec_errors="replace",
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close(force=True)

    def send(self, keys: str) -> None:
        """Press keys."""
        self._child.send(keys)

    def wait_for(self, pattern: str, patience: float = _PATIENCE, *, drawn: bool = True) -> str:
        """Wait until the screen, or what was scrolled off it, shows a pattern, and return all of it.

        drawn: wait for the rest as well, until nothing more comes; not for what has no end.
        Raises TimeoutError with what it shows instead.
        """
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if re.search(pattern, self.text(), re.MULTILINE):
                if drawn:
                    self._read_until_quiet()
                return self.text()
            if not self._read(0.1) and not self._child.isalive():
                break
        raise TimeoutError(f"{pattern!r} is not on the screen:\n{self.text()}")

    def wait_for_end(self) -> int:
        """Wait until the program has ended, and return its exit status."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and (self._read(0.1) or self._child.isalive()):
            pass
        self._child.close()
        status = self._child.exitstatus
        return -1 if status is None else int(status)

    def lines(self) -> list[str]:
        """Return every line from the first on, those that were scrolled off included, without blanks at their ends."""
        columns = range(self._screen.columns)
        gone = ["".join(row[column].data for column in columns) for row in self._screen.history.top]
        shown = [line.rstrip() for line in [*gone, *self._screen.display]]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def text(self) -> str:
        """Return the lines as one text."""
        return "\n".join(self.lines())

    def _read_until_quiet(self) -> None:
        while self._read(_QUIET):
            pass

    def _read(self, patience: float) -> bool:
        """Take in what the program writes; returns whether it wrote anything."""
        try:
            self._stream.feed(self._child.read_nonblocking(65536, timeout=patience))
        except (pexpect.TIMEOUT, pexpect.EOF):
            return False
        return True
