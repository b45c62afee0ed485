"""The bytes of one file, from servers that fail into a part that stays, until it is whole and adds up.

Knows when to go on, to ask elsewhere, to start over and to give up; must not know where the file is to lie.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from llmrun.errors import ChecksumError
from llmrun.hub.address import host_of
from llmrun.hub.failure import given_up, unreachable
from llmrun.hub.part import Part
from llmrun.hub.retries import Retries
from llmrun.hub.setback import SetbackError
from llmrun.hub.source import Source

_MAGIC = b"GGUF"  # what a model's file begins with: gguf.md
_TOLD_EVERY = 0.1  # seconds


def _nothing(*_: object) -> None: ...


@dataclass(frozen=True, slots=True)
class TransferListener:
    """Who is told of a transfer.

    checking: bytes added up and bytes that are here, before anything is asked for. progress: bytes that are here.
    retrying: what went wrong, and seconds until the next try. restarting: why everything is fetched anew.
    """

    checking: Callable[[int, int], None] = _nothing
    progress: Callable[[int], None] = _nothing
    retrying: Callable[[str, float], None] = _nothing
    restarting: Callable[[str], None] = _nothing


class Transfer:
    """One file on its way. name: as people are told; a name that ends in .gguf is a model's."""

    def __init__(self, name: str, part: Part, source: Source, retries: Retries, listener: TransferListener) -> None:
        self._name = name
        self._is_gguf = name.lower().endswith(".gguf")
        self._part = part
        self._source = source
        self._retries = retries
        self._listener = listener
        self._told_at = 0.0
        self._is_there = False  # whoever is asked, as an answer has shown

    def run(self) -> None:
        """Have the part become the file: checked, fetched, and right.

        Raises what will not pass, UnreachableError, HubError after too many setbacks in a row, DiskFullError, and
        ChecksumError where the bytes are wrong twice. What came is kept, unless it is wrong.
        """
        self._part.take_stock(self._tell_checking)
        if not self._is_a_model():
            self._restart("what is here is no GGUF file")
        self._fill()
        if self._part.is_right():
            return
        self._restart("the bytes that came are not those of the file")
        self._fill()
        if not self._part.is_right():
            self._part.restart()
            raise ChecksumError(
                f"{self._name} came with wrong bytes, twice: they do not add up to the checksum the Hub gives",
                "try another network; where HF_ENDPOINT names a mirror, unset it",
            )

    def _is_a_model(self) -> bool:
        return not self._is_gguf or self._part.begins_as(_MAGIC)

    def _restart(self, why: str) -> None:
        self._listener.restarting(why)
        self._part.restart()
        self._source.forget()

    def _fill(self) -> None:
        """Fetch what is missing, however often it takes."""
        while self._part.length < self._part.size:
            before = self._part.length
            try:
                self._receive()
            except SetbackError as setback:
                if self._part.length == before:
                    self._source.forget()  # a signature is used up, or a server is out of order: ask for another
                self._bear(setback)

    def _receive(self) -> None:
        """Fetch bytes until the server has no more, or the file is whole."""
        part, before = self._part, self._part.length
        host = host_of(self._source.location().url)
        self._is_there = True
        with self._source.opened(part.length) as pieces:
            for piece in pieces:
                self._check_magic(piece, host)
                part.append(piece[: part.size - part.length])
                self._retries.progressed()
                self._tell()
                if part.length == part.size:
                    return
        if part.length == before:
            raise SetbackError(f"{host} sent nothing")

    def _check_magic(self, piece: bytes, host: str) -> None:
        expected = _MAGIC[self._part.length :]
        if expected and self._is_gguf and not expected.startswith(piece[: len(expected)]):
            raise SetbackError(f"{host} sent what begins with {piece[:12]!r} in place of a GGUF file")

    def _tell(self) -> None:
        if self._is_time() or self._part.length == self._part.size:
            self._listener.progress(self._part.length)

    def _tell_checking(self, done: int, total: int) -> None:
        if self._is_time() or done == total:
            self._listener.checking(done, total)

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._told_at < _TOLD_EVERY:
            return False
        self._told_at = now
        return True

    def _bear(self, setback: SetbackError) -> None:
        """Wait for the next try, or raise what to tell; whoever was never there is said to be down at once."""
        if setback.unreachable and not self._is_there:
            raise unreachable(setback.reason) from setback
        if not self._retries.wait_after(setback, self._listener.retrying):
            times = self._retries.in_a_row
            raise given_up(self._name, setback, times, self._part.length, self._part.size) from setback
