"""How the engine is built for a GPU: which backend, with which command, and what is in the way. Pure.

Sources: llama-cpp-python 0.3.36, README; llama.cpp, docs/build.md and ggml/src/ggml-{cuda,hip,vulkan,sycl}.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmrun.doctor.environment import ENGINE_PACKAGE
from llmrun.doctor.facts import Environment, Facts
from llmrun.hardware.gpu import Gpu, Vendor

Backend = Literal["CPU", "CUDA", "ROCm", "Vulkan", "MTL", "SYCL"]

# ggml's names of the backends that can use each vendor's GPUs, best first; on a Mac it is Metal for all of them
_BACKENDS: dict[Vendor, tuple[Backend, ...]] = {
    "nvidia": ("CUDA", "Vulkan"),
    "amd": ("ROCm", "Vulkan"),
    "intel": ("SYCL", "Vulkan"),
    "apple": ("MTL", "Vulkan"),
    "other": (),
}
NAMES = {"CPU": "the CPU", "CUDA": "CUDA", "ROCm": "ROCm", "Vulkan": "Vulkan", "MTL": "Metal", "SYCL": "SYCL"}

_SWITCHES = {
    "CPU": "GGML_NATIVE",
    "CUDA": "GGML_CUDA",
    "ROCm": "GGML_HIP",
    "Vulkan": "GGML_VULKAN",
    "MTL": "GGML_METAL",
    "SYCL": "GGML_SYCL",
}
_TOOLS = {"CUDA": "nvcc", "ROCm": "hipcc", "Vulkan": "glslc", "MTL": "xcode-select", "SYCL": "icpx"}
_WHAT = {
    "nvcc": "the CUDA toolkit",
    "hipcc": "ROCm's compiler",
    "glslc": "Vulkan's shader compiler and headers",
    "xcode-select": "Xcode's command line tools",
    "icpx": "Intel's oneAPI compiler",
    "c++": "a C++ compiler",
}
_INSTALL: dict[str, dict[str, str]] = {
    "debian": {
        "nvcc": "sudo apt install nvidia-cuda-toolkit",
        "glslc": "sudo apt install glslc libvulkan-dev spirv-headers",
        "c++": "sudo apt install g++",
    },
    "fedora": {
        "glslc": "sudo dnf install glslc vulkan-headers vulkan-loader-devel spirv-headers-devel",
        "hipcc": "sudo dnf install rocm-hip-devel hipblas-devel rocblas-devel",
        "c++": "sudo dnf install gcc-c++",
    },
    "arch": {
        "nvcc": "sudo pacman -S cuda",
        "glslc": "sudo pacman -S shaderc vulkan-headers vulkan-icd-loader spirv-headers",
        "hipcc": "sudo pacman -S rocm-hip-sdk",
        "c++": "sudo pacman -S base-devel",
    },
    "suse": {"c++": "sudo zypper install gcc-c++"},
    "alpine": {"c++": "sudo apk add build-base linux-headers"},
}
_PAGES = {
    "nvcc": "https://developer.nvidia.com/cuda-downloads",
    "hipcc": "https://rocm.docs.amd.com",
    "glslc": "https://vulkan.lunarg.com/sdk/home",
    "icpx": "https://www.intel.com/content/www/us/en/developer/tools/oneapi/base-toolkit-download.html",
    "xcode-select": "xcode-select --install",
    "c++": "https://visualstudio.microsoft.com/visual-cpp-build-tools",
}

WHEELS = "https://abetlen.github.io/llama-cpp-python/whl"
_CUDA_WHEELS = ((11, 8), (12, 1), (12, 2), (12, 3), (12, 4), (12, 5), (13, 0), (13, 2))
_WHEEL_PYTHONS = ("3.10", "3.11", "3.12")
_OLDEST_HIP = (6, 1)  # ggml-hip/CMakeLists.txt


@dataclass(frozen=True, slots=True)
class Build:
    """One way to a new engine.

    command: builds and installs it from source. prebuilt: installs one that is built already, None where there is
    none for this machine. obstacles: what must be there before the build can succeed, each with what to do.
    """

    backend: Backend
    command: tuple[str, ...]
    prebuilt: tuple[str, ...] | None = None
    obstacles: tuple[str, ...] = ()


def backends_for(vendor: Vendor, system: str) -> tuple[Backend, ...]:
    """Return which backends can use a vendor's GPUs on this system, best first."""
    return ("MTL",) if system == "darwin" and vendor != "other" else _BACKENDS[vendor]


