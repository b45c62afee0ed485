"""The set-up from a fresh clone: what it decides, what it says, and that nothing half-made counts as good."""

from __future__ import annotations

import errno
import io
import os
import shlex
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.setup import commands, engine, failure, machine, options, progress, stamp

ROOT = Path(__file__).parents[1]
CPU = machine.Machine("linux", "x86_64", None, None)
CARD = replace(CPU, card="NVIDIA GeForce RTX 4090")
CUDA = replace(CARD, nvcc="/usr/local/cuda/bin/nvcc")

PROJECT = stamp.Project("base", "0.3.36", ("llama-cpp-python==0.3.36",), {"test": ("pytest",), "train": ("torch",)})
WHOLE = stamp.Stamp(
    "3.11", "/src", "base", "0.3.36", "", "-DGGML_RPC=ON", {"test": PROJECT.hash_extra("test")}, ("pytest",)
)

# --- what the person sees while waiting


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("  [37/197] ccache g++ -DGGML_BUILD -c ggml.cpp\n", 18),
        ("  [197/197] Linking CXX shared library bin/libllama.so\n", 100),
        ("[ 37%] Building CXX object ggml.cpp.o\n", 37),
        ("  [1/2] Building C object CMakeFiles/cmTC_1.dir/probe.c.o\n", None),
        ("  [0/1] Install the project...\n", None),
        ("  -- The C compiler identification is GNU 12.2.0\n", None),
        ("", None),
    ],
)
def test_ninja_and_make_tell_how_far_a_build_is(line: str, percent: int | None) -> None:
    """CMake's own small probes and the install step say nothing about the build."""
    assert progress.parse_percent(line) == percent


def test_progress_is_a_line_every_ten_percent_where_there_is_no_terminal() -> None:
    """A log of a CI run is not flooded."""
    stream = io.StringIO()
    shown = progress.Progress("building", stream, iter([0.0, 61.0, 125.0]).__next__)
    for step in (1, 19, 20, 21, 20, 95):
        shown.read(f"[{step}/200] g++\n")
    shown.close()
    assert stream.getvalue() == "building: 10 % after 1:01\nbuilding: 47 % after 2:05\n"


def test_progress_rewrites_one_line_on_a_terminal() -> None:
    """Every percent is shown, in place."""
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    shown = progress.Progress("building", stream, iter([0.0, 5.0, 9.0]).__next__)
    for step in (2, 3, 4):
        shown.read(f"[{step}/200] g++\n")
    shown.close()
    assert stream.getvalue() == "\rbuilding: 1 % after 0:05\rbuilding: 2 % after 0:09\n"


# --- how the engine is built


@pytest.mark.parametrize(
    ("found", "user", "arguments"),
    [
        (CPU, "", "-DGGML_RPC=ON"),
        (replace(CPU, nvcc="/usr/bin/nvcc"), "", "-DGGML_RPC=ON"),
        (CARD, "", "-DGGML_RPC=ON"),
        (CUDA, "", "-DGGML_RPC=ON -DGGML_CUDA=ON"),
        (CUDA, "-DGGML_CUDA=OFF", "-DGGML_RPC=ON -DGGML_CUDA=ON -DGGML_CUDA=OFF"),
    ],
)
def test_cuda_is_built_where_card_and_compiler_are_and_the_users_word_is_last(
    found: machine.Machine, user: str, arguments: str
) -> None:
    """CMake takes the last of two settings, so what the user says wins."""
    assert machine.choose_cmake_args(found, user) == arguments


