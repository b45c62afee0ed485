"""doctor.repair: another engine takes the old one's place, or the old one is there again, byte for byte."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.doctor.aside import drop_aside, engine_files, find_aside, keep_aside, put_back, size_of
from llmrun.doctor.builds import Build, build_for
from llmrun.doctor.facts import EngineFacts, Environment, Trouble
from llmrun.doctor.repair import Repair, carry_out, check_space, plan_repair, with_output
from llmrun.doctor.running import parse_progress, run_command, telling_line
from llmrun.errors import EngineError, UsageError
from tests.doctor_machines import BLIND_CUDA_ENGINE, CPU_ENGINE, CUDA_ENGINE, GIB, VENV, nvidia_machine

Listener = Callable[[str], None]
OLD_INFO, NEW_INFO = "llama_cpp_python-0.3.36.dist-info", "llama_cpp_python-0.3.37.dist-info"
OLD = {
    "llama_cpp/__init__.py": b'__version__ = "0.3.36"\n',
    "llama_cpp/lib/libllama.so": b"\x7fELF old",
    "llama_cpp/__pycache__/__init__.cpython-311.pyc": b"compiled",  # in no record
    "lib/libggml.so": b"\x7fELF old ggml",
    "include/ggml.h": b"// old",
    f"{OLD_INFO}/METADATA": b"Version: 0.3.36\n",
    f"{OLD_INFO}/RECORD": (
        b"llama_cpp/__init__.py,,\nllama_cpp/lib/libllama.so,,\nlib/libggml.so,,\ninclude/ggml.h,,\n"
        b"../../bin/tool,,\n/etc/passwd,,\n" + f"{OLD_INFO}/METADATA,,\n{OLD_INFO}/RECORD,,\n".encode()
    ),
}
OTHERS = {"lib/other.so": b"not ours", "numpy/__init__.py": b"", "bin/other": b"not ours"}
NEW = {
    "llama_cpp/__init__.py": b'__version__ = "0.3.37"\n',
    "llama_cpp/lib/libllama.so": b"\x7fELF new",
    "llama_cpp/lib/libggml-cuda.so": b"\x7fELF cuda",
    "lib/libggml.so": b"\x7fELF new ggml",
    "lib/cmake/ggml/ggml-config.cmake": b"new",
    f"{NEW_INFO}/RECORD": b"lib/libggml.so,,\nlib/cmake/ggml/ggml-config.cmake,,\nllama_cpp/__init__.py,,\n",
}


def write(packages: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(data)


def tree(packages: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its bytes and its rights, and every empty folder."""
    return {
        path.relative_to(packages).as_posix(): (path.read_bytes(), path.stat().st_mode) if path.is_file() else (b"", -1)
        for path in packages.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A made-up environment with an engine and other packages."""
    packages = tmp_path / "lib" / "site-packages"
    write(packages, OLD | OTHERS)
    write(tmp_path, {"bin/tool": b"named by the record, and outside"})
    (packages / "llama_cpp/lib/libllama.so").chmod(0o755)
    return replace(VENV, prefix=tmp_path, packages=packages, python=sys.executable)


BUILD = Build("CUDA", ("pip", "install", "engine"))
REPAIR = Repair(BUILD, BUILD.command)


def install(packages: Path) -> None:
    """What pip does: the old files go, the new ones come."""
    for name in engine_files(packages):
        (packages / name).unlink()
    for folder in sorted(packages.rglob("*"), reverse=True):
        if folder.is_dir() and ".llmrun" not in str(folder) and not any(folder.iterdir()):
            folder.rmdir()
    write(packages, NEW)


class FakePip:
    """A runner that stands for pip: says lines, does something to the packages, ends with a code."""

    def __init__(self, *lines: str, code: int = 0, does: Callable[[], None] = lambda: None) -> None:
        self.lines, self.code, self.does = lines, code, does
        self.commands: list[tuple[str, ...]] = []

    def __call__(self, command: Sequence[str], on_line: Listener) -> int:
        self.commands.append(tuple(command))
        for line in self.lines:
            on_line(line)
        self.does()
        return self.code


def never() -> EngineFacts:
    raise AssertionError("an engine that was not built is not tried out")


def test_an_engine_that_shows_its_device_stays(environment: Environment) -> None:
    packages = environment.packages
    heard: list[str] = []
    pip = FakePip("[1/2] Building", "[2/2] Linking", does=lambda: install(packages))
    found = carry_out(environment, REPAIR, pip, lambda: CUDA_ENGINE, heard.append)
    assert (found, pip.commands, heard) == (CUDA_ENGINE, [BUILD.command], ["[1/2] Building", "[2/2] Linking"])
    assert {name: data for name, (data, _) in tree(packages).items()} == OTHERS | NEW


def test_a_build_that_fails_leaves_the_old_engine(environment: Environment) -> None:
    before = tree(environment.packages)
    pip = FakePip("collecting", "x.cu:3: error: no such thing", "ERROR: Failed building wheel", code=1)
    with pytest.raises(EngineError) as caught:
        carry_out(environment, REPAIR, pip, never, lambda line: None)
    assert caught.value.message == "the engine was not built (exit code 1): x.cu:3: error: no such thing"
    assert caught.value.hint == "the engine from before is in its place again"
    assert tree(environment.packages) == before


def test_an_installer_that_fails_half_way_leaves_the_old_engine(environment: Environment) -> None:
    """pip renames what it removes, and may have put some of the new files in their place."""
    packages = environment.packages
    before = tree(packages)

    def half() -> None:
        (packages / "llama_cpp").rename(packages / "~lama_cpp")
        (packages / OLD_INFO).rename(packages / "~lama_cpp_python-0.3.36.dist-info")
        (packages / "lib/libggml.so").unlink()
        write(packages, {"llama_cpp/__init__.py": b"half", "lib/cuda/libcudart.so": b"in no record yet"})

    with pytest.raises(EngineError, match="exit code 2"):
        carry_out(environment, REPAIR, FakePip(code=2, does=half), never, lambda line: None)
    assert tree(packages) == before


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (BLIND_CUDA_ENGINE, "the new engine sees no device of CUDA"),
        (
            replace(BLIND_CUDA_ENGINE, log=("ggml_cuda_init: failed to initialize CUDA: no device",)),
            "the new engine sees no device of CUDA: ggml_cuda_init: failed to initialize CUDA: no device",
        ),
        (CPU_ENGINE, "the new engine sees no device of CUDA"),
        (EngineFacts(start=Trouble("it died (SIGILL)")), "the new engine does not run: it died (SIGILL)"),
        (replace(CUDA_ENGINE, answer=Trouble("no answer")), "the new engine does not run: no answer"),
        (replace(CUDA_ENGINE, gpu_answer=Trouble("no kernel")), "the new engine does not run: no kernel"),
    ],
)
def test_an_engine_that_is_not_what_was_wanted_is_replaced_by_the_old_one(
    environment: Environment, found: EngineFacts, message: str
) -> None:
    packages = environment.packages
    before = tree(packages)
    with pytest.raises(EngineError) as caught:
        carry_out(environment, REPAIR, FakePip(does=lambda: install(packages)), lambda: found, lambda line: None)
    assert caught.value.message == message
    assert tree(packages) == before


@pytest.mark.parametrize("when", ["build", "install", "examine"])
def test_an_interrupt_leaves_the_old_engine(environment: Environment, when: str) -> None:
    packages = environment.packages
    before = tree(packages)

    def interrupt() -> None:
        raise KeyboardInterrupt

    def examine() -> EngineFacts:
        raise KeyboardInterrupt

    def does() -> None:
        if when != "build":
            install(packages)
        if when != "examine":
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        carry_out(environment, REPAIR, FakePip(does=does), examine, lambda line: None)
    assert tree(packages) == before
    assert find_aside(packages) is None


def test_a_repair_that_was_killed_is_found_and_undone_later(environment: Environment) -> None:
    packages = environment.packages
    before = tree(packages)
    keep_aside(packages)
    install(packages)
    assert find_aside(packages) == packages / ".llmrun-engine-aside"
    put_back(packages)
    assert tree(packages) == before
    assert find_aside(packages) is None


def test_half_a_copy_is_no_engine_to_put_back(environment: Environment) -> None:
    """It was killed while it copied: the engine itself was not touched yet."""
    packages = environment.packages
    before = tree(packages)
    (keep_aside(packages) / "complete").unlink()
    assert find_aside(packages) is None
    keep_aside(packages)
    drop_aside(packages)
    assert tree(packages) == before


def test_the_engines_files_are_those_it_recorded_and_those_in_its_folders(environment: Environment) -> None:
    """And no other's, even where a record names them."""
    assert [path.as_posix() for path in engine_files(environment.packages)] == sorted(OLD)
    assert size_of(environment.packages) == sum(map(len, OLD.values()))


def test_where_no_engine_is_installed_nothing_is_put_back(tmp_path: Path) -> None:
    write(tmp_path, OTHERS)
    before = tree(tmp_path)
    keep_aside(tmp_path)
    write(tmp_path, NEW)
    put_back(tmp_path)
    assert tree(tmp_path) == before


# ---- what may be done at all


def test_the_command_is_the_builds_or_the_prebuilt_one() -> None:
    facts = nvidia_machine()
    build = build_for(facts, "CUDA", facts.hardware.gpus[0])
    assert plan_repair(facts, build, prebuilt=False) == Repair(build, build.command)
    assert plan_repair(facts, build, prebuilt=False).compiles
    assert build.prebuilt is not None
    assert plan_repair(facts, build, prebuilt=True) == Repair(build, build.prebuilt)
    assert not plan_repair(facts, build, prebuilt=True).compiles


def test_what_is_missing_stops_a_build_but_not_a_prebuilt_engine() -> None:
    facts = nvidia_machine(tools={})
    build = build_for(facts, "CUDA", facts.hardware.gpus[0])
    assert plan_repair(facts, build, prebuilt=True).command == build.prebuilt
    with pytest.raises(EngineError, match="cannot be built for CUDA yet: a C\\+\\+ compiler"):
        plan_repair(facts, build, prebuilt=False)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (replace(VENV, managed=True), "belongs to the system"),
        (replace(VENV, writable=False), "may not be written"),
    ],
)
def test_packages_that_are_not_ours_are_left_alone(environment: Environment, message: str) -> None:
    facts = nvidia_machine(environment=environment)
    with pytest.raises(EngineError, match=message):
        plan_repair(facts, build_for(facts, "CPU"), prebuilt=False)