def choose_build(facts: Facts, gpu: Gpu) -> Build:
    """Return the best backend for a GPU that can be built here as things are, else the best there is."""
    builds = [build_for(facts, backend, gpu) for backend in backends_for(gpu.vendor, facts.system)]
    if not builds:
        return build_for(facts, "CPU")
    return next((build for build in builds if not build.obstacles), builds[0])


def build_for(facts: Facts, backend: Backend, gpu: Gpu | None = None) -> Build:
    """Return how this backend is built here; gpu is what it is for."""
    command = install_command(facts.environment, facts.engine.required, definitions(facts, backend))
    wheels = _wheels(facts, backend, gpu)
    prebuilt = None if wheels is None else prebuilt_command(facts.environment, facts.engine.required, wheels)
    return Build(backend, command, prebuilt, _obstacles(facts, backend, gpu))


def definitions(facts: Facts, backend: Backend) -> dict[str, str]:
    """Return CMake's definitions; devices of other machines (RPC) stay possible in every build."""
    chosen = {_SWITCHES[backend]: "on", "GGML_RPC": "on"}
    if backend == "CUDA" and facts.system != "win32" and "nvcc" in facts.tools:
        chosen["CMAKE_CUDA_COMPILER"] = facts.tools["nvcc"].path  # it need not be on PATH
    if backend == "ROCm":
        targets = sorted({gpu.target for gpu in facts.hardware.gpus if gpu.vendor == "amd" and gpu.target})
        chosen |= {"GPU_TARGETS": ";".join(targets)} if targets else {}
    if backend == "SYCL":
        chosen |= {"CMAKE_C_COMPILER": "icx", "CMAKE_CXX_COMPILER": "icpx"}
    return chosen


def install_command(environment: Environment, version: str | None, chosen: dict[str, str]) -> tuple[str, ...]:
    """Return the command that compiles the engine and puts it in the place of the installed one."""
    word = "--config-setting" if environment.maker == "uv" else "--config-settings"
    settings = [f"{word}=cmake.define.{name}={value}" for name, value in chosen.items()]
    options = [f"--no-binary={ENGINE_PACKAGE}", *settings]
    return (*_installer(environment), *options, _requirement(version))


def prebuilt_command(environment: Environment, version: str | None, wheels: str) -> tuple[str, ...]:
    """Return the command that installs an engine from the index of wheels its authors built."""
    options = [f"--only-binary={ENGINE_PACKAGE}", f"--index-url={WHEELS}/{wheels}"]
    return (*_installer(environment), *options, _requirement(version))


def _installer(environment: Environment) -> tuple[str, ...]:
    if environment.maker == "uv":
        return ("uv", "pip", "install", "--python", environment.python, "--reinstall", "--no-deps", "--no-cache")
    reinstall = ("install", "--force-reinstall", "--no-deps", "--no-cache-dir")
    if environment.maker == "pipx":
        return ("pipx", "runpip", environment.prefix.name, *reinstall)
    return (environment.python, "-m", "pip", *reinstall)


def _requirement(version: str | None) -> str:
    return ENGINE_PACKAGE if version is None else f"{ENGINE_PACKAGE}=={version}"


def command_text(command: Sequence[str], system: str) -> str:
    """Return a command as its user would type it."""
    return subprocess.list2cmdline(command) if system == "win32" else shlex.join(command)


def _wheels(facts: Facts, backend: Backend, gpu: Gpu | None) -> str | None:
    """Return the name of the index with wheels for this machine."""
    if ".".join(facts.python.split(".")[:2]) not in _WHEEL_PYTHONS or facts.bits != 64:
        return None
    intel_like = facts.machine in ("x86_64", "AMD64")
    if backend == "MTL":
        return "metal" if facts.system == "darwin" else None
    if not intel_like or facts.system not in ("linux", "win32"):
        return None
    if backend == "CUDA":
        return cuda_wheels(facts.hardware.nvidia.cuda if facts.hardware.nvidia else None, gpu.target if gpu else None)
    if backend == "ROCm":
        return "rocm72" if facts.system == "linux" else "hip-radeon"
    return "vulkan" if backend == "Vulkan" else None