def test_the_processor_decides_what_is_compiled_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-g1")
    monkeypatch.delenv("CFLAGS", raising=False)
    assert not {"CFLAGS", "CXXFLAGS"} & set(engine.make_settings(CPU, ""))
    cpuinfo = tmp_path / "cpuinfo"
    assert not machine.read_features(cpuinfo)
    cpuinfo.write_text("model name\t: X\nflags\t\t: fpu avx512f amx_tile amx_int8\n")
    found = replace(CPU, features=machine.read_features(cpuinfo))
    settings = engine.make_settings(found, "")
    assert settings["CXXFLAGS"] == f"-g1 {settings['CFLAGS']}"
    (mended,) = shlex.split(settings["CFLAGS"])
    assert (Path(mended.removeprefix("-I")) / "amxtileintrin.h").is_file()
    halves = replace(found, features=found.features | {"avx512_fp16"})
    assert options.needed_options(halves) == settings["CFLAGS"]
    assert shlex.split(options.compiler_options(halves))[-2:] == ["-include", str(options.INCLUDE / "half_floats.h")]


@pytest.mark.parametrize(
    ("found", "user", "said"),
    [
        (CPU, "", "no NVIDIA card: building the engine for the CPU"),
        (CPU, "-DX=1", "no NVIDIA card: building the engine for the CPU; CMAKE_ARGS adds -DX=1"),
        (replace(CPU, system="darwin", processor="arm64"), "", "Apple GPU: building the engine with Metal"),
        (
            CARD,
            "",
            "NVIDIA GeForce RTX 4090 found, but no nvcc: building for the CPU; "
            "install the CUDA toolkit and run scripts/chat --rebuild for the GPU",
        ),
        (CUDA, "", "NVIDIA GeForce RTX 4090 and nvcc found: building the engine with CUDA, which takes longer"),
    ],
)
def test_one_line_says_what_was_found(found: machine.Machine, user: str, said: str) -> None:
    """A GPU is never left idle in silence."""
    assert machine.describe_choice(found, user) == said


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [("-DGGML_RPC=ON", True), ("-DGGML_RPC=ON -DGGML_RPC=OFF", False), ("-DGGML_RPC=ON -DGGML_RPC:BOOL=0", False)],
)
def test_rpc_is_asked_for_unless_the_user_says_no(arguments: str, wanted: bool) -> None:
    """An engine without RPC is built twice only where RPC was wanted."""
    assert machine.wants_rpc(arguments) == wanted


def test_a_cards_name_is_one_line_without_escape_sequences() -> None:
    """It goes to a terminal."""
    assert machine.parse_card("NVIDIA \x1b[31mH100\nNVIDIA H100\n") == "NVIDIA [31mH100"
    assert machine.parse_card("\n") is None


def test_a_built_engine_serves_whoever_asks_for_nothing_else() -> None:
    """CMAKE_ARGS counts only where it is set."""
    built = engine.Engine("0.3.36", "-DX=1", "-DGGML_RPC=ON -DX=1", "linux-x86_64", "x.whl")
    assert built.serves("0.3.36", "", "linux-x86_64")
    assert built.serves("0.3.36", "-DX=1", "linux-x86_64")
    assert not built.serves("0.3.36", "-DX=2", "linux-x86_64")
    assert not built.serves("0.3.37", "", "linux-x86_64")
    assert not built.serves("0.3.36", "", "linux-aarch64")


# --- what is left to do


@pytest.mark.parametrize(
    ("before", "now", "arguments", "work"),
    [
        (WHOLE, {}, "", stamp.Work()),
        (None, {}, "", stamp.Work(everything=True)),
        (WHOLE, {"python": "3.12"}, "", stamp.Work(everything=True)),
        (WHOLE, {"root": "/moved"}, "", stamp.Work(everything=True)),
        (WHOLE, {"packages": ()}, "", stamp.Work(everything=True)),
        (WHOLE, {"packages": ("pytest", "other")}, "", stamp.Work()),
        (replace(WHOLE, base="older"), {}, "", stamp.Work(everything=True)),
        (replace(WHOLE, engine="0.3.35"), {}, "", stamp.Work(everything=True)),
        (replace(WHOLE, extras={}), {}, "", stamp.Work(extras=("test",))),
        (replace(WHOLE, extras={"test": "older"}), {}, "", stamp.Work(extras=("test",))),
        (WHOLE, {}, "-DX=1", stamp.Work(engine=True)),
        (replace(WHOLE, user_arguments="-DX=1"), {}, "-DX=1", stamp.Work()),
        (replace(WHOLE, user_arguments="-DX=1"), {}, "", stamp.Work()),
    ],
)
def test_only_what_differs_from_the_stamp_is_done(
    before: stamp.Stamp | None, now: dict[str, str], arguments: str, work: stamp.Work
) -> None:
    """Missing extras never cost a build of the engine."""
    found = replace(before, **now) if before else None  # type: ignore[arg-type]
    assert stamp.compare(before, found, PROJECT, ["test"], arguments) == work


