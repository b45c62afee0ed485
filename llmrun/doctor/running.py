"""Runs the program that builds the engine: its lines as they come, and no process of it left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence

from llmrun.errors import EngineError

Runner = Callable[[Sequence[str], Callable[[str], None]], int]
_TERM_SECONDS = 5.0


def run_command(command: Sequence[str], on_line: Callable[[str], None]) -> int:
    """Run a command to its end and return its exit code; raises EngineError where it cannot be started.

    It gets a process group of its own, so that Ctrl-C reaches us and we end all of it.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=os.name != "nt",
        )
    except OSError as error:
        raise EngineError(f"{command[0]} cannot be started: {error.strerror or error}") from error
    assert process.stdout is not None
    try:
        for line in process.stdout:
            on_line(line.rstrip())
        return process.wait()
    except BaseException:
        _end(process)
        raise
    finally:
        process.stdout.close()


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all it started: first politely, since a compiler removes its own leftovers."""
    _signal(process, signal.SIGTERM)
    try:
        process.wait(timeout=_TERM_SECONDS)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        process.wait()


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if os.name == "nt":
            process.terminate()
        else:
            os.killpg(process.pid, number)


def parse_progress(line: str) -> tuple[int, int] | None:
    """Return how many steps of how many are done, out of ninja's line "[12/197] Building CXX object ..."."""
    match = re.search(r"\[(\d+)/(\d+)\]", line)
    return (int(match[1]), int(match[2])) if match and int(match[2]) else None


def telling_line(lines: Sequence[str]) -> str:
    """Return the line that says best why a build failed: the first error, else the last line."""
    errors = (line for line in lines if re.search(r"\berror\b[ :]|CMake Error|No matching distribution", line, re.I))
    return next(errors, next((line for line in reversed(lines) if line.strip()), "it said nothing")).strip()
