"""Replaces the engine by another, and puts the old one back where the new one is not what was wanted.

Knows the order of things; the commands are `builds`', the files `aside`'s, and how a command is run is handed in.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llmrun.doctor.aside import check_own, drop_aside, keep_aside, put_back, size_of
from llmrun.doctor.builds import NAMES, Build, no_installer
from llmrun.doctor.facts import EngineFacts, Environment, Facts
from llmrun.doctor.running import Runner, telling_line
from llmrun.errors import EngineError, UsageError
from llmrun.units import format_bytes

_KEPT_LINES = 2000  # of a build's output, for the explanation of its failure
_BUILD_BYTES = 2 << 30  # of disk: what a build for the CPU takes, with room to spare
_INSTALL_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Repair:
    """What is to be done: the build, and the command chosen of its two."""

    build: Build
    command: tuple[str, ...]

    @property
    def compiles(self) -> bool:
        """Whether the engine is compiled here, which takes minutes."""
        return self.command == self.build.command


def plan_repair(facts: Facts, build: Build, *, prebuilt: bool) -> Repair:
    """Choose the command; raises UsageError or EngineError for what cannot be done here."""
    environment = facts.environment
    if environment.managed:
        raise EngineError(
            "this Python belongs to the system: its packages must not be replaced",
            "install llmrun with pipx, or in an environment of its own (python3 -m venv)",
        )
    check_own(environment.packages)
    if not environment.writable:
        raise EngineError(f"{environment.packages} may not be written", "run it as the user who installed llmrun")
    if not environment.installer:
        raise EngineError(no_installer(environment), "then `llmrun doctor --fix` again")
    if prebuilt:
        if build.prebuilt is None:
            raise UsageError(f"there is no engine for {NAMES[build.backend]} that is built already for this machine")
        return Repair(build, build.prebuilt)
    if build.obstacles:
        message = f"the engine cannot be built for {NAMES[build.backend]} yet: {build.obstacles[0]}"
        raise EngineError(message, "then `llmrun doctor --fix` again")
    return Repair(build, build.command)


def check_space(environment: Environment, repair: Repair, free: int | None = None) -> None:
    """Raise EngineError where the disk is too full for the engine from before, the build, and the new one."""
    free = shutil.disk_usage(environment.packages).free if free is None else free
    need = size_of(environment.packages) + (_BUILD_BYTES if repair.compiles else _INSTALL_BYTES)
    if free < need:
        raise EngineError(f"the repair needs {format_bytes(need)} of disk, {format_bytes(free)} is free")


def carry_out(
    environment: Environment,
    repair: Repair,
    run: Runner,
    examine: Callable[[], EngineFacts],
    on_line: Callable[[str], None],
) -> EngineFacts:
    """Replace the engine and return how the new one does; the old one is back wherever this raises.

    run: starts the command. examine: tries the engine out in a new process. Raises EngineError for a build that fails,
    an engine that does not start or answer, and one that has no device of the wanted kind.
    """
    lines: list[str] = []

    def listen(line: str) -> None:
        lines.append(line)
        del lines[:-_KEPT_LINES]
        on_line(line)

    keep_aside(environment.packages)
    try:
        code = run(repair.command, listen)
        if code != 0:
            raise EngineError(f"the engine was not built (exit code {code}): {telling_line(lines)}", _put_back_hint())
        found = examine()
        _judge(found, repair.build)
    except BaseException:
        with _undisturbed():
            put_back(environment.packages)
        raise
    drop_aside(environment.packages)
    return found


def _judge(found: EngineFacts, build: Build) -> None:
    """Raise EngineError unless the engine starts, answers, and has a device of the wanted kind."""
    trouble = found.start or found.answer or found.gpu_answer
    if trouble is not None:
        raise EngineError(f"the new engine does not run: {trouble.message}", _put_back_hint())
    if not any(device.backend == build.backend for device in found.devices):
        name = NAMES[build.backend]
        complaint = f": {found.log[-1]}" if found.log else ""
        raise EngineError(f"the new engine sees no device of {name}{complaint}", _put_back_hint())


def _put_back_hint() -> str:
    return "the engine from before is in its place again"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second Ctrl-C leave half an engine; signals can be set in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def with_output(command: Sequence[str]) -> tuple[str, ...]:
    """Return the command so that it tells how far the build is; pip says nothing of it unasked."""
    if "install" not in command or command[0] == "uv":
        return tuple(command)
    place = list(command).index("install") + 1
    return (*command[:place], "-v", *command[place:])
