"""The projector that lets a model see images: which file it is, where it lies, and what its header says.

Must not know how it is loaded, nor what images there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.engine.standby import Standby
from llmrun.errors import EngineError, GGUFError, LLMRunError, UsageError
from llmrun.file_name import parse_file_name
from llmrun.folders import headers_folder
from llmrun.gguf.encode import encode_header, without_arrays
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.projector import Projector, check_projector, parse_projector
from llmrun.gguf.source import read_header
from llmrun.hub.headers import HeaderReader
from llmrun.memory.engine_memory import ProjectorMemory
from llmrun.memory.projector import estimate_projector, with_largest_image
from llmrun.settings import RunSettings
from llmrun.variant import ModelFile, quant_in_name

AUTO = "auto"  # the one that belongs to the model
# A projector is small beside its model and sees worse in fewer bits: half precision is what everybody publishes, and
# 8 bits lose next to nothing.
_PREFERRED = ("F16", "BF16", "Q8_0", "F32")


@dataclass(frozen=True, slots=True)
class Eye:
    """A projector as a file, here or on the Hub, and what its header says."""

    file: ModelFile
    projector: Projector

    @property
    def path(self) -> str:
        """Where it lies, or will: until it is here its name."""
        return str(self.file.origin) if isinstance(self.file.origin, Path) else self.file.name

    @property
    def is_here(self) -> bool:
        """Whether it need not be fetched."""
        return isinstance(self.file.origin, Path)

    def check(self, base: GGUFHeader) -> None:
        """Raise GGUFError where it was not made for the model of this header."""
        try:
            check_projector(self.projector, base)
        except GGUFError as error:
            raise GGUFError(
                f"{Path(self.file.name).name} does not fit the model: {error.message}", error.hint
            ) from error


class Sight:
    """A projector on one machine: what it takes there, asked once for each place, for whatever model it sees for."""

    def __init__(self, eye: Eye, standby: Standby | None) -> None:
        """standby: whom to ask, None is arithmetic alone."""
        self.projector = eye.projector
        self._name = Path(eye.file.name).name
        self._standby = standby
        self._known: dict[str | None, ProjectorMemory] = {}

    def memory(self, device: str | None) -> ProjectorMemory:
        """Return what it takes on a device, None the host; raises GGUFError for one that the engine refuses."""
        if device not in self._known:
            self._known[device] = self._ask(device)
        return self._known[device]

    def _ask(self, device: str | None) -> ProjectorMemory:
        standby, header = self._standby, without_arrays(self.projector.header)
        if standby is not None:
            before = standby.n_deaths
            settings = RunSettings(
                devices=() if device is None else (device,), n_gpu_layers=0 if device is None else None
            )
            try:
                found = standby.ask_projector(encode_header(header), header.file_size, settings)
                return with_largest_image(self.projector, found)
            except GGUFError as error:
                raise GGUFError(f"{self._name} cannot be used: {error.message}", error.hint) from error
            except EngineError as error:
                if standby.n_deaths > before:
                    raise GGUFError(f"the engine dies of {self._name}: it may be damaged", "fetch it again") from error
        return estimate_projector(self.projector, on_device=device is not None)


def choose_projector(files: Sequence[ModelFile]) -> ModelFile | None:
    """Return the file to take of several, F16 before BF16 before Q8_0 before what else there is; None of none."""

    def rank(file: ModelFile) -> tuple[int, int, str]:
        label = quant_in_name(file.name) or ""
        return (_PREFERRED.index(label) if label in _PREFERRED else len(_PREFERRED), -file.size, file.name)

    return min(files, key=rank, default=None)


def projectors_beside(path: Path) -> tuple[ModelFile, ...]:
    """Return the projectors in the folder of a model, or in a folder itself, by what their headers say."""
    folder = path if path.is_dir() else path.parent
    found: list[ModelFile] = []
    with contextlib.suppress(OSError):
        for file in sorted(folder.glob("*.gguf")):
            if parse_file_name(file.name).kind != "mmproj":
                continue
            with contextlib.suppress(LLMRunError):
                parse_projector(read_header(file))
                found.append(ModelFile(file.name, file.stat().st_size, file.absolute()))
    return tuple(found)


def open_projector(
    wish: str, beside: Callable[[], Sequence[ModelFile]], model: str, slow: Callable[[str], None]
) -> Eye:
    """Return the projector that is wished for: a path, or AUTO for the one among those beside the model.

    model: what the user called it. slow: told a host that takes long to answer. Raises UsageError where there is none,
    NotFoundError or GGUFError for a file that is none, HubError and its children for a header that does not come.
    """
    file = _given(wish) if wish != AUTO else choose_projector(beside())
    if file is None:
        raise UsageError(
            f"{model} cannot see images: no mmproj file is beside it",
            "`llmrun search` finds models that can, such as gemma-3 or qwen2.5-vl",
        )
    try:
        header = read_header(file.origin) if isinstance(file.origin, Path) else _read_remote(file, slow)
        return Eye(file, parse_projector(header))
    except GGUFError as error:
        raise GGUFError(f"{Path(file.name).name} cannot show images: {error.message}", error.hint) from error


def _given(path: str) -> ModelFile:
    try:
        absolute = Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"there is no home directory for {path}", "give the whole path") from error
    size = 0
    with contextlib.suppress(OSError):  # who reads the header says what is wrong with it
        size = absolute.stat().st_size if absolute.is_file() else 0
    return ModelFile(absolute.name, size, absolute)


def _read_remote(file: ModelFile, slow: Callable[[str], None]) -> GGUFHeader:
    return HeaderReader(headers_folder(), slow=slow).read((file,))
