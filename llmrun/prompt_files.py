"""States of prompts in files: what models had read of long texts, to be read once and not at every run.

A file is a page with a header, the tokens of the prompt, then what the engine wrote. Its name begins with the key of
what it can be used with, so that other models' files are not opened. Tokens are compared before the file's sum is: they
only choose a file. What of it the engine then takes is looked at by the engine, in the very memory that it reads.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.errors import LLMRunError
from llmrun.folders import prompts_cache_folder
from llmrun.state_files import HEADER_BYTES, MOST_OF_DISK, StateFolder

# Four files of 8,000 tokens with a 0.6B model at f16 (112 KiB a token), or of 6,000 with an 8B one (144 KiB).
MOST_BYTES = 4 << 30
# Who wishes for more may have it, up to this part of what would be free on the disk without them.
_MOST_OF_DISK_WISHED = 1 / 2
# Fewer tokens are not worth a file: some two seconds of reading with a 0.6B model on two cores.
LEAST_TOKENS = 256

if TYPE_CHECKING:
    from llmrun.engine.client import Engine

_MAGIC = "llmrun prompt 1"
_SUFFIX = ".prompt"
_NAME_OF_KEY = 16  # characters
_TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    n_tokens: of the prompt, which follow. size: bytes of the engine's, of which sha256 is the sum. save_seconds: what
    writing them took, as reading them will; token_seconds: what reading a token of the prompt took.
    """

    key: str
    n_tokens: int
    size: int
    sha256: str
    save_seconds: float
    token_seconds: float

    def encode(self) -> bytes:
        """Return the header's bytes, HEADER_BYTES of them."""
        return f"{_MAGIC}\n{json.dumps(asdict(self))}\n".encode().ljust(HEADER_BYTES, b"\0")

    @property
    def offset(self) -> int:
        """The byte from which on all is the engine's: behind the tokens, at the next page."""
        return _offset(self.n_tokens)

    def gain(self, n_tokens: int) -> float:
        """Return how many seconds are won by taking the file back, rather than reading so many of its tokens."""
        return n_tokens * self.token_seconds - self.save_seconds


def parse_header(data: bytes) -> Header | None:
    """Return the header that a file begins with; None where it begins otherwise."""
    magic, _, rest = data.partition(b"\n")
    try:
        header = Header(**json.loads(rest.partition(b"\n")[0]))
    except (ValueError, TypeError, RecursionError):  # the last: a page of brackets
        return None
    texts = all(isinstance(text, str) for text in (header.key, header.sha256))
    numbers = all(type(number) is int and number > 0 for number in (header.n_tokens, header.size))
    seconds = (header.save_seconds, header.token_seconds)
    times = all(type(second) in (int, float) and math.isfinite(second) and second >= 0 for second in seconds)
    return header if magic == _MAGIC.encode() and texts and numbers and times else None


def common_beginning(one: bytes, other: bytes) -> int:
    """Return how many first tokens two rows of them have in common: by halves, as comparing bytes costs nothing."""
    low, high = 0, min(len(one), len(other)) // _TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if one[low * _TOKEN_BYTES : middle * _TOKEN_BYTES] == other[low * _TOKEN_BYTES : middle * _TOKEN_BYTES]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True)
