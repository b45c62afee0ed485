"""One quantization of a model as files: values. Knows nothing of where files come from or what is in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# Labels as people put them into file names: Q4_K_M, IQ4_XS, UD-Q4_K_XL, BF16, MXFP4_MOE ...
_LABEL = re.compile(
    r"(?:^|[-._ ])((?:UD-)?"
    r"(?:I?Q[1-8]_(?:[0-9]|K|NL|XX?S|S|M)(?:_(?:XXL|XL|L|M|S))?|BF16|F16|F32|MXFP4(?:_MOE)?|NVFP4))(?=$|[-._ ])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a repository of the Hub, at one commit (40 hexadecimal digits); path is the one in the repository."""

    repo_id: str
    commit: str
    path: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model, bytes; sha256 where somebody told it. name: in a repository the path in it."""

    name: str
    size: int
    origin: RemoteFile | Path
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """A quantization: its label, and its files in order, of which a split model has several."""

    quant: str
    files: tuple[ModelFile, ...]

    @property
    def path(self) -> Path:
        """The file to hand to the engine, which finds the others by their names; only of a variant that is here."""
        origin = self.files[0].origin
        assert isinstance(origin, Path), "it has to be fetched first"
        return origin

    @property
    def is_here(self) -> bool:
        """Whether its files lie on this machine."""
        return all(isinstance(file.origin, Path) for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def quant_in_name(name: str) -> str | None:
    """Return the quantization a file's name tells, the last where there are several; None where it tells none."""
    found = _LABEL.findall(name.upper())
    return found[-1] if found else None
