"""A model on the Hub: its variants, each with the header that was read, or with the likeness of one that was.

Reads as few headers as it can: one, for a start, says what every other is like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmrun.errors import GGUFError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.likeness import likeness
from llmrun.gguf.purpose import check_writes_text
from llmrun.planning.guess import guess_variant
from llmrun.variant import ModelFile, Variant


class Reader(Protocol):
    """Who reads headers: llmrun.hub.headers.HeaderReader, or whatever does the same."""

    def read(self, files: Sequence[ModelFile]) -> GGUFHeader:
        """Return a variant's header, of all its parts."""

    def kept(self, files: Sequence[ModelFile]) -> GGUFHeader | None:
        """Return a header that costs nothing, None where it would have to be asked for."""


class RemoteModel:
    """Variants of one model, none of which is here. Raises what the reader raises, GGUFError for what cannot chat."""

    def __init__(self, variants: Sequence[Variant], reader: Reader, room: int) -> None:
        """Reads the first header. room: bytes the model may take here, to begin with the variant that will be taken."""
        self.variants = tuple(variants)
        self._reader = reader
        self._read: dict[str, GGUFHeader] = {}
        self._like: dict[str, GGUFHeader] = {}
        for variant in variants:
            if (header := reader.kept(variant.files)) is not None:
                self._take(variant, header)
        if not self._read:
            self.read(guess_variant(variants, room).quant)

    def found(self) -> tuple[tuple[Variant, GGUFHeader], ...]:
        """Return all variants with their headers."""
        return tuple((variant, self._header(variant)) for variant in self.variants)

    def is_read(self, quant: str) -> bool:
        """Return whether a variant's header is its own."""
        return quant in self._read

    def read(self, quant: str) -> None:
        """Read a variant's own header."""
        if quant not in self._read:
            variant = next(one for one in self.variants if one.quant == quant)
            self._take(variant, self._reader.read(variant.files))

    def _take(self, variant: Variant, header: GGUFHeader) -> None:
        try:
            check_writes_text(header)
        except GGUFError as error:
            raise GGUFError(f"{variant.files[0].name} cannot chat: {error.message}", error.hint) from error
        self._read[variant.quant] = header
        self._like.clear()  # there may be a nearer one now

    def _header(self, variant: Variant) -> GGUFHeader:
        quant = variant.quant
        if quant in self._read:
            return self._read[quant]
        if quant not in self._like:
            self._like[quant] = likeness(self._nearest(variant), variant.label, variant.size)
        return self._like[quant]

    def _nearest(self, variant: Variant) -> GGUFHeader:
        """Return the header of the variant nearest in size."""
        read = [one for one in self.variants if one.quant in self._read]
        return self._read[min(read, key=lambda one: abs(one.size - variant.size)).quant]
