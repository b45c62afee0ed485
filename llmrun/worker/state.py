"""A context's state in a file: what llama.cpp holds, behind the tokens and the text it stands for.

The file's bytes are mapped, not read: llama.cpp writes its state where the file is, and takes it from there, so that a
state of half a gigabyte needs no second half in memory. Whether they are the right bytes is found over the same mapping
that llama.cpp is given: no other file can come between, and who writes into this one meanwhile is its owner, who could
write into this process as well. Not compressed: of an f16 cache zlib takes away 9 %, at a tenth of the speed of a disk.

Layout, from an offset on: length of the record (8 bytes, little endian), the record as JSON, zeros up to a multiple of
64, llama.cpp's state (llama_state_seq_get_data, which tells only the version of its own layout, not the model).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from llmrun.errors import EngineError
from llmrun.worker.prompt import Prompt

_LENGTH_BYTES, _ALIGNMENT = 8, 64
_ZEROS = bytes(1 << 20)


class Memory(Protocol):
    """What has a state: `worker.llama.Context`."""

    def state_size(self) -> int:
        """Return how many bytes it has."""

    def get_state(self, buffer: ctypes.Array[ctypes.c_uint8]) -> bool:
        """Copy it out; False where that cannot be."""

    def set_state(self, buffer: ctypes.Array[ctypes.c_uint8]) -> bool:
        """Take it in; False where it is no state of this memory."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a state stands for: the tokens in the memory, and the conversation that an encoder remembers (`Prompt`)."""

    past: tuple[int, ...]
    text: str
    tokens: tuple[int, ...]
    written: tuple[int, int] = (0, 0)

    @property
    def prompt(self) -> Prompt:
        """The conversation, for the encoder."""
        return Prompt(self.text, self.tokens, written=self.written)


def save(path: Path, offset: int, limit: int, record: Record, memory: Memory) -> tuple[int, str] | None:
    """Write a state into a file that is there; return its bytes from the offset on and their sha256.

    None where they would be more than limit. Raises EngineError where the file cannot be written.
    """
    head = _head(record)
    n_state = memory.state_size()
    size = len(head) + n_state
    if size > limit:
        return None
    try:
        with _mapped(path, offset + size, write=True) as mapping:
            mapping[offset : offset + len(head)] = head
            if not memory.get_state((ctypes.c_uint8 * n_state).from_buffer(mapping, offset + len(head))):
                raise EngineError("llama.cpp could not save the state of the conversation")
            return size, _sha256(mapping, offset)
    except OSError as error:
        raise EngineError(f"the state of the conversation could not be kept: {error.strerror}") from error


def restore(path: Path, offset: int, size: int, sha256: str, memory: Memory) -> Record | None:
    """Give a file's state to llama.cpp, if it is that of this size and sha256; None where it is not, or was refused.

    Before the sum is right nothing of the file is looked at, by us or by llama.cpp.
    """
    # a file that is gone or was cut, and a record that is none: ValueError of json and of an empty file too
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError), _mapped(path, offset + size) as mapping:
        if _sha256(mapping, offset) != sha256:
            return None
        length = int.from_bytes(mapping[offset : offset + _LENGTH_BYTES], "little")
        record = _parse_record(mapping[offset + _LENGTH_BYTES : offset + _LENGTH_BYTES + length])
        n_head = _aligned(_LENGTH_BYTES + length)
        if memory.set_state((ctypes.c_uint8 * (size - n_head)).from_buffer(mapping, offset + n_head)):
            return record
    return None


def _head(record: Record) -> bytes:
    text = json.dumps(asdict(record)).encode()
    head = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    return head.ljust(_aligned(len(head)), b"\0")


def _parse_record(data: bytes) -> Record:
    found = json.loads(data)
    n_characters, n_tokens = map(int, found["written"])
    past, tokens = tuple(map(int, found["past"])), tuple(map(int, found["tokens"]))
    return Record(past, str(found["text"]), tokens, (n_characters, n_tokens))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _sha256(mapping: mmap.mmap, offset: int) -> str:
    with memoryview(mapping) as whole, whole[offset:] as ours:
        return hashlib.sha256(ours).hexdigest()


@contextlib.contextmanager
def _mapped(path: Path, size: int, *, write: bool = False) -> Iterator[mmap.mmap]:
    """Map a file of exactly this size, or make it that size; raises OSError or ValueError where that cannot be.

    What is only read is mapped privately, because ctypes wants memory that could be written; nobody does.
    """
    flags = (os.O_RDWR if write else os.O_RDONLY) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        if write:
            _allocate(descriptor, size)
        if os.fstat(descriptor).st_size != size:
            raise ValueError(f"{path} has not {size} bytes")
        access = mmap.ACCESS_WRITE if write else mmap.ACCESS_COPY
        with mmap.mmap(descriptor, size, access=access) as mapping:
            yield mapping
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size: int) -> None:
    """Give a file its blocks now: a full disk is an OSError here, and would be a SIGBUS at the mapping."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        os.ftruncate(descriptor, size)
        return
    for start in range(os.lseek(descriptor, 0, os.SEEK_END), size, len(_ZEROS)):
        os.write(descriptor, _ZEROS[: size - start])
    os.ftruncate(descriptor, size)