def cuda_wheels(driver: str | None, capability: str | None) -> str | None:
    """Return the newest CUDA wheels that a driver runs ("12.4") and that hold code for a GPU ("8.9")."""
    newest = numbers(driver)
    if newest is None:
        return None
    able = numbers(capability) or (8, 0)

    def has_code(version: tuple[int, int]) -> bool:
        oldest, latest = {11: ((6, 0), (8, 9)), 12: ((6, 0), (99, 0)), 13: ((7, 5), (99, 0))}[version[0]]
        return oldest <= able <= latest

    fit = [version for version in _CUDA_WHEELS if version <= newest and has_code(version)]
    return f"cu{fit[-1][0]}{fit[-1][1]}" if fit else None


def _obstacles(facts: Facts, backend: Backend, gpu: Gpu | None) -> tuple[str, ...]:
    # Visual Studio's compiler is found by CMake without being on PATH
    needed = ["c++"] if backend != "MTL" and facts.system != "win32" else []
    needed += [_TOOLS[backend]] if backend in _TOOLS else []
    missing = [tool for tool in needed if tool not in facts.tools]
    found = [
        f"{_WHAT[tool]} ({tool}) is missing: {how_to_install(tool, facts.system, facts.distribution)}"
        for tool in missing
    ]
    found += [] if facts.environment.installer else [no_installer(facts.environment)]
    if backend == "CUDA":
        found += cuda_obstacles(facts, gpu)
    if backend == "ROCm" and (version := numbers(_version(facts, "hipcc"))) is not None and version < _OLDEST_HIP:
        found.append(f"ROCm {version[0]}.{version[1]} is too old: llama.cpp needs 6.1 or newer")
    if backend == "SYCL" and "icpx" in facts.tools and "ONEAPI_ROOT" not in facts.variables:
        found.append("oneAPI's variables are not set: source /opt/intel/oneapi/setvars.sh, and then try again")
    return tuple(found)


def cuda_obstacles(facts: Facts, gpu: Gpu | None) -> list[str]:
    """Return what is wrong between CUDA's toolkit, the driver and the GPU."""
    toolkit = numbers(_version(facts, "nvcc"))
    if toolkit is None:
        return []
    found = []
    name = f"CUDA toolkit {toolkit[0]}.{toolkit[1]}"
    driver = facts.hardware.nvidia
    if driver and (cuda := numbers(driver.cuda)) is not None and toolkit[0] > cuda[0]:
        found.append(
            f"the driver {driver.version} runs CUDA up to {driver.cuda}, and this is the {name}: "
            f"update the driver, or install a toolkit {cuda[0]}.x"
        )
    able = numbers(gpu.target) if gpu else None
    if able is not None and toolkit[0] >= 13 and able < (7, 5):  # CUDA 13.0, release notes: Maxwell to Volta removed
        found.append(
            f"the {name} no longer compiles for compute capability {able[0]}.{able[1]}: install a toolkit 12.x"
        )
    if able is not None and able >= (10, 0) and toolkit < (12, 8):  # CUDA 12.8, release notes: Blackwell added
        found.append(f"the {name} does not know compute capability {able[0]}.{able[1]} yet: install 12.8 or newer")
    return found


def how_to_install(tool: str, system: str, distribution: str | None) -> str:
    """Return what to type, or where to look, for a tool that is missing."""
    if system == "darwin":
        return "xcode-select --install" if tool in ("c++", "xcode-select") else _PAGES[tool]
    command = _INSTALL.get(distribution or "", {}).get(tool)
    return command or ("install g++ or clang" if tool == "c++" and system == "linux" else _PAGES[tool])


def no_installer(environment: Environment) -> str:
    """Return what is in the way where nothing here can replace a package, and what to type."""
    return f"neither {environment.maker} nor pip can be found here: {environment.python} -m ensurepip"


def numbers(version: str | None) -> tuple[int, int] | None:
    """Return the first two numbers of a version, None where there are none."""
    parts = (version or "").split(".")
    if not parts[0].isdigit():
        return None
    return int(parts[0]), int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0


def _version(facts: Facts, tool: str) -> str | None:
    return facts.tools[tool].version if tool in facts.tools else None
