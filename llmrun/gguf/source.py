"""Where a header's bytes come from: so far a local file, and whether it is one worth opening."""

from __future__ import annotations

import difflib
import stat
from pathlib import Path

from llmrun.errors import GGUFError, LLMRunError, NotFoundError

MAGIC = b"GGUF"  # gguf.md, "File Structure"
_MINIMAL_SIZE = 24  # magic, version, two counts

_KNOWN_STARTS = {
    b"<!DO": "a web page: the download went wrong, fetch the file itself",
    b"<htm": "a web page: the download went wrong, fetch the file itself",
    b"PK\x03\x04": "a zip archive or a PyTorch checkpoint: look for a GGUF version of the model",
    b"vers": "a Git LFS pointer: run `git lfs pull`",
    b"\x1f\x8b": "compressed: unpack it first",
    b"ggml": "an old GGML file: look for a GGUF version of the model",
    b"ggjt": "an old GGML file: look for a GGUF version of the model",
}


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
    files = sorted(path.glob("*.gguf"))
    hint = f"did you mean `{files[0]}`?" if files else "give the path of a .gguf file"
    return NotFoundError(f"{path} is a directory, not a GGUF file", hint)


def _nearest(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix.lower() == ".gguf"]
    except OSError:
        return f"there is no directory {path.parent} either"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"did you mean `{path.parent / close[0]}`?" if close else "check the path; `llmrun chat guide` needs no file"


def _not_gguf(path: Path, start: bytes) -> LLMRunError:
    known = next((text for prefix, text in _KNOWN_STARTS.items() if start.startswith(prefix)), None)
    if known is None and b'{"' in start[8:12]:
        known = "a safetensors file: look for a GGUF version of the model"
    return GGUFError(
        f"{path} is not a GGUF file: it begins with {start[:4]!r} instead of {MAGIC!r}",
        f"it looks like {known}" if known else "give the path of a .gguf file",
    )
