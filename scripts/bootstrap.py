"""Make `.venv` whole: `python3 scripts/bootstrap.py [--extra NAME]... [--rebuild]`.

Standard library only. This file and setup/failure.py must parse on any Python 3, so that an old one gives a message
and no traceback; the work is in setup/, imported once the Python is known to be new enough.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, in place of scripts/
from scripts.setup.failure import install_command

OLDEST = (3, 11)
NAMES = ("python3", "python3.11", "python3.12", "python3.13", "python3.14")
NEW_ENOUGH = "import sys; sys.exit(sys.version_info < (3, 11))"


def is_too_old(version: "tuple[int, ...]") -> bool:
    """Whether llmrun cannot run on this version of Python."""
    return version < OLDEST


def runs(python: str) -> bool:
    """Whether this program is a Python that starts and is new enough."""
    quiet = subprocess.DEVNULL
    return subprocess.call([python, "-c", NEW_ENOUGH], stdin=quiet, stdout=quiet, stderr=quiet) == 0


def find_newer_python() -> str:
    """The first Python on PATH that is new enough, or ""; each is run, since a version manager's stub may be dead."""
    for name in NAMES:
        path = shutil.which(name)
        if path and runs(path):
            return path
    return ""


def too_old_message(version: str, executable: str) -> str:
    """What a person with only an old Python reads."""
    found = f"error: llmrun needs Python 3.11 or newer; this is {version} ({executable})"
    return f"{found}, and PATH has no python3.11 to python3.14\nhint: {install_command('python')}"


def main() -> int:
    """Hand over to a Python that is new enough, then to setup.main."""
    if is_too_old(sys.version_info[:2]):
        newer = find_newer_python()
        if newer:
            os.execv(newer, [newer, *sys.argv])
        version = ".".join(str(number) for number in sys.version_info[:3])
        print(too_old_message(version, sys.executable), file=sys.stderr)
        return 1
    from scripts.setup.main import main as set_up

    return set_up(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
