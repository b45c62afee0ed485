"""The folder `.venv`: where things are in it, how it is made, and one set-up at a time."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .failure import Failure, install_command, no_space
from .progress import say

VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are, from the root of the checkout."""

    root: Path

    @property
    def folder(self) -> Path:
        """The environment."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.folder / "bin" / "python"

    @property
    def engine(self) -> Path:
        """What is kept when the environment is made anew: the engine's wheel, its source, the logs."""
        return self.folder / "engine"

    @property
    def stamp(self) -> Path:
        """The file without which the environment is not whole."""
        return self.folder / "setup.json"

    @property
    def lock(self) -> Path:
        """Held by the set-up that is at work."""
        return self.folder / "setup.lock"

    def site(self, version: str) -> Path:
        """Where packages are installed, for a Python of this version ("3.11")."""
        return self.folder / "lib" / f"python{version}" / "site-packages"


def read_python_version(python: Path) -> str | None:
    """The version ("3.11") of an environment's Python; None where it does not run."""
    try:
        command = [str(python), "-I", "-S", "-c", VERSION]
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def make_environment(layout: Layout) -> None:
    """Make the environment anew, around what is kept; raises Failure."""
    clear(layout)
    base = getattr(sys, "_base_executable", None) or sys.executable  # we may be running in the one just cleared
    say(f"making .venv with Python {sys.version_info[0]}.{sys.version_info[1]}")
    command = [base, "-m", "venv", str(layout.folder)]
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise explain_venv(answer.stdout + answer.stderr, base, str(layout.folder))


def explain_venv(said: str, python: str, folder: str) -> Failure:
    """The failure behind the output of `python -m venv`."""
    if "No space left" in said:
        return no_space(folder)
    if "ensurepip" in said or "No module named venv" in said:
        return Failure(f"{python} cannot make a virtual environment: it lacks ensurepip", install_command("venv"))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return Failure(f"{python} cannot make a virtual environment: {lines[-1] if lines else 'it says not why'}")


def clear(layout: Layout) -> None:
    """Remove everything but what was slow to make."""
    for entry in layout.folder.iterdir():
        if entry in (layout.engine, layout.lock):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the environment alone: two scripts started together must not both make it."""
    layout.engine.mkdir(parents=True, exist_ok=True)
    with layout.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this checkout is at work: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
