"""The set-up really run, in throwaway checkouts without a network: failures, resumption, and a second run."""

from __future__ import annotations

import ast
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import asdict
from pathlib import Path

import pytest

from scripts.setup import commands, engine, stamp

ROOT = Path(__file__).parents[1]
UNREACHABLE = {"PIP_INDEX_URL": "http://user:secret@127.0.0.1:9/simple", "PIP_RETRIES": "0"}
OLD = "import sys; sys.version_info = (3, 8, 18, 'final', 0)"
NO_ENSUREPIP = "import sys; sys.modules['ensurepip'] = None"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "llmrun"
version = "0.1.0"
dependencies = ["llama-cpp-python==0.3.36"]
[project.optional-dependencies]
test = ["tiny"]
absent = ["no-such-package"]
"""
BACKEND = """
import pathlib, zipfile

def make_wheel(folder, name, version, files):
    info = f"{name}-{version}.dist-info"
    files = dict(files)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[f"{info}/RECORD"] = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    wheel = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel

def build_editable(folder, config_settings=None, metadata_directory=None):
    entry = "[console_scripts]\\nllmrun = llmrun_stand_in:main\\n"
    files = {"llmrun.pth": str(pathlib.Path.cwd()), "llmrun-0.1.0.dist-info/entry_points.txt": entry}
    return make_wheel(folder, "llmrun", "0.1.0", files)
"""
LLMRUN = "import sys\ndef main():\n    print(sys.argv[1:], sys.stdin.read())\n"
ENGINE = """
def find(name):
    return name == b"RPC"
_lib = {"ggml_backend_reg_by_name": find}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose path has a space in it."""
    folder = tmp_path / "a checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "scripts" / "setup", folder / "scripts" / "setup", ignore=ignored)
    for name in ("__init__.py", "bootstrap", "bootstrap.py", "chat"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts" / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with compilers that are always content, and nothing else."""
    folder = tmp_path / "bin"
    for name in ("cc", "c++"):
        write_program(folder / name, "exit 0")
    return folder


