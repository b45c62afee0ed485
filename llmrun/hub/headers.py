"""Headers of files on the Hub, read over HTTP: as much of a file as its header takes, and that once.

Of a second file of the same model only the list of tensors is read, where its metadata turns out to be as long: that
the file is then exactly as large as its tensors say is the proof.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from llmrun.errors import GGUFError, LLMRunError
from llmrun.gguf.encode import encode_tensor
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.splits import merge_splits
from llmrun.gguf.stored import format_stored, parse_stored
from llmrun.hub.client import Hub, this_hub
from llmrun.hub.failure import given_up, unreachable
from llmrun.hub.retries import Retries
from llmrun.hub.setback import SetbackError
from llmrun.hub.source import Source
from llmrun.variant import ModelFile

_T = TypeVar("_T")

_MOST = 16 << 20  # bytes asked for at a time: the largest header known has 15.8 MB
_FIRST = 1 << 19  # bytes before it is first looked whether the header is whole; parsing MiBs costs 10 ms each
_MOST_KEPT = 512  # headers; some 100 KiB each, the oldest go first
_ELSEWHERE = "look for another repository of the model: `llmrun search NAME`"


class HeaderReader:
    """Reads headers. folder: where they are kept by their files' sha256, None is nowhere.

    hub: who is asked, None is the one the environment names. slow: told a host that takes long to answer.
    """

    def __init__(
        self,
        folder: Path | None = None,
        hub: Hub | None = None,
        slow: Callable[[str], None] = lambda _: None,
        retries: Callable[[], Retries] = Retries,
    ) -> None:
        self._folder = folder
        self._hub = hub
        self._slow = slow
        self._retries = retries
        self._known: tuple[GGUFHeader, bytes] | None = None  # one that was read, and its bytes before the tensors

    def read(self, files: Sequence[ModelFile]) -> GGUFHeader:
        """Return a variant's header, of all its parts; two requests for each part that is not known.

        Raises GGUFError for what is damaged, HubError and its children for what does not come.
        """
        # a second part has other metadata and other tensors than any first: it is not tried by the known one
        headers = [self._read_part(file, is_first=no == 0) for no, file in enumerate(files)]
        if len(headers) == 1:
            return headers[0]
        try:
            return merge_splits(headers)
        except GGUFError as error:
            raise _damaged(files[0], error.message) from error

    def kept(self, files: Sequence[ModelFile]) -> GGUFHeader | None:
        """Return a header that is known without a request, None where one would be needed."""
        if any(self._stored(file) is None for file in files):
            return None
        return self.read(files)

    def _read_part(self, file: ModelFile, *, is_first: bool) -> GGUFHeader:
        if (stored := self._stored(file)) is not None:
            return stored
        if self._hub is None:
            self._hub = this_hub()
        source = Source(self._hub, file, self._slow)
        header = self._persisting(lambda _: self._read_tensors(file, source), file, source) if is_first else None
        if header is None:
            data = bytearray()
            header = self._persisting(lambda retries: _grown(data, file, source, retries), file, source)
            if is_first:
                self._remember(header, data)
        _check_size(header, file)
        self._keep(file, header)
        return header

    def _persisting(self, work: Callable[[Retries], _T], file: ModelFile, source: Source) -> _T:
        """Do what may fail and not fail at the next try; whoever does not answer at all is said to be down at once."""
        retries = self._retries()
        while True:
            try:
                return work(retries)
            except SetbackError as setback:
                if setback.unreachable:
                    raise unreachable(setback.reason) from setback
                if not retries.wait_after(setback, lambda *_: self._slow(source.host)):
                    raise given_up(file.name, setback, retries.in_a_row, 0, file.size) from setback
                source.forget()

    def _read_tensors(self, file: ModelFile, source: Source) -> GGUFHeader | None:
        """Return the header if it differs from the known one in nothing but types and sizes; None where it does."""
        if self._known is None:
            return None
        known, before = self._known
        if file.size < known.data_offset:
            return None
        data = bytearray(before)
        with source.opened(len(before), known.data_offset) as pieces:
            for piece in pieces:
                data += piece
                if len(data) >= known.data_offset:
                    break
        with contextlib.suppress(GGUFError):
            found = parse_header(data)
            if isinstance(found, GGUFHeader) and _is_alike(found, known) and _ends_with(found, file.size):
                return _without_type(found)
        return None

    def _remember(self, header: GGUFHeader, data: bytearray) -> None:
        if header.tensors:
            start = data.rfind(encode_tensor(header.tensors[0]), 0, header.data_offset)
            self._known = (header, bytes(data[:start]))

    def _stored(self, file: ModelFile) -> GGUFHeader | None:
        if self._folder is None or file.sha256 is None:
            return None
        path = self._folder / f"{file.sha256}.json"
        with contextlib.suppress(OSError, ValueError):
            found = parse_stored(path.read_bytes())
            path.touch()  # what is used is not among the oldest
            return found
        return None

    def _keep(self, file: ModelFile, header: GGUFHeader) -> None:
        """Keep a header, whole or not at all; a folder that cannot be written costs requests, and is no failure."""
        if self._folder is None or file.sha256 is None:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as part:
                part.write(format_stored(header))
            Path(part.name).replace(self._folder / f"{file.sha256}.json")
            kept = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
            for old in kept[:-_MOST_KEPT]:
                old.unlink()


def _grown(data: bytearray, file: ModelFile, source: Source, retries: Retries) -> GGUFHeader:
    """Read on until the header is whole; what has come is in `data` whatever happens."""
    wanted = max(_FIRST, len(data) + 1)
    while True:
        before = len(data)
        with source.opened(before, min(file.size, before + _MOST)) as pieces:
            for piece in pieces:
                data += piece
                retries.progressed()
                if len(data) < min(wanted, file.size):
                    continue
                found = _parsed(data, file)
                if isinstance(found, GGUFHeader):
                    return found
                wanted = max(found, len(data) + len(data) // 8)
        if len(data) == before:
            raise SetbackError(f"the header of {file.name} breaks off after {before:,} bytes")


def _parsed(data: bytearray, file: ModelFile) -> GGUFHeader | int:
    """Return the header, or how many bytes it has at least; raises GGUFError where it is none."""
    try:
        found = parse_header(data)
    except GGUFError as error:
        raise _damaged(file, error.message) from error
    if isinstance(found, GGUFHeader):
        return found
    if found.n_bytes > file.size:
        raise _damaged(file, f"it ends after {file.size:,} bytes, inside its header")
    return found.n_bytes


def _check_size(header: GGUFHeader, file: ModelFile) -> None:
    needed = header.data_offset + header.data_end
    if needed > file.size:
        raise _damaged(file, f"it is incomplete on the Hub: it needs {needed:,} bytes and has {file.size:,}")


def _damaged(file: ModelFile, why: str) -> LLMRunError:
    return GGUFError(f"{file.name}: {why}", _ELSEWHERE)


def _is_alike(found: GGUFHeader, known: GGUFHeader) -> bool:
    names = [(tensor.name, tensor.shape) for tensor in found.tensors]
    return found.data_offset == known.data_offset and names == [(one.name, one.shape) for one in known.tensors]


def _ends_with(header: GGUFHeader, size: int) -> bool:
    """Whether a file of this size ends where its tensors do, the last one's padding written or not."""
    return size in (header.data_offset + header.data_end, header.file_size)


def _without_type(header: GGUFHeader) -> GGUFHeader:
    """Return the header without the label in its metadata, which is the other file's."""
    metadata = {key: entry for key, entry in header.metadata.items() if key != "general.file_type"}
    return replace(header, metadata=MappingProxyType(metadata))
