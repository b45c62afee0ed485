"""The vault: states of conversations, so that one that is resumed need not be read again.

A file for each conversation, in a folder of the user's cache that only they may enter. Bounded; what was used longest
ago goes first. Nothing here is ever needed: whatever is missing, stale, damaged or not as private as it was made is
read again, and what cannot be kept is not kept.

A file is a page with a header, then what the engine wrote. The header has the sha256 of the rest, which the engine
looks at in the very memory that llama.cpp then reads: a sum made here, of a file that is opened again there, would be
the sum of another reading, and would cost the time twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engine.build import engine_id
from llmrun.errors import LLMRunError
from llmrun.folders import states_folder
from llmrun.settings import RunSettings
from llmrun.state_files import HEADER_BYTES, MOST_BYTES, StateFolder

if TYPE_CHECKING:
    from llmrun.engine.answering import AnsweringEngine

_MAGIC = "llmrun state 1"
_SUFFIX = ".state"

# What changes neither the state's form nor, beyond the rounding that another batch size makes as well, its content.
_NO_MATTER = frozenset(
    [
        "n_outputs_max",
        "n_draft_max",
        "draft",
        "n_batch",
        "n_ubatch",
        "n_gpu_layers",
        "tensor_split",
        "cpu_experts",
        "load_mode",
        "repack",
        "n_threads",
        "n_threads_batch",
        "affinity",
    ]
)


def state_key(files: Iterable[Path], settings: RunSettings) -> str | None:
    """Name what a state can be used with: these files, this engine, these settings. None where a file is gone.

    files: all that what is in memory depends on: every part of the model, adapters, projector. A file is told from
    another by device, inode, size and both its times, as git does (gitformat-index): no program sets the time of the
    last change of an inode, so that writing into it, or another in its place, is noticed without reading gigabytes.
    """
    settled = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in _NO_MATTER}
    try:
        identities = [_identity(path) for path in files]
    except OSError:
        return None
    about = {"engine": engine_id(), "files": identities, "settings": repr(sorted(settled.items()))}
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Header:
    """What a state file says of itself.

    conversation: sha256 of its id. size: bytes behind the header, of which sha256 is the sum.
    """

    key: str
    conversation: str
    n_tokens: int
    size: int
    sha256: str

    def encode(self) -> bytes:
        """Return the header's bytes, HEADER_BYTES of them."""
        return f"{_MAGIC}\n{json.dumps(asdict(self))}\n".encode().ljust(HEADER_BYTES, b"\0")


def parse_header(data: bytes) -> Header | None:
    """Return the header that a file begins with; None where it begins otherwise."""
    magic, _, rest = data.partition(b"\n")
    try:
        found = json.loads(rest.partition(b"\n")[0])
        header = Header(**found)
    except (ValueError, TypeError, RecursionError):  # the last: a page of brackets
        return None
    texts = all(isinstance(text, str) for text in (header.key, header.conversation, header.sha256))
    numbers = all(type(number) is int and number > 0 for number in (header.n_tokens, header.size))
    return header if magic == _MAGIC.encode() and texts and numbers else None


class Vault:
    """The states of one user's conversations. folder: None is the user's own; most: bytes, all together."""

    def __init__(self, folder: Path | None = None, most: int = MOST_BYTES) -> None:
        self._files = StateFolder(folder or states_folder(), _SUFFIX, most)

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._files.path

    def keep(self, engine: AnsweringEngine, conversation: str, key: str | None) -> int:
        """Keep what an engine holds in memory for a conversation; return how many tokens, 0 where nothing was kept.

        key: `state_key`'s; None keeps nothing. Takes some seconds for each GiB, so it is for the end of a chat and not
        a turn. Never raises for want of anything.
        """
        if key is None or not self._files.enter(make=True):
            return 0
        part = self._files.begin(_stem(conversation))
        if part is None:
            return 0
        try:
            return self._fill(part, engine, conversation, key)
        except (OSError, LLMRunError):
            return 0
        finally:
            part.unlink(missing_ok=True)

    def restore(self, engine: AnsweringEngine, conversation: str, key: str | None) -> int:
        """Give an engine back what was kept of a conversation; return how many tokens it now holds, 0 for none.

        A file that is not whole, or not private, is removed. Raises what the worker's death raises: the state is then
        removed too, so that it is not the next worker's death.
        """
        path = self._files.file(_stem(conversation))
        if key is None or not self._files.enter():
            return 0
        header = self._read_header(path)
        if header is None:
            self.forget(conversation)
            return 0
        if header.key != key or header.conversation != _digest(conversation):
            return 0
        n_tokens = 0
        try:
            n_tokens = engine.restore_state(path, HEADER_BYTES, header.size, header.sha256)
        finally:
            if n_tokens == 0:
                self.forget(conversation)
        self._files.use(path)
        return n_tokens

    def forget(self, conversation: str) -> None:
        """Remove what was kept of a conversation."""
        if self._files.enter():
            self._files.remove(self._files.file(_stem(conversation)))

    def clear(self) -> tuple[int, int]:
        """Remove all states; return how many, and how many bytes they took."""
        return self._files.clear()

    def held(self) -> int:
        """Return how many bytes the states take."""
        return self._files.held()

    def _fill(self, part: Path, engine: AnsweringEngine, conversation: str, key: str) -> int:
        most = self._files.room()
        self._files.evict(most)  # first, so that old states and the new one are never twice what is allowed
        saved = engine.save_state(part, HEADER_BYTES, most - HEADER_BYTES)
        if saved.n_tokens == 0:
            return 0
        header = Header(key, _digest(conversation), saved.n_tokens, saved.size, saved.sha256)
        self._files.finish(part, header.encode(), self._files.file(_stem(conversation)))
        self._files.evict(most)
        return saved.n_tokens

    def _read_header(self, path: Path) -> Header | None:
        """Return a file's header, if the file is one that we made, and whole."""
        found = self._files.read(path, HEADER_BYTES)
        header = None if found is None else parse_header(found[0])
        if found is None or header is None or HEADER_BYTES + header.size != found[1]:
            return None
        return header


def _digest(conversation: str) -> str:
    return hashlib.sha256(conversation.encode("utf-8", "backslashreplace")).hexdigest()


def _stem(conversation: str) -> str:
    return _digest(conversation)[:32]
