"""What a server in a container is made of, whichever tool runs it, and the image it runs in, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmrun.deployment.limits import MemoryLimits
from llmrun.errors import UsageError

Backend = Literal["CPU", "CUDA", "ROCm", "Vulkan"]

USER = 10001  # whose id the image's user has where nobody's own is to be taken
KEYS = "/run/secrets/llmrun-keys"
OWN_KEYS = "llmrun-keys"  # the file beside the Compose file where none was named
CACHE = "/home/llmrun/.cache"
MODELS = "/models"


@dataclass(frozen=True, slots=True)
class Base:
    """The images an engine is built in and runs in, the Debian packages each needs, and CMake's definitions."""

    builder: str
    runtime: str
    build_packages: tuple[str, ...]
    run_packages: tuple[str, ...]
    definitions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Container:
    """A server in a container.

    arguments: from `serve` on, as they are inside. patience: seconds that answers have at the end. requirement: llmrun
    as pip finds it, or a wheel in the build's folder (`wheel`). engine: the version of llama-cpp-python. python:
    "3.12". targets: the GPUs' kinds, as compilers name them. files: model files of this machine, and where they are
    inside. keys: the file with the keys, None where there are to be none. publish: the address of this machine that the
    port is opened at. user: whose id the server runs under: the owner of the keys, which are theirs alone. groups: ids
    of the groups that may use the GPU. mlock: whether the plan keeps pages in memory.
    """

    arguments: tuple[str, ...]
    port: int
    limits: MemoryLimits
    patience: float
    requirement: str
    engine: str
    python: str
    wheel: bool = False
    backend: Backend = "CPU"
    targets: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    keys: str | None = OWN_KEYS
    publish: str = "127.0.0.1"
    user: int = USER
    groups: tuple[int, ...] = ()
    mlock: bool = False


def backend_of(backends: frozenset[str]) -> Backend:
    """Return what the engine in the image is built for, of what a plan's devices have; none is the CPU.

    Raises UsageError for a backend of which there is no image.
    """
    match sorted(backends - {"RPC"}):
        case []:
            return "CPU"
        case ["CUDA"]:
            return "CUDA"
        case ["ROCm"]:
            return "ROCm"
        case ["Vulkan"]:
            return "Vulkan"
        case others:
            raise UsageError(
                f"no container is known in which llmrun could use {' and '.join(others)}",
                "--device none is the CPU alone; --emit systemd needs no container",
            )


def base_of(container: Container) -> Base:
    """Return the images for a container's backend.

    Sources: llama.cpp 0c1e57098, .devops/cuda.Dockerfile, rocm.Dockerfile and vulkan.Dockerfile.
    """
    compiler = ("build-essential", "cmake", "git", "ninja-build")
    slim = f"docker.io/library/python:{container.python}-slim-trixie"
    system_python = ("python3", "python3-venv")
    targets = ";".join(container.targets)
    match container.backend:
        case "CPU":
            return Base(slim, slim, compiler, ("libgomp1",))
        case "Vulkan":
            build = (*compiler, "glslc", "libvulkan-dev", "spirv-headers")
            run = ("libgomp1", "libvulkan1", "mesa-vulkan-drivers")
            return Base(slim, slim, build, run, {"GGML_VULKAN": "ON"})
        case "CUDA":
            cuda = {"GGML_CUDA": "ON"} | ({"CMAKE_CUDA_ARCHITECTURES": targets} if targets else {})
            # the driver's own library is not in the image: it comes with the container's GPU
            cuda |= {"CMAKE_EXE_LINKER_FLAGS": "-Wl,--allow-shlib-undefined"}
            image = "docker.io/nvidia/cuda:12.8.1-{}-ubuntu24.04"
            run = ("libgomp1", *system_python)
            return Base(image.format("devel"), image.format("runtime"), (*compiler, *system_python), run, cuda)
        case "ROCm":
            hip = {"GGML_HIP": "ON"} | ({"GPU_TARGETS": targets} if targets else {})
            image = "docker.io/rocm/dev-ubuntu-24.04:7.2.1-complete"
            return Base(image, image, (*compiler, *system_python), ("libgomp1", *system_python), hip)
