"""systemd's own rules for reading units, as its manuals give them, and systemd itself where it is installed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "s": " ", "a": "\a", "b": "\b", "f": "\f"}
_NOBODY = 65534  # Linux's user without rights: systemd's test mode refuses root
_MANAGER = Path("/lib/systemd/systemd")


def settings(text: str) -> list[tuple[str, str, str]]:
    """Section, name and value of every line of a unit; systemd.syntax(7), with lines that go on."""
    found, section = [], ""
    for line in text.split("\n"):
        if not line.strip() or line.startswith(("#", ";")):
            continue
        assert not line.endswith("\\"), "a line that goes on"
        if line.startswith("["):
            section = line.strip("[]")
            continue
        name, _, value = line.partition("=")
        found.append((section, name.strip(), value.strip()))
    return found


def setting(text: str, name: str) -> list[str]:
    return [value for _, found, value in settings(text) if found == name]


def words(value: str, variables: Mapping[str, str] | None = None) -> list[str]:
    """The words of a value: quotes, C escapes, specifiers; with variables, a command line's, where $ begins one."""
    found = [specified(word) for word in _split(value)]
    if variables is None:
        return found
    return [found[0], *(_expanded(word, variables) for word in found[1:])]


def specified(text: str) -> str:
    """%% is a percent sign, and no other specifier may come of what is written."""
    assert not re.search(r"(?<!%)(%%)*%(?!%)", text), f"a specifier in {text!r}"
    return text.replace("%%", "%")


def _expanded(word: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\$|\$\{(\w+)\}", lambda match: variables[match[1]] if match[1] else "$", word)


def _split(value: str) -> Iterator[str]:
    word, quote, at = None, "", 0
    data: list[int] = []
    while at < len(value):
        character = value[at]
        if not quote and character.isspace():
            if word is not None:
                yield bytes(data).decode("utf-8", "surrogateescape")
            word, data = None, []
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "\"'" and word is None:
            word, quote = "", character
        elif character == "\\":
            at += 1
            word = ""
            if value[at] == "x":
                data.append(int(value[at + 1 : at + 3], 16))
                at += 2
            else:
                data += _ESCAPED[value[at]].encode()
        else:
            word = ""
            data += character.encode("utf-8", "surrogateescape")
        at += 1
    assert not quote
    if word is not None:
        yield bytes(data).decode("utf-8", "surrogateescape")


def check(unit: Path, runtime: Path) -> str:
    """What systemd has to say against a unit of a user."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)},
    )
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"exit {done.returncode}")


def understood(unit: Path) -> str:
    """A unit as systemd's manager has understood it: what its test mode, which starts nothing, tells of it."""
    if not _MANAGER.is_file():
        pytest.skip("systemd's manager is not installed")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        told = _tell(unit, Path(folder))
    found = re.search(rf"-> Unit {re.escape(unit.name)}:\n(.*?)(?=\n\t-> Unit |\Z)", told, re.DOTALL)
    if found is None:
        pytest.skip("systemd's test mode does not run here")
    return found[1]


def _tell(unit: Path, folder: Path) -> str:
    units, home = folder / "units", folder / "home"
    units.mkdir()
    home.mkdir()
    shutil.copy(unit, units)
    (units / unit.name).chmod(0o644)
    command = [str(_MANAGER), "--test", "--user", "--log-target=console", f"--unit={unit.name}"]
    if os.getuid() == 0:
        os.chown(home, _NOBODY, _NOBODY)
        command = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *command]
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "SYSTEMD_UNIT_PATH": f"{units}:"}
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, env=os.environ | environment)
    return done.stdout.decode("utf-8", "surrogateescape")


def commands(told: str) -> list[list[str]]:
    """The command lines in what systemd tells, before variables are put in."""
    lines = re.findall(r"Command Line: (.*)", told)
    # within double quotes a shell takes \$ and \` for $ and `, and Python's shlex does not
    return [[re.sub(r"\\([$`])", r"\1", word) for word in shlex.split(line)] for line in lines]