def test_a_prebuilt_engine_must_exist() -> None:
    facts = nvidia_machine(python="3.13.0")
    with pytest.raises(UsageError, match="there is no engine for CUDA that is built already for this machine"):
        plan_repair(facts, build_for(facts, "CUDA"), prebuilt=True)


def test_the_disk_must_hold_both_engines_and_the_build(environment: Environment) -> None:
    need = 2 * GIB + sum(map(len, OLD.values()))
    check_space(environment, REPAIR, need)
    with pytest.raises(EngineError, match=r"the repair needs 2\.0 GiB of disk, 2\.0 GiB is free"):
        check_space(environment, REPAIR, need - 1)
    check_space(environment, Repair(BUILD, ("other",)), need - GIB)


def test_pip_is_asked_to_tell_how_far_it_is() -> None:
    assert with_output(("py", "-m", "pip", "install", "x")) == ("py", "-m", "pip", "install", "-v", "x")
    assert with_output(("uv", "pip", "install", "x")) == ("uv", "pip", "install", "x")


# ---- the command itself


def script(tmp_path: Path, code: str) -> list[str]:
    path = tmp_path / "pip.py"
    path.write_text(code)
    return [sys.executable, str(path)]


def test_a_commands_lines_come_as_they_are_said(tmp_path: Path) -> None:
    heard: list[str] = []
    code = "import sys\nprint('one')\nprint('two', file=sys.stderr, flush=True)\nsys.exit(3)"
    assert run_command([*script(tmp_path, code)], heard.append) == 3
    assert sorted(heard) == ["one", "two"]


