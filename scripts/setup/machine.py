"""What is found out about the machine before anything slow: compilers, an NVIDIA card, free space."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .failure import Failure, install_command

GIB = 1 << 30
SPACE_TO_BUILD = 2 * GIB
SPACE_TO_INSTALL = GIB // 2
C_COMPILERS = ("cc", "gcc", "clang")
CPP_COMPILERS = ("c++", "g++", "clang++")
C_PROGRAM = "#include <stdio.h>\nint main(void) { return 0; }\n"
CPP_PROGRAM = "#include <string_view>\nint main() { return std::string_view().size(); }\n"  # C++17


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides how the engine is built."""

    system: str
    """`sys.platform`."""
    processor: str
    card: str | None
    """The NVIDIA card's name."""
    nvcc: str | None
    """Path of the CUDA compiler."""
    features: frozenset[str] = frozenset()
    """The processor's, by Linux's names; none on other systems."""


def detect_machine() -> Machine:
    """Look at this machine."""
    return Machine(sys.platform, platform.machine(), read_nvidia_card(), find_nvcc(), read_features())


def choose_cmake_args(machine: Machine, user: str) -> str:
    """CMAKE_ARGS for the engine; what the user set comes last, so that it wins."""
    ours = ["-DGGML_RPC=ON"]
    if machine.card and machine.nvcc:
        ours.append("-DGGML_CUDA=ON")
    return " ".join([*ours, user]).strip()


def wants_rpc(cmake_args: str) -> bool:
    """Whether the last word on RPC in these arguments is not a no."""
    said = re.findall(r"-DGGML_RPC(?::BOOL)?=(\w+)", cmake_args)
    return not said or said[-1].upper() not in {"OFF", "0", "NO", "FALSE"}


def describe_choice(machine: Machine, user: str) -> str:
    """One line: what was found, and so what the engine is built for."""
    added = f"; CMAKE_ARGS adds {user}" if user else ""
    if machine.card and machine.nvcc:
        return f"{machine.card} and nvcc found: building the engine with CUDA, which takes longer{added}"
    if machine.card:
        repair = "install the CUDA toolkit and run scripts/chat --rebuild for the GPU"
        return f"{machine.card} found, but no nvcc: building for the CPU; {repair}{added}"
    if machine.system == "darwin" and machine.processor == "arm64":
        return f"Apple GPU: building the engine with Metal{added}"
    return f"no NVIDIA card: building the engine for the CPU{added}"


def read_nvidia_card() -> str | None:
    """Name of the first NVIDIA card, from its driver."""
    tool = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if tool is not None:
        command = [tool, "--query-gpu=name", "--format=csv,noheader"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return parse_card(answer.stdout)
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        if match := re.search(r"^Model:\s*(.+)$", file.read_text(errors="replace"), re.MULTILINE):
            return match[1].strip()
    return None


def parse_card(answer: str) -> str | None:
    """First line of nvidia-smi's answer, without control characters."""
    name = re.sub(r"[^\x20-\x7e]", "", answer.strip().split("\n")[0]).strip()
    return name or None


def read_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The processor's features as Linux names them."""
    try:
        found = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(found[1].split()) if found else frozenset()


def find_nvcc() -> str | None:
    """The CUDA compiler where CMake will look for it, or where the toolkit puts it."""
    places = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    folders = [str(Path(place) / "bin") for place in places if place]
    return os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(folders))


def check_compilers(user: str) -> None:
    """Compile and link two small programs, as CMake will: raises Failure where that is not possible."""
    if "_COMPILER=" in user or "CMAKE_TOOLCHAIN_FILE" in user:
        return  # the user says which compiler: CMake judges it
    check_compiler("C", os.environ.get("CC", ""), C_COMPILERS, C_PROGRAM)
    check_compiler("C++", os.environ.get("CXX", ""), CPP_COMPILERS, CPP_PROGRAM)


def check_compiler(language: str, chosen: str, names: tuple[str, ...], program: str) -> None:
    """Raises Failure unless the chosen compiler, or the first that there is, makes a program of `program`."""
    words = shlex.split(chosen) or [name for name in names if shutil.which(name)][:1]
    if not words:
        raise Failure(f"no {language} compiler found ({', '.join(names)})", install_command("compiler"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / ("program.c" if language == "C" else "program.cpp")
        source.write_text(program)
        option = [] if language == "C" else ["-std=c++17"]
        command = [*words, *option, str(source), "-o", str(Path(folder) / "program")]
        try:
            result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except OSError as error:
            raise Failure(f"the {language} compiler {words[0]} does not start: {error.strerror}") from error
    if result.returncode != 0:
        said = (result.stderr.strip() or f"exit code {result.returncode}").split("\n")[0]
        raise Failure(f"the {language} compiler {words[0]} makes no program: {said}", install_command("compiler"))


def check_python_modules() -> None:
    """Raises Failure where this Python cannot make a virtual environment: Debian packs that apart."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        version = platform.python_version()
        raise Failure(f"Python {version} ({sys.executable}) lacks ensurepip and venv", install_command("venv"))


def check_space(folder: Path, needed: int) -> None:
    """Raises Failure where the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise explain_space(free, needed, str(folder))


def explain_space(free: int, needed: int, folder: str) -> Failure:
    """The failure of a disk that is too full."""
    need, have = f"{needed / GIB:.1f} GiB", f"{free / GIB:.1f} GiB"
    return Failure(f"the set-up needs about {need} of disk, {have} is free in {folder}", "free some space there")


def count_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
