"""`llmrun doctor` and `llmrun hardware`: the real program, in this environment and in one made up for it."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.cli.doctoring import findings_text
from llmrun.cli.hardware import Survey, hardware_figures, hardware_text
from llmrun.doctor.checks import check
from llmrun.engine.protocol import DeviceList
from llmrun.hardware.detect import usable
from llmrun.hardware.device import Device, Lender
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.link import USUAL_LINK
from tests.doctor_machines import (
    CPU_ENGINE,
    CUDA0,
    DRIVER_12_4,
    HOST,
    RTX_4090,
    UHD,
    nvidia_machine,
)
from tests.environments import clean_environment

Program = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parent.parent
CAPTURED = Path(__file__).parent / "golden" / "hardware" / "gpus"
BUILT = 'said = "[1/2] Building CXX object x.o"; print(said, flush=True)\n'


def test_hardware_tells_of_this_machine(llmrun: Program) -> None:
    done = llmrun("hardware")
    assert done.returncode == 0, done.stderr
    names = [line[:12].strip() for line in done.stdout.splitlines() if line[:1] != " "]
    assert names[:5] == ["memory", "processor", "threads", "bandwidth", "devices"]
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_hardwares_json_has_a_contract_on_its_keys(llmrun: Program) -> None:
    told = json.loads(llmrun("hardware", "--json").stdout)
    measured = ["bandwidth", "bandwidth_spread", "multiply_adds"]
    assert list(told) == ["host", "devices", "gpus", "nvidia", "engine", "engine_trouble", *measured, "lent", "notes"]
    assert [told[name] for name in measured] == [None] * 3
    assert list(told["host"]) == ["memory", "cpu", "threads", "on_battery", "notes"]
    assert list(told["engine"]) == ["version", "folder", "backends", "system_info", "gpu_offload"]
    assert told["engine_trouble"] is None


def test_what_is_there_and_what_can_be_used_are_told_apart() -> None:
    found = Hardware(HOST, usable([CUDA0]), (RTX_4090, UHD), DRIVER_12_4)
    survey = Survey(found, DeviceList((CUDA0,), CPU_ENGINE.info), None)
    assert hardware_text(survey).splitlines() == [
        "memory        64.0 GiB, of it 48.0 GiB available",
        "              swap: 8.0 GiB, never counted on",
        "processor     Some processor",
        "              cores: 8 physical, 16 logical",
        "              avx, avx2, bmi2, f16c, fma, pni, ssse3",
        "threads       8 physical cores: 8 threads",
        "bandwidth     not measured yet: `llmrun hardware --measure` does it",
        "devices       CUDA0: NVIDIA GeForce RTX 4090, 24.0 GiB, of it 23.0 GiB free",
        "other GPUs    AlderLake-S GT1, shares the host's memory: the engine does not use",
        "              it (`llmrun doctor`)",
        "engine        llama-cpp-python 0.3.36: RPC, CPU",
        "driver        NVIDIA 550.54.14, CUDA up to 12.4",
        "power         mains",
    ]
    assert json.loads(json.dumps(hardware_figures(survey)))["gpus"][1]["unified"] is True


def test_a_machine_without_devices_tells_of_those_that_are_lent_to_it() -> None:
    name = "rpc:127.0.0.1:50052"
    lent = Device(name, "RPC", "a processor", 2 << 30, 2 << 30, lender=Lender("127.0.0.1:50052", USUAL_LINK))
    for devices, told in ((), "none: models run on the CPU"), ((lent,), "none of its own"):
        lines = hardware_text(Survey(Hardware(HOST, devices), DeviceList(()), None)).splitlines()
        at = lines.index(f"devices       {told}")
        assert lines[at + 1].strip().startswith(name) == bool(devices)


def test_an_engine_that_does_not_start_leaves_the_rest_to_be_told() -> None:
    survey = Survey(Hardware(HOST), DeviceList(()), "llama.cpp could not be started: no")
    assert "devices       unknown: llama.cpp could not be started: no" in hardware_text(survey).splitlines()


def test_findings_are_80_columns_and_commands_are_not_broken() -> None:
    facts = nvidia_machine()
    lines = findings_text(check(facts)).splitlines()
    assert "problem  gpu        NVIDIA GeForce RTX 4090 stays idle: the engine was built for" in lines
    assert [line for line in lines if len(line) > 80 and not line.startswith("         > ")] == []
    assert len([line for line in lines if "-m pip install" in line]) == 2


def test_a_repair_that_mends_two_things_is_told_once() -> None:
    facts = nvidia_machine()
    idle = next(finding for finding in check(facts) if finding.check == "gpu")
    text = findings_text([idle, replace(idle, text="the other card")])
    assert text.count("-m pip install") == 2
    assert text.endswith("problem  gpu        the other card\n         > the same as above")


def test_the_doctor_finds_this_machine_well(llmrun: Program) -> None:
    """But for what a machine without an idle GPU may lack: disk, swap, mains."""
    done = llmrun("doctor", "--json")
    told = json.loads(done.stdout)
    bad = {finding["check"] for finding in told["findings"] if finding["level"] == "problem"} - {"gpu", "disk"}
    assert (bad, done.returncode in (0, 1, 7)) == (set(), True)
    assert (done.returncode == 0) == (told["level"] != "problem")
    assert {"python", "engine", "processor", "gpu", "model", "memory", "disk"} <= {
        finding["check"] for finding in told["findings"]
    }


def run_with_gpu(
    home: Path, *arguments: str, broken: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The real program on a machine whose nvidia-smi tells of an RTX 4090 and an RTX 3060; broken: it fails."""
    tools = home / "tools"
    tools.mkdir()
    tool = tools / "nvidia-smi"
    table, head = CAPTURED / "nvidia-smi.rtx-4090.csv", CAPTURED / "nvidia-smi.rtx-4090.txt"
    if broken:
        head = CAPTURED / "nvidia-smi.mismatch.txt"
    code = 18 if broken else 0
    tool.write_text(f'#!/bin/sh\ncase "$1" in --query*) cat "{table}" ;; *) cat "{head}"; exit {code} ;; esac\n')
    tool.chmod(0o755)
    environment = clean_environment(home) | variables
    environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-P", "-m", "llmrun.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a shell script")