class Found:
    """A file whose prompt begins as the one that is to be read: in so many tokens."""

    path: Path
    header: Header
    n_common: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it has to be cut off."""
        return self.n_common == self.header.n_tokens


class PromptFiles:
    """The states of one user's prompts. folder: None is the user's own; most: bytes all together, None is our choice.

    Nothing here is ever needed: what is missing, stale, damaged or not as private as it was made is read again, and
    what cannot be kept is not kept.
    """

    def __init__(self, folder: Path | None = None, most: int | None = None) -> None:
        wished, part = (MOST_BYTES, MOST_OF_DISK) if most is None else (most, _MOST_OF_DISK_WISHED)
        self._files = StateFolder(folder or prompts_cache_folder(), _SUFFIX, wished, part)

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._files.path

    def find(self, key: str, tokens: Sequence[int], n_ctx: int, *, can_cut: bool) -> Found | None:
        """Return the file that saves most of the reading of a prompt; None where none saves any.

        n_ctx: more tokens are not to be had back. can_cut: whether a longer state than is wanted can be cut, up to the
        prompt's last token, which is read again in any case.
        """
        if not self._files.enter():
            return None
        usable = (
            found
            for found in self._begun_alike(key, tokens)
            if found.header.n_tokens <= n_ctx and (can_cut or (found.is_whole and found.n_common < len(tokens)))
        )
        best = max(usable, key=lambda found: found.header.gain(found.n_common), default=None)
        return None if best is None or best.header.gain(best.n_common) <= 0 else best

    def covered(self, key: str, tokens: Sequence[int], *, can_cut: bool) -> int:
        """Return how many first tokens of a prompt some file has, whether or not taking them back is worth it."""
        found = self._begun_alike(key, tokens) if self._files.enter() else iter(())
        return max((one.n_common for one in found if can_cut or one.is_whole), default=0)

    def restore(self, engine: Engine, found: Found) -> int:
        """Give an engine what was kept; return how many tokens it now holds, 0 for none.

        A file that is not what it says is removed, and so is one that the worker died of: that raises.
        """
        n_tokens = 0
        header = found.header
        try:
            n_tokens = engine.restore_state(found.path, header.offset, header.size, header.sha256)
        finally:
            if n_tokens == 0:
                self._files.remove(found.path)
        self._files.use(found.path)
        return n_tokens

    def keep(self, engine: Engine, key: str, tokens: Sequence[int], token_seconds: float) -> int:
        """Keep what an engine holds of a prompt, which is all that it holds from here on; return bytes, 0 for nothing.

        token_seconds: what reading a token took. Files that are the beginning of this one are not needed any more.
        Never raises for want of anything.
        """
        if not self._files.enter(make=True):
            return 0
        stem = f"{key[:_NAME_OF_KEY]}-{hashlib.sha256(pack(tokens)).hexdigest()[:32]}"
        part = self._files.begin(stem)
        if part is None:
            return 0
        try:
            return self._fill(part, engine, key, tokens, token_seconds)
        except (OSError, LLMRunError):
            return 0
        finally:
            part.unlink(missing_ok=True)

    def clear(self) -> tuple[int, int]:
        """Remove all; return how many, and how many bytes they took."""
        return self._files.clear()

    def held(self) -> int:
        """Return how many bytes all take."""
        return self._files.held()

    def _fill(self, part: Path, engine: Engine, key: str, tokens: Sequence[int], token_seconds: float) -> int:
        most, offset, started = self._files.room(), _offset(len(tokens)), time.perf_counter()
        self._files.evict(most)  # first, so that old ones and the new one are never twice what is allowed
        saved = engine.save_state(part, offset, most - offset, tuple(tokens))
        if saved.n_tokens == 0:
            return 0
        seconds = time.perf_counter() - started
        header = Header(key, len(tokens), saved.size, saved.sha256, round(seconds, 6), round(token_seconds, 9))
        stem = part.name.rpartition("-")[0]
        covered = [found.path for found in self._begun_alike(key, tokens) if found.is_whole]
        self._files.finish(part, header.encode() + pack(tokens), self._files.file(stem))
        for path in covered:
            if path != self._files.file(stem):
                self._files.remove(path)
        self._files.evict(most)
        return offset + saved.size

    def _begun_alike(self, key: str, tokens: Sequence[int]) -> Iterator[Found]:
        """Yield each file of this key that begins as the prompt does; remove those that are none."""
        packed = pack(tokens)
        for name in [name for name in self._files.sizes() if name.startswith(key[:_NAME_OF_KEY])]:
            path = self._files.path / name
            if (header := self._read_header(path)) is None:
                self._files.remove(path)
            elif header.key == key and (read := self._files.read(path, header.offset)) is not None:
                theirs = read[0][HEADER_BYTES : HEADER_BYTES + header.n_tokens * _TOKEN_BYTES]
                if n_common := common_beginning(packed, theirs):
                    yield Found(path, header, n_common)

    def _read_header(self, path: Path) -> Header | None:
        """Return a file's header, if the file is one that we made, and whole."""
        found = self._files.read(path, HEADER_BYTES)
        header = None if found is None else parse_header(found[0])
        if found is None or header is None or header.offset + header.size != found[1]:
            return None
        return header


def pack(tokens: Sequence[int]) -> bytes:
    """Return tokens as the bytes that are compared."""
    return array("i", tokens).tobytes()


def _offset(n_tokens: int) -> int:
    return HEADER_BYTES + -(-n_tokens * _TOKEN_BYTES // HEADER_BYTES) * HEADER_BYTES