def test_an_environment_whose_python_is_gone_is_made_anew() -> None:
    """There is nothing to see in it."""
    assert stamp.compare(WHOLE, None, PROJECT, [], "") == stamp.Work(everything=True)


def test_a_stamp_reads_back_as_written_and_a_part_of_one_not_at_all(tmp_path: Path) -> None:
    """Half a stamp is no stamp."""
    file = tmp_path / "setup.json"
    stamp.write_stamp(file, WHOLE)
    assert stamp.read_stamp(file) == WHOLE
    assert [path.name for path in tmp_path.iterdir()] == ["setup.json"]
    text = file.read_text()
    for length in range(0, len(text), 7):
        file.write_text(text[:length])
        assert stamp.read_stamp(file) is None
    file.write_text('{"python": "3.11"}')
    assert stamp.read_stamp(file) is None


def test_this_project_pins_its_engine() -> None:
    """The set-up builds the version that pyproject.toml names."""
    project = stamp.read_project(ROOT / "pyproject.toml")
    assert f"{stamp.ENGINE}=={project.engine}" in project.dependencies
    assert set(project.extras) >= {"test", "train"}


def test_an_engine_without_a_pin_is_refused(tmp_path: Path) -> None:
    """The sizes of its structs belong to one version."""
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\ndependencies = ["llama-cpp-python>=0.3"]\n')
    with pytest.raises(failure.Failure, match=r"pyproject.toml does not pin llama-cpp-python to a version"):
        stamp.read_project(file)


def test_an_upgraded_package_is_still_there_and_another_engine_is_not(tmp_path: Path) -> None:
    """Names count, and of the engine also the version."""
    for name in ("pytest-9.0.1", "typing_extensions-4.12", "llama_cpp_python-0.3.36"):
        (tmp_path / f"{name}.dist-info").mkdir()
    assert stamp.list_packages(tmp_path) == ("llama_cpp_python-0.3.36", "pytest", "typing_extensions")


# --- messages

RETRIED = "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('… [Errno -2] Name or"
NONE = "ERROR: Could not find a version that satisfies the requirement six (from versions: none)"
NO_MATCH = "ERROR: No matching distribution found for six"
NO_TRUST = "Could not fetch URL https://x/simple/six/: There was a problem confirming the ssl certificate: … SSLError("


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([RETRIED, NONE, NO_MATCH], "the package index cannot be reached (INDEX)"),
        ([NONE, NO_MATCH], "the package index cannot be reached or has no six (INDEX)"),
        ([NO_TRUST, NONE, NO_MATCH], "the package index is not trusted: its TLS certificate does not verify (INDEX)"),
        (["WARNING: 401 Error, Credentials not correct", NONE, NO_MATCH], "the package index refuses this user"),
        (["ERROR: HTTP error 403 while getting https://x/six"], "the package index refuses this user (INDEX)"),
        (
            ["ERROR: Could not find a version that satisfies six==99 (from versions: 1.0)", f"{NO_MATCH}==99"],
            "the package index has no six==99 for this Python (INDEX)",
        ),
        (["pip._vendor.urllib3.exceptions.ReadTimeoutError: timed out"], "the package index cannot be reached"),
        (["ERROR: an OSError: [Errno 28] No space left on device"], "no space left on the disk"),
        (["c++: fatal error: Killed signal terminated program cc1plus"], "the memory did not suffice for the compiler"),
        ([RETRIED, "  error: subprocess-exited-with-error"], "it fails; the whole log is /log"),
    ],
)
def test_pips_output_becomes_one_message(lines: list[str], message: str) -> None:
    """A retry that went well is not blamed for what failed later."""
    assert commands.explain_pip(lines, "/log", "INDEX", "it fails").message.startswith(message)


