"""The host as one value: the processor's name and features, the battery, and a look at this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.engine.build import library_folder
from llmrun.engine.layouts import amx_code, read_layouts
from llmrun.hardware.cores import mac_cores, numbered_cores, read_cores
from llmrun.hardware.cpu import (
    FLAGS_AMX,
    CpuAnswer,
    CpuInfo,
    cpu_layouts,
    describe,
    mac_flags,
    parse_cpu_flags,
    parse_cpu_name,
    read_cpu,
    windows_flags,
)
from llmrun.hardware.host import detect_host
from llmrun.hardware.host_memory import read_host_memory
from llmrun.hardware.macos import parse_sysctl
from llmrun.hardware.power import parse_power_supplies, read_power_supplies
from tests.hardware_trees import golden, plant

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="these files are Linux's")
X86 = {"pni", "ssse3", "avx", "avx2", "f16c", "fma", "bmi2"}

# ---- the processor


def test_a_processor_is_told_by_its_name_and_by_what_llama_cpp_has_code_for() -> None:
    text = golden("cpuinfo.epyc.txt")
    answer = CpuAnswer(parse_cpu_name(text), parse_cpu_flags(text))
    features = X86 | {"avx512f", "avx512vbmi", "avx512_vnni", "avx512_bf16"}
    assert describe(answer, numbered_cores(4, 8)) == CpuInfo(
        "AMD EPYC 9354P 32-Core Processor", 4, 8, None, frozenset(features)
    )


def test_an_arm_board_is_told_by_its_name() -> None:
    text = golden("cpuinfo.raspberry-pi-5.txt")
    answer = CpuAnswer(parse_cpu_name(text), parse_cpu_flags(text))
    assert describe(answer, numbered_cores(4, 4)) == CpuInfo(
        "Raspberry Pi 5 Model B Rev 1.0", 4, 4, None, frozenset({"asimd", "asimdhp", "asimddp"})
    )


@on_linux
def test_a_board_that_only_the_device_tree_names_is_named(tmp_path: Path) -> None:
    board = tmp_path / "sys/firmware/devicetree/base/model"
    board.parent.mkdir(parents=True)
    board.write_text("Radxa ROCK 5B\0")
    assert read_cpu(tmp_path) == CpuAnswer("Radxa ROCK 5B", frozenset())
    assert read_cpu(tmp_path / "nothing") == CpuAnswer(None, frozenset())


def test_macs_tell_their_features_by_sysctl() -> None:
    arm, intel = (parse_sysctl(golden(f"sysctl.{name}.txt")) for name in ("m1-pro", "intel-mac"))
    assert mac_flags(arm) == {"asimd", "asimddp"}
    assert describe(CpuAnswer("x", mac_flags(intel)), numbered_cores(6, 12)).features == X86
    assert describe(CpuAnswer("x", mac_flags(arm)), mac_cores(arm)).performance_cores == 8
    assert mac_flags({}) == frozenset()


def test_windows_tells_some_features_and_the_rest_go_with_them() -> None:
    assert windows_flags({13, 36, 39, 40}) == X86
    assert windows_flags({13, 36, 39}) == {"pni", "ssse3", "avx"}
    assert windows_flags({19, 43, 66}) == {"asimd", "asimddp", "i8mm"}


def test_what_is_repacked_follows_from_the_features() -> None:
    assert "Q4_0" in cpu_layouts("arm64", mac_flags(parse_sysctl(golden("sysctl.m1-pro.txt"))))
    assert set(cpu_layouts("AMD64", windows_flags({40}))) == {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}


@on_linux
def test_this_machine_repacks_what_its_cpuinfo_says() -> None:
    import platform

    flags = parse_cpu_flags(Path("/proc/cpuinfo").read_text())
    code = amx_code(library_folder())
    compiled = flags - FLAGS_AMX if code == "none" else flags
    expected = {} if code == "unknown" and flags >= FLAGS_AMX else cpu_layouts(platform.machine(), compiled)
    assert read_layouts() == expected


def test_an_engine_tells_by_its_files_whether_its_amx_code_is_known_to_be_whole(tmp_path: Path) -> None:
    assert amx_code(None) == "unknown"
    assert amx_code(tmp_path) == "unknown"
    (tmp_path / "libggml-cpu.so").write_bytes(b"\x7fELF CPU_REPACK")
    assert amx_code(tmp_path) == "none"
    other = tmp_path / "libggml-cpu-sapphirerapids.so"
    other.write_bytes(b"\x7fELF AMX is not ready to be used!\n")
    assert amx_code(tmp_path) == "unknown"
    other.write_bytes(other.read_bytes() + b"AMX tiles are configured as a whole")
    assert amx_code(tmp_path) == "whole"


# ---- the battery

MAINS_OFF, MAINS_ON = {"type": "Mains", "online": "0"}, {"type": "Mains", "online": "1"}
USB_OFF, USB_ON = {"type": "USB", "online": "0"}, {"type": "USB", "online": "1"}
MOUSE = {"type": "Battery", "scope": "Device", "status": "Discharging"}


def battery(status: str) -> dict[str, str]:
    return {"type": "Battery", "status": status}


@pytest.mark.parametrize(
    ("supplies", "on_battery"),
    [
        ((), None),
        ((MOUSE,), None),
        ((battery("Discharging"), MAINS_OFF), True),
        ((battery("Discharging"), USB_OFF, USB_OFF), True),
        ((battery("Charging"), USB_ON, USB_OFF), False),
        ((battery("Full"),), False),
        ((battery("Not charging"), MAINS_ON), False),
        ((battery("Discharging"), MAINS_ON), False),  # a weak charger under load
        ((battery("Unknown"), MAINS_OFF), None),
        ((MAINS_ON, MOUSE), False),
        (({},), None),
    ],
)
def test_a_machine_is_on_battery_when_nothing_else_feeds_it(
    supplies: tuple[dict[str, str], ...], on_battery: bool | None
) -> None:
    assert parse_power_supplies(supplies) is on_battery


def test_power_supplies_are_read_with_the_files_they_have(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/power_supply"
    for name, files in (("AC", MAINS_OFF), ("BAT0", battery("Discharging") | {"capacity": "50"})):
        (folder / name).mkdir(parents=True)
        for key, text in files.items():
            (folder / name / key).write_text(f"{text}\n")
    assert read_power_supplies(tmp_path) == (MAINS_OFF, battery("Discharging"))
    assert read_power_supplies(tmp_path / "nothing") == ()


# ---- the whole


def test_this_machine_is_found_with_nothing_printed(capfd: pytest.CaptureFixture[str]) -> None:
    found, memory = detect_host(), read_host_memory()
    assert (found.memory.total, found.memory.limit) == (memory.total, memory.limit)
    assert (found.cpu.physical_cores, found.cpu.name) == (len(read_cores()), read_cpu().name)
    assert 1 <= found.threads.decode <= found.cpu.physical_cores
    assert capfd.readouterr() == ("", "")


@on_linux
def test_a_container_is_found_as_such(tmp_path: Path) -> None:
    found = detect_host(plant(tmp_path, "host-64gib", "docker-v2", "cores.i7-12700"))
    assert (found.memory.total, found.cpu.performance_cores, found.cpu.logical_cores) == (2 << 30, 8, 20)
    assert found.threads.decode == 1
    assert found.notes == ("the processor's features cannot be seen",)


@on_linux
def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    found = detect_host(tmp_path)
    assert (found.memory.limit, found.cpu.name, found.on_battery) == (None, None, None)
    assert found.memory.total > 0
    assert found.threads.decode >= 1


@on_linux
def test_counting_threads_needs_no_psutil() -> None:
    """It is on the way to the first token."""
    code = "import sys; from llmrun.hardware.threads import choose_threads as f; f(); print('psutil' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