def test_a_gpu_that_the_engine_leaves_idle_is_exit_code_7(tmp_path: Path) -> None:
    done = run_with_gpu(tmp_path, "doctor")
    assert done.returncode == 7
    lines = done.stdout.splitlines()
    assert "problem  gpu        NVIDIA GeForce RTX 4090 stays idle: the engine was built for" in lines
    assert "problems found: gpu (2)" in done.stderr
    assert "hint: `llmrun doctor --fix` repairs the engine" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a shell script")
def test_a_report_from_the_real_program_tells_nothing_private(tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    token = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz"
    run_with_gpu(tmp_path, "doctor", "--report", str(report), HF_TOKEN=token, CMAKE_ARGS=f"-DX={tmp_path} -DY={token}")
    text = report.read_text("utf-8")
    assert "NVIDIA GeForce RTX 4090 stays idle" in text
    private = (token, str(tmp_path), str(ROOT), str(Path.home()) + "/", socket.gethostname())
    assert [word for word in private if len(word) > 3 and word in text] == []
    assert f" {getpass.getuser()} " not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "cuda"), "are for --fix"),
        (("--yes",), "are for --fix"),
        (("--fix", "--backend", "opengl"), "'opengl' is none of cpu, cuda, rocm, vulkan, metal, sycl"),
        (("--fix", "--backend", "cpu"), "there is no terminal to ask on"),
    ],
)
def test_a_wish_that_makes_no_sense_is_exit_code_2(llmrun: Program, arguments: tuple[str, ...], message: str) -> None:
    done = llmrun("doctor", *arguments)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a shell script")
def test_what_no_other_engine_would_mend_is_not_built_for(tmp_path: Path) -> None:
    """Without a question, since there is nothing to ask."""
    done = run_with_gpu(tmp_path, "doctor", "--fix", broken=True)
    assert "there is nothing that another engine would mend" in done.stderr
    assert "> restart the machine: its driver was updated while it ran" in done.stdout


# ---- in an environment of its own, with an engine and a pip that are stand-ins


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with the real llmrun, a copy of the real engine, and no pip yet; returns its packages."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    base = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("platlib", "venv", base))
    real = Path(sysconfig.get_path("platlib"))
    (packages / "rest.pth").write_text(f"{real}\n{ROOT}\n")
    shutil.copytree(real / "llama_cpp", packages / "llama_cpp")
    info = next(real.glob("llama_cpp_python-*.dist-info")).name
    (packages / info).mkdir()
    shutil.copy(real / info / "METADATA", packages / info)
    (packages / info / "RECORD").write_text(f"llama_cpp/__init__.py,,\n{info}/METADATA,,\n{info}/RECORD,,\n")
    return packages


