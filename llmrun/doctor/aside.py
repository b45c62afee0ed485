"""The installed engine's files, kept aside while another takes their place, and put back as they were.

Knows how an installed package looks on disk; not why it is replaced, or by what.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

from llmrun.errors import EngineError

_FOLDER = ".llmrun-engine-aside"  # beside the packages: the same disk, and no module's name
_COMPLETE = "complete"  # written last: without it nothing was replaced yet
_PACKAGE = "llama_cpp"
_RECORDS = "llama_cpp_python-*.dist-info"
_HALF_REMOVED = "~lama*"  # what pip renames a package to while it removes it
_SHARED = ("lib", "include", "bin", "share")  # where the engine puts files among those of others


def find_aside(packages: Path) -> Path | None:
    """Return where an earlier repair left the engine from before; None where there is no whole one."""
    folder = packages / _FOLDER
    return folder if (folder / _COMPLETE).is_file() else None


def engine_files(packages: Path) -> tuple[Path, ...]:
    """Return every file of the installed engine, relative to the packages: those it recorded, and its own folders'."""
    own = [path for pattern in (_PACKAGE, _RECORDS) for folder in packages.glob(pattern) for path in folder.rglob("*")]
    found = {path.relative_to(packages) for path in own if not path.is_dir() or path.is_symlink()}
    for record in packages.glob(f"{_RECORDS}/RECORD"):
        found |= {name for name in _recorded(record) if (packages / name).is_file()}
    return tuple(sorted(found))


def check_own(packages: Path) -> None:
    """Raise EngineError for an engine behind a link: its files are another environment's, and must stay there."""
    for folder in (folder for pattern in (_PACKAGE, _RECORDS) for folder in packages.glob(pattern)):
        if folder.is_symlink():
            raise EngineError(
                f"the engine's folder {folder} is a link, and belongs to another environment",
                "install llmrun in an environment of its own (python3 -m venv)",
            )


def size_of(packages: Path) -> int:
    """Return the bytes the installed engine takes."""
    return sum((packages / name).lstat().st_size for name in engine_files(packages))


def keep_aside(packages: Path) -> Path:
    """Copy the installed engine aside; what was half kept before is thrown away. Raises EngineError as check_own."""
    check_own(packages)
    folder = packages / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    files = folder / "files"
    files.mkdir(parents=True)
    for name in engine_files(packages):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(packages / name, files / name, follow_symlinks=False)
    (folder / _COMPLETE).write_text("\n".join(sorted(_shared_files(packages))), "utf-8", "surrogateescape")
    return folder


def put_back(packages: Path) -> None:
    """Remove the engine that is there now, and put back the one kept aside, byte for byte."""
    files = packages / _FOLDER / "files"
    before = set((packages / _FOLDER / _COMPLETE).read_text("utf-8", "surrogateescape").split("\n"))
    kept = [path for path in files.rglob("*") if not path.is_dir() or path.is_symlink()]
    # an installer that was stopped has written files and not yet recorded them
    unrecorded = [Path(name) for name in _shared_files(packages) - before]
    for name in {*engine_files(packages), *unrecorded}:
        (packages / name).unlink(missing_ok=True)
        _remove_empty((packages / name).parent, packages)
    for folder in packages.glob(_HALF_REMOVED):
        shutil.rmtree(folder, ignore_errors=True)
    for path in kept:
        place = packages / path.relative_to(files)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place, follow_symlinks=False)
    drop_aside(packages)


def drop_aside(packages: Path) -> None:
    """Throw away what was kept; the mark goes first, so that half of it is never put back."""
    (packages / _FOLDER / _COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(packages / _FOLDER, ignore_errors=True)


def _recorded(record: Path) -> Iterator[Path]:
    """The files of a RECORD that lie among the packages; one outside is nothing to be moved about."""
    with record.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.reader(file):
            path = Path(row[0]) if row and row[0] else None
            if path is not None and not path.is_absolute() and ".." not in path.parts:
                yield path


def _shared_files(packages: Path) -> set[str]:
    """Every file in the folders that the engine shares with others."""
    paths = (path for name in _SHARED for path in (packages / name).rglob("*"))
    return {path.relative_to(packages).as_posix() for path in paths if not path.is_dir() or path.is_symlink()}


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder that has become empty, and those above it, up to the packages."""
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
