"""Where a header's bytes come from: a local file or several, or whatever can give a range of bytes.

Reads as little as `parse` asks for. Must not know what the bytes mean.
"""

from __future__ import annotations

import difflib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from llmrun.errors import GGUFError, LLMRunError, NotFoundError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import MAGIC, MAX_HEADER, parse_header
from llmrun.gguf.splits import merge_splits, split_info, split_names

FIRST_READ = 1 << 20  # bytes: enough for a small vocabulary; a large one says by then how much more there must be
_T = TypeVar("_T")

_MINIMAL_SIZE = 24  # magic, version, two counts

_SEARCH = "`llmrun search NAME` finds GGUF versions of a model"
_KNOWN_STARTS = {
    b"<!DO": "a web page: the download went wrong, fetch the file itself",
    b"<htm": "a web page: the download went wrong, fetch the file itself",
    b"PK\x03\x04": f"a zip archive or a PyTorch checkpoint: {_SEARCH}",
    b"vers": "a Git LFS pointer: run `git lfs pull`",
    b"\x1f\x8b": "compressed: unpack it first",
    b"ggml": f"an old GGML file: {_SEARCH}",
    b"ggjt": f"an old GGML file: {_SEARCH}",
}


def read_header(path: Path) -> GGUFHeader:
    """Read one file's header; of a model in several files, only this part's. A path that cannot be one is an error.

    NotFoundError, or GGUFError for what is damaged, unsupported or shorter than its header says.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)

            def read(offset: int, length: int) -> bytes:
                file.seek(offset)
                return file.read(length)

            return read_header_from(read, size)
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    except GGUFError as error:
        raise GGUFError(f"{path}: {error.message}", error.hint) from error


def read_header_from(read: Callable[[int, int], bytes], size: int) -> GGUFHeader:
    """Read a header through `read(offset, length)`, which gives that many bytes of a file that has `size`.

    Nothing is read twice, and at most twice the header or FIRST_READ. GGUFError where the file is incomplete: also
    where `read` gives fewer bytes than there should be.
    """
    data = bytearray()
    wanted = FIRST_READ
    while True:
        wanted = min(wanted, size)
        data += read(len(data), wanted - len(data))
        if len(data) < wanted:
            raise _ends_inside(len(data), wanted)
        found = parse_header(data)
        if isinstance(found, GGUFHeader):
            _check_size(found, size)
            return found
        if found.n_bytes > size:
            raise _ends_inside(size, found.n_bytes)
        wanted = max(found.n_bytes, min(2 * len(data), MAX_HEADER))


def _ends_inside(size: int, needed: int) -> GGUFError:
    message = f"the file ends after {size:,} bytes, inside its header, which has at least {needed:,}"
    return GGUFError(message, "fetch the file again")


def _check_size(header: GGUFHeader, size: int) -> None:
    needed = header.data_offset + header.data_end
    if size < needed:
        message = f"the file is incomplete: it needs {needed:,} bytes and has {size:,}"
        raise GGUFError(message, "fetch the file again")


def read_model_header(path: Path) -> GGUFHeader:
    """Read a model's header: of all its parts, from any one of them, merged.

    NotFoundError or GGUFError, which names the part that is missing or wrong.
    """
    header = read_header(path)
    info = _with_path(path, lambda: split_info(header))
    if info is None:
        return header
    paths = split_paths(path)
    if len(paths) != info.count:
        hint = f"name its parts …-00001-of-{info.count:05d}.gguf and so on, in one directory"
        raise GGUFError(f"{path} is part {info.no + 1:,} of {info.count:,}, which its name does not say", hint)
    headers = [header if part == path else _read_part(part, no, info.count) for no, part in enumerate(paths, 1)]
    return _with_path(path, lambda: merge_splits(headers))


def _read_part(path: Path, no: int, count: int) -> GGUFHeader:
    try:
        return read_header(path)
    except NotFoundError as error:
        message = f"part {no} of {count} is missing: {error.message}"
        raise NotFoundError(message, "fetch it into the directory of the others") from error


def split_paths(path: Path) -> tuple[Path, ...]:
    """Return the paths of all parts of a model, the first first, by the name of one of them; else only the path."""
    names = split_names(path.name)
    return (path,) if names is None else tuple(path.with_name(name) for name in names)


def _with_path(path: Path, work: Callable[[], _T]) -> _T:
    try:
        return work()
    except GGUFError as error:
        raise GGUFError(f"{path}: {error.message}", error.hint) from error


def check_file(path: Path) -> None:
    """Raise NotFoundError or GGUFError if a path cannot be a GGUF file, with the reason a person needs."""
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise _is_directory(path)
        if not stat.S_ISREG(kind):  # a pipe would be waited for without end
            raise NotFoundError(f"{path} is not an ordinary file", "give the path of a .gguf file")
        with path.open("rb") as file:
            start = file.read(_MINIMAL_SIZE)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise NotFoundError(f"{path} is a link to {path.readlink()}, which does not exist") from error
        raise NotFoundError(f"there is no file {path}", _nearest(path)) from error
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    if not start:
        raise GGUFError(f"{path} is empty", "fetch the file again")
    if not start.startswith(MAGIC):
        raise _not_gguf(path, start)
    if len(start) < _MINIMAL_SIZE:
        raise GGUFError(f"{path} ends after {len(start)} bytes, inside its header", "fetch the file again")


def _is_directory(path: Path) -> LLMRunError:
    if files := sorted(path.glob("*.gguf")):
        return NotFoundError(f"{path} is a directory, not a GGUF file", f"did you mean `{files[0]}`?")
    hint = "give the path of a .gguf file, or of a folder that has some"
    if any(path.glob("*.safetensors")):
        hint = f"it has safetensors files, which llama.cpp does not read: {_SEARCH}"
    return NotFoundError(f"there is no GGUF file in {path}", hint)


def _nearest(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix.lower() == ".gguf"]
    except OSError:
        return f"there is no directory {path.parent} either"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"did you mean `{path.parent / close[0]}`?" if close else "check the path; the model `guide` needs no file"


def _not_gguf(path: Path, start: bytes) -> LLMRunError:
    known = next((text for prefix, text in _KNOWN_STARTS.items() if start.startswith(prefix)), None)
    if known is None and b'{"' in start[8:12]:
        known = f"a safetensors file: {_SEARCH}"
    return GGUFError(
        f"{path} is not a GGUF file: it begins with {start[:4]!r} instead of {MAGIC!r}",
        f"it looks like {known}" if known else "give the path of a .gguf file",
    )