def test_a_failed_compilation_shows_the_first_error_and_not_pips_talk() -> None:
    """With several compilers at work the first error is far from the end."""
    lines = [
        *(f"  [{number}/197] g++ -c a.cpp" for number in range(1, 60)),
        "  FAILED: vendor/a.cpp.o",
        "  g++ -O3 " + "-I/x " * 100,
        "  a.cpp:7:1: error: expected ';'",
        "",
        "  ninja: build stopped: subcommand failed.",
        "  error: subprocess-exited-with-error",
        "  × Building wheel for llama_cpp_python (pyproject.toml) did not run successfully.",
        "  │ exit code: 1",
        "  ╰─> See above for output.",
        "  note: This error originates from a subprocess, and is likely not a problem with pip.",
        "ERROR: Failed building wheel for llama_cpp_python",
        "ERROR: Failed to build one or more wheels",
    ]
    assert [line[:30] for line in commands.select_meaningful(lines)] == [
        "FAILED: vendor/a.cpp.o",
        "g++ -O3 -I/x -I/x -I/x -I/x -I",
        "a.cpp:7:1: error: expected ';'",
    ]


def test_a_failed_build_of_the_project_shows_the_exception() -> None:
    """The last one, without what led to it and without pip's summary."""
    said = "FileNotFoundError: not found: models/a.gguf"
    lines = ["AttributeError: x", "  File x.py", said, "  error: metadata-generation-failed"]
    assert commands.select_meaningful(lines) == [said]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@pypi.example:8080/token/simple?key=secret", "https://pypi.example:8080"),
        ("https://[broken", "not a valid address"),
    ],
)
def test_an_index_is_named_without_its_secrets(url: str, shown: str) -> None:
    """User, password, path and query stay out of messages."""
    assert commands.format_host(url) == shown


@pytest.mark.parametrize(
    ("what", "tool", "typed"),
    [
        ("compiler", "apt-get", "sudo apt install build-essential"),
        ("compiler", "dnf", "sudo dnf install gcc gcc-c++"),
        ("compiler", "pacman", "sudo pacman -S base-devel"),
        ("compiler", "xcode-select", "xcode-select --install"),
        ("python", "brew", "brew install python@3.12"),
        ("venv", "apt-get", f"sudo apt install python{sysconfig.get_python_version()}-venv"),
        ("compiler", "", "GCC or Clang"),
        ("python", "", "https://www.python.org/downloads/"),
        ("venv", "", "ensurepip"),
    ],
)
def test_the_hint_is_what_to_type_on_this_platform(what: str, tool: str, typed: str) -> None:
    """The package manager that is there decides."""
    assert typed in failure.install_command(what, frozenset({tool}))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EROFS, "cannot write /src/.venv: read-only file system"),
        (errno.EACCES, "cannot write /src/.venv: permission denied"),
        (errno.ENOSPC, "no space left on the disk (or in the quota) of /src"),
        (errno.ENOTDIR, "/src/.venv: Not a directory"),
    ],
)
def test_an_error_of_the_file_system_is_named(number: int, message: str) -> None:
    """A read-only checkout and a full disk are the person's to repair."""
    error = OSError(number, os.strerror(number), "/src/.venv")
    assert failure.explain_os_error(error, "/src").message == message


def test_a_full_disk_is_said_with_both_numbers() -> None:
    """Need before have."""
    said = machine.explain_space(machine.GIB // 2, 2 * machine.GIB, "/src").message
    assert said == "the set-up needs about 2.0 GiB of disk, 0.5 GiB is free in /src"
