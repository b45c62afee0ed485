"""scripts/peers: llama.cpp's own programs, built from the source that lies in the installed engine's sdist.

The same source and compiler as the engine's, and llama.cpp's own options, with the one repair without which it dies on
some processors: what differs in a measurement is then what llmrun does. Built once into a cache folder, by the version
of llama-cpp-python.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

import platformdirs

from scripts.setup.machine import detect_machine
from scripts.setup.options import INCLUDE, needed_options

PROGRAMS = ("llama-server", "llama-bench", "llama-completion", "llama-cli")
_ENGINE = Path(".venv/engine")  # where scripts/bootstrap keeps the sdist it built from
_STAMP = "options.txt"
# what no measurement needs; the page of llama-server would be fetched
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def peers_folder() -> Path:
    """Where the programs of the installed version lie, or would."""
    version = metadata.version("llama-cpp-python")
    return Path(platformdirs.user_cache_dir("llmrun")) / "peers" / version


def peer(name: str) -> Path:
    """One of the programs; exits with what to type where it is not built, or not as it would be today."""
    folder = peers_folder()
    path = folder / "bin" / name
    if not path.exists() or not is_current(folder):
        how = "built with other options" if path.exists() else "not built"
        sys.exit(f"error: {name} is {how}\nhint: scripts/peers builds it, once, in about 20 minutes")
    return path


def is_current(folder: Path) -> bool:
    """Whether what is built in a folder was built as it would be today."""
    stamp = folder / _STAMP
    return stamp.exists() and stamp.read_text() == _told()


def write_stamp(folder: Path) -> None:
    """Say of what is built in a folder that it was built as it would be today."""
    (folder / _STAMP).write_text(_told())


def _told() -> str:
    """The options as every clone has them."""
    return "\n".join(_options()).replace(str(INCLUDE), INCLUDE.name)


def _options() -> list[str]:
    needed = needed_options(detect_machine())
    return [*(f"-DCMAKE_{name}_FLAGS={needed}" for name in ("C", "CXX")), *_OPTIONS]


def build(folder: Path) -> None:
    """Build all programs into a folder; what was begun there is gone on with."""
    source = folder / "source"
    if not source.exists():
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            with tarfile.open(_sdist(Path(unpacked))) as archive:
                archive.extractall(unpacked, filter="data")
            (found,) = Path(unpacked).glob("llama_cpp_python-*/vendor/llama.cpp")
            found.rename(source)
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    subprocess.run(["cmake", "-S", source, "-B", folder / "build", *generator, *_options()], check=True)
    jobs = str(os.cpu_count() or 1)
    subprocess.run(["cmake", "--build", folder / "build", "-j", jobs, "--target", *PROGRAMS], check=True)
    (folder / "bin").unlink(missing_ok=True)
    (folder / "bin").symlink_to(folder / "build" / "bin")
    write_stamp(folder)


def _sdist(unpacked: Path) -> Path:
    version = metadata.version("llama-cpp-python")
    kept = _ENGINE / f"llama_cpp_python-{version}.tar.gz"
    if kept.exists():
        return kept
    wanted = ["--no-deps", "--no-binary", ":all:", "-d", str(unpacked), f"llama-cpp-python=={version}"]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *wanted], check=True)
    return next(unpacked.glob("*.tar.gz"))


def main() -> None:
    """Build what is not there, and print the folder of the programs."""
    parser = argparse.ArgumentParser(prog="scripts/peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=peers_folder())
    folder: Path = parser.parse_args().folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not all((folder / "bin" / name).exists() for name in PROGRAMS) or not is_current(folder):
        build(folder)
    print(folder / "bin")


if __name__ == "__main__":
    main()
