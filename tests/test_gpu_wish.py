"""What the command line says of GPUs, held against what is there."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable

import pytest

from llmrun.cli.gpu_wish import check_required_gpu, tell_unused_gpu_layers, usable_devices
from llmrun.console import Console
from llmrun.engine.protocol import DeviceInfo
from llmrun.errors import UsageError
from llmrun.hardware.device import Device
from llmrun.settings import Constraints
from tests.doctor_machines import CUDA0

Program = Callable[..., subprocess.CompletedProcess[str]]
CPU = DeviceInfo("CPU", "CPU", "AMD EPYC", "CPU", "CPU", 9, 9)


def told(constraints: Constraints, *devices: DeviceInfo) -> str:
    talk = io.StringIO()
    tell_unused_gpu_layers(constraints, lambda: devices, Console(err=talk))
    return talk.getvalue()


def test_layers_for_a_gpu_that_is_not_there_are_told_of() -> None:
    note = "note: --gpu-layers 20 has no effect: the engine sees no GPU\n"
    assert told(Constraints(n_gpu_layers=20), CPU) == note
    assert told(Constraints(n_gpu_layers=20), CUDA0, CPU) == ""
    assert told(Constraints(n_gpu_layers=0), CPU) == told(Constraints(), CPU) == ""


@pytest.mark.parametrize("constraints", [Constraints(devices=()), Constraints(n_gpu_layers=0)])
def test_to_require_a_gpu_and_to_forbid_it_makes_no_sense(constraints: Constraints) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        check_required_gpu(constraints, list)


def test_a_gpu_that_is_there_is_enough() -> None:
    check_required_gpu(Constraints(), lambda: [Device("CUDA0", "CUDA", "RTX", 9, 8)])


def test_a_device_lent_by_another_machine_is_enough_and_only_where_it_was_named(rpc_server: str) -> None:
    assert [device.id for device in usable_devices((rpc_server,))] == [rpc_server]
    assert rpc_server not in [device.id for device in usable_devices(None)]
    assert usable_devices(("CUDA7",)) == ()


@pytest.mark.parametrize("command", [("run", "guide", "hello"), ("chat",), ("plan", "guide")], ids=lambda c: c[0])
def test_a_required_gpu_that_is_not_there_ends_every_running_command(command: tuple[str, ...], llmrun: Program) -> None:
    if usable_devices(None):
        pytest.skip("there is a GPU here")
    done = llmrun(*command, "--require-gpu", stdin="hello\n")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("error: a GPU is required")


def test_a_run_says_once_that_layers_go_to_no_gpu(llmrun: Program) -> None:
    if usable_devices(None):
        pytest.skip("there is a GPU here")
    done = llmrun("chat", "-ngl", "20", stdin="hello\nhi\n")
    assert done.returncode == 0
    assert done.stderr.count("--gpu-layers 20 has no effect") == 1
