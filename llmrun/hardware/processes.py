"""Small programs of the system that are asked one thing: started, given little time, and never trusted to be there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """What a program said: its exit code, None where it could not be asked, and its two outputs."""

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def first_line(self) -> str:
        """The first line of what it said, wherever it said it."""
        return next((line.strip() for line in (self.out + "\n" + self.err).splitlines() if line.strip()), "")


def find_program(name: str, folders: Sequence[str] = ()) -> str | None:
    """Return a program's path: from PATH, else from these folders."""
    return shutil.which(name) or (shutil.which(name, path=os.pathsep.join(folders)) if folders else None)


def ask_program(command: Sequence[str], seconds: float = 5.0) -> Said:
    """Run a program to its end, in English and without a terminal, and return what it said; never raises."""
    environment = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Said(None, "", f"no answer in {seconds:g} seconds")
    except OSError as error:
        return Said(None, "", error.strerror or str(error))
    return Said(done.returncode, done.stdout, done.stderr)
