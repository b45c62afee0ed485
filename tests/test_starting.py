"""Starting: in which order things are done, and what is not done at all."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from llmrun.cli.first import will_load
from llmrun.engine import spawn
from llmrun.engine.client import Engine


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run guide hi", True),
        ("run guide", True),
        ("chat", True),
        ("chat guide --quiet", True),
        ("run", False),
        ("run --help", False),
        ("chat -h", False),
        ("--version", False),
        ("serve guide", False),
        ("plan guide", False),
        ("", False),
    ],
)
def test_only_what_is_about_to_load_a_model_begins_a_worker(line: str, expected: bool) -> None:
    assert will_load(line.split(), {}) is expected


def test_a_shell_that_asks_how_a_line_goes_on_gets_no_worker() -> None:
    assert not will_load(["run", "gui"], {"_LLMRUN_COMPLETE": "complete_bash"})


def test_the_worker_begins_before_the_command_line_is_imported() -> None:
    code = (
        "import sys; sys.argv = ['llmrun', 'run', 'guide', 'hi']\n"
        "from llmrun.cli.first import begin_worker; begin_worker()\n"
        "from llmrun.engine import spawn; pid = spawn._begun.process.pid; assert pid\n"
        "print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded & {"typer", "msgspec", "llmrun.cli.main", "llmrun.pipeline", "llmrun.planner"} == set()
    assert {name for name in loaded if name.startswith("llmrun.")} == {
        "llmrun.cli",
        "llmrun.cli.first",
        "llmrun.engine",
        "llmrun.engine.spawn",
        "llmrun.errors",
    }


def test_the_worker_that_was_begun_is_the_one_that_is_asked() -> None:
    spawn.begin()
    begun = spawn._begun
    assert begun is not None
    spawn.begin()
    assert spawn._begun is begun
    with Engine() as engine:
        assert engine.pid == begun.process.pid
        assert any(info.kind == "CPU" for info in engine.devices())
        with Engine() as other:
            assert other.pid != engine.pid


def test_a_worker_that_nobody_asks_for_is_ended_and_gone() -> None:
    spawn.begin()
    assert spawn._begun is not None
    pid = spawn._begun.process.pid
    spawn.discard()
    assert not psutil.pid_exists(pid)
    spawn.discard()


def test_a_program_that_fails_at_once_leaves_no_worker_behind() -> None:
    command = [sys.executable, "-P", "-c"]
    code = (
        "import sys; sys.argv = ['llmrun', 'run', './there-is-none.gguf', 'hi']\n"
        "from llmrun.cli.first import begin_worker; begin_worker()\n"
        "from llmrun.engine import spawn; print(spawn._begun.process.pid, flush=True)\n"
        "from llmrun.cli.main import main; main()"
    )
    done = subprocess.run([*command, code], capture_output=True, text=True, check=False)
    assert (done.returncode, "there is no file" in done.stderr) == (5, True)
    assert not psutil.pid_exists(int(done.stdout))


def test_a_worker_that_died_before_it_was_asked_for_is_replaced() -> None:
    spawn.begin()
    begun = spawn._begun
    assert begun is not None
    begun.process.kill()
    begun.process.wait()
    with Engine() as engine:
        assert engine.pid != begun.process.pid


def test_the_worker_imports_only_the_low_level_bindings() -> None:
    code = (
        "from llmrun.worker.bindings import read_version, skip_high_level; skip_high_level()\n"
        "import llmrun.worker.runner, sys\n"
        "print(read_version(), *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    version, *loaded = done.stdout.split()
    assert version == "0.3.36"
    assert set(loaded) & {"llama_cpp.llama", "diskcache", "multiprocessing", "llmrun.worker.connections"} == set()
    assert "llama_cpp.llama_cpp" in loaded