def run_in(packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = packages.parents[2]
    python = next(path for path in (home / "bin/python", home / "Scripts/python.exe") if path.exists())
    return subprocess.run(
        [str(python), "-P", "-m", "llmrun.cli.main", "doctor", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(home) | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


def fake_pip(packages: Path, code: str) -> None:
    """Put a package `pip` there that runs this code, with `packages` at hand."""
    (packages / "pip").mkdir()
    (packages / "pip" / "__init__.py").touch()
    setup = f"import pathlib, sys\npackages = pathlib.Path({str(packages)!r})\n"
    (packages / "pip" / "__main__.py").write_text(setup + code)


def engine_bytes(packages: Path) -> dict[str, bytes]:
    found = {path.relative_to(packages).as_posix(): path for path in packages.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(("pip/", "rest.pth"))}


FIX = ("--fix", "--backend", "cpu", "--yes")


def test_a_repair_runs_the_installer_and_keeps_an_engine_that_answers(environment: Path) -> None:
    fake_pip(environment, BUILT + '(packages / "llama_cpp" / "new.txt").write_text(repr(sys.argv[1:]))\n')
    done = run_in(environment, *FIX)
    assert done.returncode in (0, 1), done.stderr
    assert "the engine is replaced: it is built for the CPU now" in done.stderr
    arguments = (environment / "llama_cpp" / "new.txt").read_text()
    assert "'cmake.define.GGML_RPC=on'" in arguments.replace("--config-settings=", "', '").replace("''", "'")
    assert not list(environment.glob(".llmrun*"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('print("x.cpp:1: error: no memory"); sys.exit(1)', "was not built (exit code 1): x.cpp:1: error: no memory"),
        (
            '(packages / "llama_cpp" / "llama_cpp.py").write_text("raise ImportError(\'libcuda.so.1: cannot open\')")',
            "the new engine does not run: llama.cpp could not be started: libcuda.so.1: cannot open",
        ),
        (
            'import shutil; shutil.rmtree(packages / "llama_cpp"); (packages / "llama_cpp").mkdir()\n'
            'kill = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"\n'
            '(packages / "llama_cpp" / "__init__.py").touch()\n'
            '(packages / "llama_cpp" / "llama_cpp.py").write_text(kill)',
            "the new engine does not run: the engine's process met an illegal instruction (SIGILL)",
        ),
    ],
)
def test_after_a_repair_that_fails_the_old_engine_is_there_byte_for_byte(
    environment: Path, code: str, message: str
) -> None:
    fake_pip(environment, BUILT + code)
    before = engine_bytes(environment)
    done = run_in(environment, *FIX)
    assert (done.returncode, message in done.stderr) == (7, True), done.stderr
    assert "hint: the engine from before is in its place again" in done.stderr
    assert engine_bytes(environment) == before


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is a signal on POSIX")
def test_ctrl_c_in_the_middle_of_a_repair_leaves_the_old_engine(environment: Path) -> None:
    code = (
        "import os, shutil, signal, threading\n"
        'shutil.rmtree(packages / "llama_cpp")\n'
        "os.kill(os.getppid(), signal.SIGINT)\nthreading.Event().wait()\n"
    )
    fake_pip(environment, BUILT + code)
    before = engine_bytes(environment)
    done = run_in(environment, *FIX)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        130,
        "stopped: the engine from before is in its place again",
    )
    assert engine_bytes(environment) == before


def test_an_illegal_instruction_is_the_doctors_finding_and_not_the_users(environment: Path) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    (environment / "llama_cpp" / "llama_cpp.py").write_text(code)
    fake_pip(environment, "")
    done = run_in(environment)
    assert done.returncode == 7
    assert "problem  engine     the engine's process met an illegal instruction (SIGILL)" in done.stdout
    assert "`llmrun doctor --fix` builds it for this processor, with this command:" in done.stdout


def test_an_engine_left_aside_is_found_and_put_back(environment: Path) -> None:
    from llmrun.doctor.aside import keep_aside

    fake_pip(environment, "")
    before = engine_bytes(environment)
    keep_aside(environment)
    (environment / "llama_cpp" / "llama_cpp.py").write_text("half an engine")
    done = run_in(environment)
    assert (done.returncode, "an earlier repair was interrupted" in done.stdout) == (7, True)
    assert run_in(environment, "--fix", "--yes").returncode in (0, 1)
    assert engine_bytes(environment) == before
