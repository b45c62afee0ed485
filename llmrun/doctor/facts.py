"""What the doctor knows when it judges: values only. Nothing is read and nothing is judged here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llmrun.engine.layouts import AmxCode
from llmrun.engine.protocol import DeviceInfo, EngineInfo
from llmrun.hardware.hardware import Hardware

Maker = Literal["pip", "uv", "pipx"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something did not work: the message, what to do if that is known, and the engine's last words."""

    message: str
    hint: str | None = None
    log: tuple[str, ...] = ()

    @property
    def is_illegal_instruction(self) -> bool:
        """Whether the engine's process died of an instruction that this processor does not have."""
        # the second is Windows' STATUS_ILLEGAL_INSTRUCTION as an exit code
        return "SIGILL" in self.message or f"exit code {0xC000001D}" in self.message


@dataclass(frozen=True, slots=True)
class MissingLibrary:
    """A shared library that one of the engine's needs and the system does not find."""

    name: str
    needed_by: str


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The installed engine, and how it does.

    info, devices: what it tells of itself; None and nothing where it does not start. installed, required: versions of
    llama-cpp-python. start, answer, gpu_answer: what went wrong when it started, answered on the CPU, and on its GPU.
    log: what it complained of when it started. amx: whether its code for AMX is there, and is whole.
    """

    info: EngineInfo | None = None
    devices: tuple[DeviceInfo, ...] = ()
    installed: str | None = None
    required: str | None = None
    start: Trouble | None = None
    answer: Trouble | None = None
    gpu_answer: Trouble | None = None
    missing: tuple[MissingLibrary, ...] = ()
    log: tuple[str, ...] = ()
    amx: AmxCode = "none"

    @property
    def gpus(self) -> tuple[DeviceInfo, ...]:
        """Those of its devices that are GPUs."""
        return tuple(device for device in self.devices if device.kind in ("GPU", "IGPU"))


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that building an engine needs; version as it says ("12.4"), None where it did not say."""

    path: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """A file in /dev through which a GPU is reached; group is whose members may open it."""

    path: str
    group: str
    usable: bool


@dataclass(frozen=True, slots=True)
class Environment:
    """The Python environment that llmrun runs in, and who made it.

    managed: the system's own Python, which pip must not change. writable: whether its packages can be replaced.
    installer: whether the program that replaces them, the maker's, is there.
    """

    maker: Maker
    prefix: Path
    python: str
    packages: Path
    managed: bool = False
    writable: bool = True
    installer: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the checks look at.

    system: as sys.platform calls it. machine: the processor's architecture. distribution: of Linux ("debian",
    "fedora", "arch"). tools: by name, only those that are there. variables: of the environment, those that change what
    the engine sees. embedded: why the embedded model cannot be used. free_disk: bytes, where models are kept.
    aside: an engine that an interrupted repair left aside.
    """

    system: str
    machine: str
    llmrun: str
    python: str
    bits: int
    hardware: Hardware
    engine: EngineFacts
    environment: Environment
    distribution: str | None = None
    container: bool = False
    tools: Mapping[str, Tool] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    files: tuple[DeviceFile, ...] = ()
    embedded: Trouble | None = None
    models_folder: Path = Path()
    free_disk: int | None = None
    aside: Path | None = None
