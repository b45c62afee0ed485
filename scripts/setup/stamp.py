"""What `.venv` should hold (the project), what it does hold (the stamp), and the difference."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .failure import Failure

ENGINE = "llama-cpp-python"
# What an installed project is made from, beside its dependencies.
INSTALLED = ("name", "version", "requires-python", "dependencies", "scripts")


@dataclass(frozen=True, slots=True)
class Project:
    """The part of pyproject.toml that the set-up depends on."""

    base: str
    """Hash of the dependencies and the build system."""
    engine: str
    """The version of llama-cpp-python, pinned."""
    dependencies: tuple[str, ...]
    extras: Mapping[str, tuple[str, ...]]

    def hash_extra(self, name: str) -> str:
        """Hash of what the extra asks for."""
        return hash_value(self.extras[name])


@dataclass(frozen=True, slots=True)
class Stamp:
    """Written last into `.venv`: all that must still hold for it to be whole."""

    python: str
    """Version of the environment's Python, as "3.11"."""
    root: str
    """The checkout, whose path is written all over an environment."""
    base: str
    engine: str
    user_arguments: str
    """CMAKE_ARGS as the user had set it when the engine was built."""
    arguments: str
    """CMAKE_ARGS as the engine was built with."""
    extras: Mapping[str, str]
    """Hash of each extra that is installed."""
    packages: tuple[str, ...]
    """Names of the installed packages."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is left to do."""

    everything: bool = False
    engine: bool = False
    extras: tuple[str, ...] = ()


def compare(
    stamp: Stamp | None, found: Stamp | None, project: Project, extras: Iterable[str], user_arguments: str
) -> Work:
    """What a stamp leaves to do; `found` is what can be seen of the environment now.

    CMAKE_ARGS counts only where it is set: an engine that was built with it stays, for a shell that does not set it.
    """
    if stamp is None or found is None:
        return Work(everything=True)
    same = (stamp.python, stamp.root) == (found.python, found.root)
    current = (stamp.base, stamp.engine) == (project.base, project.engine)
    if not same or not current or not set(stamp.packages) <= set(found.packages):
        return Work(everything=True)
    missing = tuple(name for name in extras if stamp.extras.get(name) != project.hash_extra(name))
    return Work(engine=bool(user_arguments) and user_arguments != stamp.user_arguments, extras=missing)


def read_project(file: Path) -> Project:
    """Read pyproject.toml; raises Failure where the engine is not pinned in it."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    table = content["project"]
    dependencies = tuple(table["dependencies"])
    pins = [match[1] for line in dependencies if (match := re.match(rf"{ENGINE}\s*==\s*([\w.+]+)", line))]
    if not pins:
        raise Failure(f"{file.name} does not pin {ENGINE} to a version")
    base = hash_value([{key: table.get(key) for key in INSTALLED}, content["build-system"]])
    extras = {name: tuple(lines) for name, lines in table.get("optional-dependencies", {}).items()}
    return Project(base, pins[0], dependencies, extras)


def read_stamp(file: Path) -> Stamp | None:
    """Read a stamp; None where there is none that this version can read."""
    value = read_json(file)
    try:
        return Stamp(**{**value, "packages": tuple(value["packages"])}) if value else None
    except (KeyError, TypeError):
        return None


def write_stamp(file: Path, stamp: Stamp) -> None:
    """Write a stamp, whole or not at all."""
    write_json(file, asdict(stamp))


def list_packages(site: Path) -> tuple[str, ...]:
    """Names of what is installed in a site-packages folder; of the engine also the version.

    A package that the developer upgraded is no reason to make the environment anew, one that vanished is.
    """
    if not site.is_dir():
        return ()
    names = [path.stem for path in site.glob("*.dist-info")]
    own = ENGINE.replace("-", "_") + "-"
    return tuple(sorted(name if name.startswith(own) else name.rpartition("-")[0] for name in names))


def hash_value(value: object) -> str:
    """Short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file, {} where there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(file: Path, value: Mapping[str, object]) -> None:
    """Write an object, whole or not at all, and onto the disk before anything that comes after."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
