"""Builds the engine's wheel in `.venv/engine`, once, and checks what was built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from . import machine
from .commands import run_pip
from .failure import Failure
from .options import compiler_options
from .progress import Progress, format_minutes, say
from .stamp import ENGINE, hash_value, read_json, write_json

HOW_LONG = "this happens once and takes 4 to 8 minutes on 2 cores"
# Through libllama's own handle: a second copy of libggml would have a registry of its own, and an empty one.
RPC_CHECK = """
import ctypes, sys
from llama_cpp import llama_cpp
find = llama_cpp._lib["ggml_backend_reg_by_name"]
find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
sys.exit(0 if find(b"RPC") else 3)
"""
NO_RPC = 3


@dataclass(frozen=True, slots=True)
class Engine:
    """A wheel in the engine's folder, and what it was built from."""

    version: str
    user_arguments: str
    arguments: str
    platform: str
    wheel: str
    """The file's name."""

    def serves(self, version: str, user_arguments: str, platform: str) -> bool:
        """Whether this wheel can be used; CMAKE_ARGS counts only where the user sets it."""
        same = (self.version, self.platform) == (version, platform)
        return same and user_arguments in ("", self.user_arguments)


def read_user_arguments() -> str:
    """CMAKE_ARGS as the user has set it."""
    return os.environ.get("CMAKE_ARGS", "").strip()


def read_engine(folder: Path) -> Engine | None:
    """The engine that was built here; None where there is none, or not wholly."""
    value = read_json(folder / "engine.json")
    try:
        engine = Engine(**value) if value else None
    except TypeError:
        return None
    return engine if engine and (folder / engine.wheel).is_file() else None


def find_engine(folder: Path, version: str) -> Engine | None:
    """The engine that was built here, where it is the one wanted."""
    engine = read_engine(folder)
    wanted = (version, read_user_arguments(), sysconfig.get_platform())
    return engine if engine and engine.serves(*wanted) else None


def check_before_build(folder: Path) -> None:
    """Raises Failure for what would make the build fail late."""
    machine.check_compilers(read_user_arguments())
    machine.check_space(folder, machine.SPACE_TO_BUILD)


def build_engine(python: Path, folder: Path, version: str) -> Engine:
    """Fetch the source and build the wheel, with the pip of `python`; raises Failure with the log's path."""
    found, user = machine.detect_machine(), read_user_arguments()
    arguments = machine.choose_cmake_args(found, user)
    say(machine.describe_choice(found, user))
    sdist = fetch_sdist(python, folder, version)
    source = unpack(sdist, folder, arguments)
    wheel = build_wheel(python, source, folder, make_settings(found, arguments))
    engine = Engine(version, user, arguments, sysconfig.get_platform(), wheel.name)
    write_json(folder / "engine.json", asdict(engine))
    remove_leftovers(folder, {sdist.name, wheel.name})
    return engine


def make_settings(found: machine.Machine, arguments: str) -> Mapping[str, str]:
    """Environment variables of the build; make alone would use one processor."""
    settings = {"CMAKE_ARGS": arguments}
    if "CMAKE_BUILD_PARALLEL_LEVEL" not in os.environ:
        settings["CMAKE_BUILD_PARALLEL_LEVEL"] = str(machine.count_processors())
    if options := compiler_options(found):
        settings |= {name: f"{os.environ.get(name, '')} {options}".strip() for name in ("CFLAGS", "CXXFLAGS")}
    if found.card and found.nvcc and not shutil.which("nvcc"):
        settings["CUDACXX"] = found.nvcc
    return settings


def fetch_sdist(python: Path, folder: Path, version: str) -> Path:
    """The source archive, kept: the tests read llama.cpp's own test data out of it."""
    name = f"{ENGINE.replace('-', '_')}-{version}.tar.gz"
    if (folder / name).is_file():
        return folder / name
    say(f"fetching the engine's source, {ENGINE} {version}")
    partial = new_folder(folder, "download")
    words = ["download", "--no-deps", "--no-binary", ENGINE, "--dest", str(partial), f"{ENGINE}=={version}"]
    run_pip(python, words, new_log(folder, "download.log"), "the engine's source cannot be fetched")
    return (partial / name).replace(folder / name)


def unpack(sdist: Path, folder: Path, arguments: str) -> Path:
    """The source, unpacked: a folder of its own for each set of arguments, so that a build can go on after a stop."""
    work = folder / f"build-{hash_value([sdist.name, arguments])}"
    source = work / sdist.name.removesuffix(".tar.gz")
    if not source.is_dir():
        shutil.rmtree(work, ignore_errors=True)
        with tarfile.open(sdist) as archive:
            # Python 3.11.0 to 3.11.3 have no filter; the archive's hash was checked against the index.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(work / "partial")
        (work / "partial" / source.name).replace(source)
    elif (source / "build").is_dir():
        say("going on with the build that was stopped")
    return source


def build_wheel(python: Path, source: Path, folder: Path, settings: Mapping[str, str]) -> Path:
    """Compile; what was compiled before a stop is used, after a failure the next run starts afresh."""
    log = new_log(folder, "build.log")
    say(f"building the engine: {HOW_LONG} (log: {log})")
    partial = new_folder(folder, "wheel")
    options = ["-v", "--no-deps", "--no-cache-dir", "--config-settings", "build-dir=build", "--wheel-dir", str(partial)]
    progress = Progress("building the engine", sys.stderr)
    try:
        run_pip(python, ["wheel", *options, str(source)], log, "the engine does not build", settings, progress.read)
    except Failure as failure:
        shutil.rmtree(source.parent, ignore_errors=True)
        raise Failure(failure.message, failure.hint or hint_build(settings["CMAKE_ARGS"])) from None
    finally:
        progress.close()
    say(f"the engine is built, after {format_minutes(progress.clock() - progress.start)}")
    wheel = next(partial.glob("*.whl"))
    return wheel.replace(folder / wheel.name)


def hint_build(arguments: str) -> str:
    """What to try where the engine does not build with these arguments."""
    if read_user_arguments():
        return "CMAKE_ARGS is set: the engine may build without it"
    if "GGML_CUDA" in arguments:
        return "`CMAKE_ARGS=-DGGML_CUDA=OFF scripts/chat` builds for the CPU"
    return "the first error above names what is missing, or else the log"


def remove_leftovers(folder: Path, kept: set[str]) -> None:
    """Keep the source archive, the wheel, the record and the logs."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name not in kept and entry.name.endswith((".whl", ".tar.gz")):
            entry.unlink()


def has_rpc(python: Path) -> bool:
    """Ask the installed engine's backend registry for RPC; raises Failure where the engine does not load."""
    command = [str(python), "-I", "-c", RPC_CHECK]
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if answer.returncode not in (0, NO_RPC):
        said = (answer.stderr.strip() or f"exit code {answer.returncode}").split("\n")[-1]
        raise Failure(f"the engine is built but does not load: {said}", "`scripts/chat --rebuild` builds it anew")
    return answer.returncode == 0


def new_folder(folder: Path, name: str) -> Path:
    """The path of a folder that is not there yet; what a stopped run left in it is removed."""
    shutil.rmtree(folder / name, ignore_errors=True)
    return folder / name


def new_log(folder: Path, name: str) -> Path:
    """An empty log file."""
    log = folder / name
    log.write_text("")
    return log