def test_a_command_that_is_not_there_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="/nonexistent/uv cannot be started: No such file"):
        run_command(["/nonexistent/uv", "pip"], print)


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_an_interrupt_ends_the_compilers_too(tmp_path: Path) -> None:
    import psutil

    code = (
        "import subprocess, sys, threading\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import threading; threading.Event().wait()'])\n"
        "print(child.pid, flush=True)\nthreading.Event().wait()"
    )
    started: list[psutil.Process] = []

    def interrupt(line: str) -> None:
        started.append(psutil.Process(int(line)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_command(script(tmp_path, code), interrupt)
    assert started[0].wait(timeout=20) is None


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("  [12/197] Building CXX object ggml/src/ggml.c.o", (12, 197)),
        ("*** Building project with Ninja...", None),
        ("[3/0]", None),
        ("array[1]", None),
    ],
)
def test_ninjas_steps_are_progress(line: str, progress: tuple[int, int] | None) -> None:
    assert parse_progress(line) == progress


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["ok", "  CMake Error at x.txt:3: no CUDA", "error: later", ""], "CMake Error at x.txt:3: no CUDA"),
        (["ERROR: No matching distribution found for x"], "ERROR: No matching distribution found for x"),
        (["one", "the last", " "], "the last"),
        ([], "it said nothing"),
    ],
)
def test_the_first_error_says_why_a_build_failed(lines: list[str], told: str) -> None:
    assert telling_line(lines) == told