def write_program(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def make_environment(tools: Path, settings: dict[str, str]) -> dict[str, str]:
    own = {"PATH": str(tools), "HOME": str(tools), "PIP_CONFIG_FILE": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
    return {**own, **settings}


def run_bootstrap(
    checkout: Path, tools: Path, *arguments: str, before: str = "pass", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run scripts/bootstrap.py after `before`, a piece of Python that doctors the interpreter."""
    script = str(checkout / "scripts" / "bootstrap.py")
    start = f"import runpy, sys; sys.argv = {[script, *arguments]!r}; runpy.run_path(sys.argv[0], None, '__main__')"
    environment = make_environment(tools, settings)
    return subprocess.run(
        [sys.executable, "-c", f"{before}; {start}"], env=environment, capture_output=True, text=True, check=False
    )


def assert_failed(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One message that has these words, no traceback, exit code 1, nothing on stdout."""
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def assert_not_good(checkout: Path) -> None:
    """Nothing here could be taken for a whole environment."""
    assert not (checkout / ".venv" / "setup.json").exists()


# --- failures


@pytest.mark.parametrize("name", ["bootstrap.py", "setup/failure.py"])
def test_what_an_old_python_reads_is_in_its_language(name: str) -> None:
    """A syntax error would come before any message."""
    ast.parse((ROOT / "scripts" / name).read_text(), feature_version=(3, 7))


def test_an_old_python_is_named_and_the_way_out_told(checkout: Path, tmp_path: Path) -> None:
    """Where no other Python is on PATH there is only the message."""
    result = run_bootstrap(checkout, tmp_path / "nothing", before=OLD)
    assert_failed(result, "llmrun needs Python 3.11 or newer; this is 3.8.18", sys.executable, "hint: ")
    assert not (checkout / ".venv").exists()


def test_a_version_managers_dead_stub_is_no_python(checkout: Path, tools: Path) -> None:
    """A name on PATH is not yet a Python that starts."""
    write_program(tools / "python3.12", "exit 127")
    assert_failed(run_bootstrap(checkout, tools, before=OLD), "this is 3.8.18")


def test_a_newer_python_on_path_takes_over(checkout: Path, tmp_path: Path) -> None:
    """python3 may be old where python3.12 is installed beside it: the next trouble is another one."""
    write_program(tmp_path / "bin" / "python3.12", f'exec "{sys.executable}" "$@"')
    assert_failed(run_bootstrap(checkout, tmp_path / "bin", before=OLD), "no C compiler found (cc, gcc, clang)")


def test_no_python_at_all_is_a_message_too(checkout: Path, tmp_path: Path) -> None:
    """The shell script is the only one left to say it."""
    for name in ("bash", "dirname"):
        write_program(tmp_path / "bin" / name, f'exec {shutil.which(name)} "$@"')
    environment = make_environment(tmp_path / "bin", {})
    command = [str(checkout / "scripts" / "chat")]
    assert_failed(
        subprocess.run(command, env=environment, capture_output=True, text=True, check=False), "PATH has no python3"
    )


def test_a_missing_compiler_is_said_before_anything_is_made(checkout: Path, tools: Path) -> None:
    """Nobody waits for a download to learn that."""
    (tools / "c++").unlink()
    assert_failed(run_bootstrap(checkout, tools), "no C++ compiler found (c++, g++, clang++)", "hint: ")
    assert not (checkout / ".venv" / "bin").exists()


def test_a_compiler_that_makes_no_program_is_a_missing_one(checkout: Path, tools: Path) -> None:
    """On a Mac without developer tools c++ is there, and says so."""
    write_program(tools / "c++", "echo 'xcode-select: note: no developer tools were found' >&2; exit 1")
    said = "the C++ compiler c++ makes no program: xcode-select: note: no developer tools were found"
    assert_failed(run_bootstrap(checkout, tools), said)


def test_a_python_without_ensurepip_is_named(checkout: Path, tools: Path) -> None:
    """Debian packs it apart."""
    result = run_bootstrap(checkout, tools, before=NO_ENSUREPIP)
    assert_failed(result, "lacks ensurepip", sys.executable)
    assert not (checkout / ".venv" / "bin").exists()


def test_an_unknown_extra_is_refused_with_the_known_ones(checkout: Path, tools: Path) -> None:
    """A typo in a script of ours must not pass for "nothing to do"."""
    assert_failed(
        run_bootstrap(checkout, tools, "--extra", "tset"), "no extra tset: there are test, nvidia, release, plot, train"
    )


def test_an_unreachable_index_is_named_and_the_half_made_venv_is_not_good(checkout: Path, tools: Path) -> None:
    """What stood in .venv before, unfinished, is gone; the setting is named without its password."""
    junk = checkout / ".venv" / "lib" / "junk"
    junk.mkdir(parents=True)
    result = run_bootstrap(checkout, tools, **UNREACHABLE)
    assert_failed(result, "the package index cannot be reached", "PIP_INDEX_URL, http://127.0.0.1:9", "download.log")
    assert "secret" not in result.stderr
    assert not junk.exists()
    assert_not_good(checkout)


def test_a_stopped_program_leaves_nothing_running(tmp_path: Path) -> None:
    """Ctrl-C ends the compilers that pip has started, not only pip."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commands.run(
            ["/bin/sh", "-c", f"exec 3>{fifo}; sleep 1000 & echo; wait"], tmp_path / "log", os.environ, interrupt
        )
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # the end of file: whoever held the other end is gone
    os.close(reader)


# --- the whole way, with a stand-in for the engine's wheel and packages from a folder


@pytest.fixture
def offline(checkout: Path, tools: Path) -> Path:
    """A checkout that can be set up without a network, its engine built already."""
    (checkout / "pyproject.toml").write_text(PYPROJECT)
    (checkout / "backend.py").write_text(BACKEND)
    (checkout / "llmrun_stand_in.py").write_text(LLMRUN)
    make_wheel = runpy.run_path(str(checkout / "backend.py"))["make_wheel"]
    make_wheel(tools, "tiny", "1.0", {"tiny.py": ""})
    folder = checkout / ".venv" / "engine"
    folder.mkdir(parents=True)
    files = {"llama_cpp/__init__.py": "", "llama_cpp/llama_cpp.py": ENGINE}
    wheel = make_wheel(folder, "llama_cpp_python", "0.3.36", files)
    built = engine.Engine("0.3.36", "", "-DGGML_RPC=ON", sysconfig.get_platform(), wheel)
    stamp.write_json(folder / "engine.json", asdict(built))
    return checkout


def run_offline(checkout: Path, tools: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_bootstrap(checkout, tools, *arguments, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tools))


@pytest.mark.slow
def test_an_unfinished_venv_is_made_anew_around_its_engine_and_then_left_alone(offline: Path, tools: Path) -> None:
    """The slow part is used again; a second run says nothing; an extra costs only itself; a failure costs nothing."""
    first = run_offline(offline, tools)
    assert (first.returncode, first.stdout) == (0, "")
    assert "building" not in first.stderr
    second = run_offline(offline, tools)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")

    assert_failed(run_offline(offline, tools, "--extra", "absent"), "no-such-package", "PIP_NO_INDEX")
    assert run_offline(offline, tools).stderr == ""

    extra = run_offline(offline, tools, "--extra", "test")
    assert (extra.returncode, extra.stderr) == (0, "installing what is missing: test\n")
    written = stamp.read_stamp(offline / ".venv" / "setup.json")
    assert written is not None
    assert set(written.packages) == {"llama_cpp_python-0.3.36", "llmrun", "pip", "setuptools", "tiny"} & set(
        stamp.list_packages(offline / ".venv" / "lib" / f"python{written.python}" / "site-packages")
    )
    assert run_offline(offline, tools, "--extra", "test").stderr == ""

    talk = subprocess.run(
        [str(offline / "scripts" / "chat"), "./my model.gguf", "--ctx", "8"],
        input="hello",
        env=make_environment(tools, {"PATH": f"{tools}:{os.defpath}"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (talk.returncode, talk.stderr) == (0, "")
    assert talk.stdout == "['chat', './my model.gguf', '--ctx', '8'] hello\n"

    moved = offline.rename(offline.with_name("moved"))
    again = run_offline(moved, tools)
    assert again.returncode == 0
    version = sysconfig.get_python_version()
    assert again.stderr == f"making .venv with Python {version}\ninstalling llmrun and what it needs (test)\n"


def test_an_engine_without_rpc_is_built_once_more(offline: Path, tools: Path) -> None:
    """The registry is asked, not the build's arguments; here the second build finds no source, so nothing is good."""
    folder = offline / ".venv" / "engine"
    make_wheel = runpy.run_path(str(offline / "backend.py"))["make_wheel"]
    files = {"llama_cpp/__init__.py": "", "llama_cpp/llama_cpp.py": ENGINE.replace("RPC", "rpc")}
    make_wheel(folder, "llama_cpp_python", "0.3.36", files)
    result = run_offline(offline, tools)
    assert_failed(result, "no RPC backend although it was asked for: building it once more", "llama-cpp-python==0.3.36")
    assert_not_good(offline)
