"""Reads what the doctor wants to know: the engine is tried out in processes of its own, whose death is a fact too."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

from llmrun import __version__
from llmrun.doctor.aside import find_aside
from llmrun.doctor.environment import installed_engine, read_environment, required_engine
from llmrun.doctor.facts import DeviceFile, EngineFacts, Environment, Facts, Trouble
from llmrun.doctor.libraries import read_missing_libraries
from llmrun.doctor.toolchain import read_distribution, read_tools
from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.layouts import amx_code
from llmrun.engine.protocol import DeviceList, Generate
from llmrun.errors import LLMRunError, WorkerDiedError
from llmrun.folders import answers_folder
from llmrun.gguf.source import read_model_header
from llmrun.hardware.detect import detect, usable
from llmrun.message import Message
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings

# Those that change what the engine sees or how it runs; no other variable is looked at, so none can be told.
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"),
    *("ONEAPI_DEVICE_SELECTOR", "ONEAPI_ROOT", "HSA_OVERRIDE_GFX_VERSION", "VK_DRIVER_FILES", "VK_ICD_FILENAMES"),
    *("CMAKE_ARGS", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "VULKAN_SDK", "LD_LIBRARY_PATH"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GGML_CUDA_ENABLE_UNIFIED_MEMORY"),
)
_DEVICE_FILES = ("dev/nvidia[0-9]*", "dev/nvidiactl", "dev/kfd", "dev/dri/renderD*", "dev/dxg")
_TRIAL = RunSettings(n_ctx=256, n_gpu_layers=0, devices=(), n_threads=1, n_threads_batch=1)
_QUESTION = Generate((Message("user", "hi"),), Sampling(temperature=0), max_tokens=1)


def read_facts() -> Facts:
    """Look at everything; around a second, most of it the engine's own start."""
    log: list[str] = []
    engine = Engine(log.append)  # it starts while the rest is looked at
    try:
        environment = read_environment()
        tools = read_tools()
        found, start = _look(engine)
        embedded, guide = _read_embedded()
        answer = None if start or guide is None else try_answer(guide, (), engine)
    finally:
        engine.close()
    devices = found.devices if found else ()
    return Facts(
        system=sys.platform,
        machine=platform.machine(),
        llmrun=__version__,
        python=platform.python_version(),
        bits=struct.calcsize("P") * 8,
        hardware=detect(devices),
        engine=_engine_facts(environment, found, start, answer, guide, tuple(log)),
        environment=environment,
        distribution=read_distribution(),
        container=is_container(),
        tools=tools,
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        files=read_device_files(),
        embedded=embedded,
        models_folder=(folder := _existing(answers_folder().parent)),
        free_disk=shutil.disk_usage(folder).free,
        aside=find_aside(environment.packages),
    )


def read_engine(environment: Environment) -> EngineFacts:
    """Look at the engine alone, in a new process: after a repair."""
    log: list[str] = []
    with Engine(log.append) as engine:
        found, start = _look(engine)
        _, guide = _read_embedded()
        answer = None if start or guide is None else try_answer(guide, (), engine)
    return _engine_facts(environment, found, start, answer, guide, tuple(log))


def _engine_facts(
    environment: Environment,
    found: DeviceList | None,
    start: Trouble | None,
    answer: Trouble | None,
    guide: Path | None,
    log: tuple[str, ...],
) -> EngineFacts:
    devices = found.devices if found else ()
    gpus = tuple(device.id for device in usable(devices))
    info = found.engine if found else None
    folder = Path(info.folder) if info else environment.packages / "llama_cpp" / "lib"
    return EngineFacts(
        info=info,
        devices=devices,
        installed=installed_engine(),
        required=required_engine(),
        start=start,
        answer=answer,
        gpu_answer=try_answer(guide, gpus) if gpus and guide is not None else None,
        missing=read_missing_libraries(folder),
        log=log,
        amx=amx_code(folder),
    )


def _look(engine: Engine) -> tuple[DeviceList | None, Trouble | None]:
    try:
        return engine.look(), None
    except LLMRunError as error:
        return None, trouble_of(error)


def try_answer(guide: Path, devices: tuple[str, ...], engine: Engine | None = None) -> Trouble | None:
    """Let the embedded model write one token on these devices, none is the CPU; returns what went wrong."""
    settings = _TRIAL if not devices else RunSettings(n_ctx=256, devices=devices, n_threads=1, n_threads_batch=1)
    mine = engine or Engine()
    try:
        mine.load(guide, settings)
        for _ in mine.answer(_QUESTION):
            pass
    except LLMRunError as error:
        return trouble_of(error)
    finally:
        if engine is None:
            mine.close()
    return None


def trouble_of(error: LLMRunError) -> Trouble:
    """Return an error as a fact."""
    return Trouble(error.message, error.hint, error.log if isinstance(error, WorkerDiedError) else ())


def _read_embedded() -> tuple[Trouble | None, Path | None]:
    try:
        path = embedded_file("Q8_0")
        read_model_header(path)
    except LLMRunError as error:
        return trouble_of(error), None
    return None, path


def is_container(root: Path = Path("/"), variables: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a container, by what the usual engines of them leave there."""
    left = any((root / name).exists() for name in (".dockerenv", "run/.containerenv"))
    return left or "KUBERNETES_SERVICE_HOST" in variables or "container" in variables


def read_device_files(root: Path = Path("/")) -> tuple[DeviceFile, ...]:
    """Return the files through which GPUs are reached, and whether this process may use them."""
    paths = sorted(path for pattern in _DEVICE_FILES for path in root.glob(pattern))
    return tuple(
        DeviceFile("/" + path.relative_to(root).as_posix(), _group(path), os.access(path, os.R_OK | os.W_OK))
        for path in paths
    )


def _group(path: Path) -> str:
    try:
        return path.group()
    except (KeyError, OSError, NotImplementedError):  # a number without a name, as in containers; Windows has none
        return ""


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there already."""
    return next((place for place in (folder, *folder.parents) if place.is_dir()), Path.cwd())
