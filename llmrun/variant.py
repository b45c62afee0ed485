"""One quantization of a model as files: values. Knows nothing of where files come from or what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model, bytes; sha256 where somebody told it."""

    name: str
    size: int
    origin: Path
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """A quantization: its label, and its files in order, of which a split model has several."""

    quant: str
    files: tuple[ModelFile, ...]

    @property
    def path(self) -> Path:
        """The file to hand to the engine, which finds the others by their names."""
        return self.files[0].origin

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)
