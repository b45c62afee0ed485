"""Which shared libraries the engine's own need and do not find, by the system's word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from llmrun.doctor.facts import MissingLibrary
from llmrun.hardware.processes import ask_program, find_program


def read_missing_libraries(folder: Path) -> tuple[MissingLibrary, ...]:
    """Ask ldd about each library of the engine; nothing where there is no ldd, as on macOS and Windows."""
    program = find_program("ldd")
    # one of each: a wheel holds a copy under every name a link would have had
    libraries = sorted({path.name.split(".so")[0]: path for path in sorted(folder.glob("lib*.so*"))}.values())
    if program is None or not libraries:
        return ()
    said = ask_program([program, *map(str, libraries)], seconds=10)
    return parse_ldd(said.out, libraries[0].name)


def parse_ldd(text: str, only: str = "") -> tuple[MissingLibrary, ...]:
    """Understand ldd's lines "libcuda.so.1 => not found"; `only` is whose they are where it names no file."""
    found: dict[str, MissingLibrary] = {}
    owner = only
    for line in text.splitlines():
        head = re.match(r"^(\S.*):$", line)
        if head:
            owner = Path(head[1]).name
        missing = re.match(r"^\s+(\S+) => not found", line)
        if missing:
            found.setdefault(missing[1], MissingLibrary(missing[1], owner))
    return _without_own(found.values(), text)


def _without_own(missing: Iterable[MissingLibrary], text: str) -> tuple[MissingLibrary, ...]:
    """Leave out the engine's own libraries, which are loaded before those that need them."""
    own = {Path(line[:-1]).name.split(".so")[0] for line in text.splitlines() if line.endswith(":")}
    return tuple(library for library in missing if library.name.split(".so")[0] not in own)
