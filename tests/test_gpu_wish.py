"""What the command line says of GPUs, held against what is there: --require-gpu, --gpu-layers without effect."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from llmrun.cli.wishes import check_gpu_wishes
from llmrun.engine.client import Engine
from llmrun.errors import UsageError
from llmrun.planning.plan import PlanWish
from llmrun.settings import Constraints

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def no_gpu() -> None:
    """Skips where this machine has a GPU that the engine uses."""
    with Engine() as engine:
        if any(device.kind in ("GPU", "IGPU") for device in engine.devices()):
            pytest.skip("there is a GPU here")


@pytest.mark.parametrize("constraints", [Constraints(devices=()), Constraints(n_gpu_layers=0)])
def test_to_require_a_gpu_and_to_forbid_it_makes_no_sense(constraints: Constraints) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        check_gpu_wishes(constraints, PlanWish(require_gpu=True))
    check_gpu_wishes(constraints, PlanWish())


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("command", [("run", "guide", "hello"), ("chat",), ("plan", "guide")], ids=lambda c: c[0])
def test_a_required_gpu_that_is_not_there_ends_every_running_command(command: tuple[str, ...], llmrun: Program) -> None:
    done = llmrun(*command, "--require-gpu", stdin="hello\n")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("error: a GPU is required")


def test_a_device_lent_by_another_process_is_enough(llmrun: Program, rpc_server: str) -> None:
    done = llmrun("run", "guide", "hello", "--require-gpu", "--device", f"{rpc_server}=1GiB", "-t", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Hello!")


def test_a_device_on_which_nothing_fits_is_not_enough(llmrun: Program, rpc_server: str) -> None:
    done = llmrun("plan", "guide", "--require-gpu", "--device", f"{rpc_server}=512MiB")
    assert (done.returncode, done.stdout) == (7, "")
    assert "nothing of the model fits there" in done.stderr


@pytest.mark.parametrize(("machine", "code"), [("ram=16GiB", 7), ("rtx3060+16GiB", 0)])
def test_a_machine_that_was_described_is_held_against_it_too(llmrun: Program, machine: str, code: int) -> None:
    assert llmrun("plan", "guide", "--on", machine, "--require-gpu").returncode == code


@pytest.mark.usefixtures("no_gpu")
def test_a_run_says_once_that_layers_go_to_no_gpu(llmrun: Program) -> None:
    done = llmrun("chat", "-ngl", "20", stdin="hello\nhi\n")
    assert done.returncode == 0
    assert done.stderr.count("--gpu-layers 20 has no effect") == 1
