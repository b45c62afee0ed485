"""hardware: GPUs as each vendor's tools and the bus tell of them, on what those really print."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.protocol import DeviceInfo
from llmrun.hardware.amd import fill_from_rocm_smi, parse_kfd, parse_rocm_smi
from llmrun.hardware.apple import parse_system_profiler
from llmrun.hardware.detect import device_of, usable
from llmrun.hardware.device import Device
from llmrun.hardware.gpu import Gpu, NvidiaDriver, clean_name, parse_number
from llmrun.hardware.nvidia import (
    NvidiaAnswer,
    parse_nvidia_smi,
    parse_nvidia_smi_head,
    parse_proc_information,
    parse_proc_version,
    pci_address,
    read_nvml,
)
from llmrun.hardware.pci import parse_pci, parse_pci_names
from llmrun.hardware.processes import Said, ask_program
from llmrun.hardware.windows_gpus import parse_display_class

CAPTURED = Path(__file__).parent / "golden" / "hardware" / "gpus"
MIB, GIB = 1 << 20, 1 << 30


def captured(name: str) -> str:
    return (CAPTURED / name).read_text("utf-8")


RTX_4090 = Gpu(
    "nvidia", "NVIDIA GeForce RTX 4090", "0000:01:00.0", 24564 * MIB, 23651 * MIB, driver="nvidia", target="8.9"
)
RTX_3060 = Gpu(
    "nvidia", "NVIDIA GeForce RTX 3060", "0000:41:00.0", 12288 * MIB, 12041 * MIB, driver="nvidia", target="8.6"
)


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("nvidia-smi.rtx-4090.csv", (RTX_4090, RTX_3060)),
        ("nvidia-smi.gb10.csv", (Gpu("nvidia", "NVIDIA GB10", "000f:01:00.0", None, None, True, "nvidia", "12.1"),)),
        (
            "nvidia-smi.470.csv",
            (Gpu("nvidia", "Tesla K80", "0000:03:00.0", 11441 * MIB, 11438 * MIB, driver="nvidia"),),
        ),
        ("nvidia-smi.no-driver.txt", ()),
    ],
)
def test_nvidia_smis_table_is_read(name: str, gpus: tuple[Gpu, ...]) -> None:
    """A chip that shares its host's memory tells no size; a driver before 510 tells no compute capability."""
    assert parse_nvidia_smi(captured(name)) == gpus


@pytest.mark.parametrize(
    ("code", "name", "driver"),
    [
        (0, "nvidia-smi.rtx-4090.txt", NvidiaDriver("550.54.14", "12.4")),
        (
            18,
            "nvidia-smi.mismatch.txt",
            NvidiaDriver(trouble="Failed to initialize NVML: Driver/library version mismatch"),
        ),
        (
            9,
            "nvidia-smi.no-driver.txt",
            NvidiaDriver(
                trouble="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
                "Make sure that the latest NVIDIA driver is installed and running."
            ),
        ),
    ],
)
def test_nvidia_smis_head_tells_versions_or_why_not(code: int, name: str, driver: NvidiaDriver) -> None:
    assert parse_nvidia_smi_head(Said(code, captured(name))) == driver


def test_a_driver_that_says_nothing_is_a_trouble_all_the_same() -> None:
    assert parse_nvidia_smi_head(Said(3)) == NvidiaDriver(trouble="nvidia-smi ended with exit code 3")
    assert parse_nvidia_smi_head(Said(None, "", "no answer in 5 seconds")).trouble == "no answer in 5 seconds"


def test_the_kernels_own_files_stand_in_for_nvidia_smi() -> None:
    assert parse_proc_information(captured("nvidia.proc-information.txt")) == Gpu(
        "nvidia", "NVIDIA GeForce GTX 1080 Ti", "0000:0a:00.0", driver="nvidia"
    )
    assert parse_proc_information("IRQ: 3\n") is None
    assert parse_proc_version(captured("nvidia.proc-version.txt")) == "535.183.01"
    assert parse_proc_version(captured("nvidia.proc-version-open.txt")) == "570.86.10"
    assert parse_proc_version("") is None


class NvmlError(Exception):
    pass


def fake_nvml(**changes: Any) -> Any:
    """The module pynvml, as nvidia-ml-py 12 has it, for one RTX 4090."""
    names: dict[str, Any] = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 12040,
        "nvmlSystemGetDriverVersion": lambda: "550.54.14",
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=24564 * MIB, free=23651 * MIB),
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 9),
        "nvmlDeviceGetPciInfo": lambda handle: SimpleNamespace(busId="00000000:01:00.0"),
        "nvmlDeviceGetName": lambda handle: b"NVIDIA GeForce RTX 4090",  # bytes before version 12
    }
    return SimpleNamespace(**(names | changes))


def raising(error: Exception) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_nvidia_ml_py_tells_what_nvidia_smi_does() -> None:
    assert read_nvml(fake_nvml()) == NvidiaAnswer((RTX_4090,), NvidiaDriver("550.54.14", "12.4"))


def test_a_library_without_a_driver_is_no_driver_and_one_with_trouble_says_so() -> None:
    missing = type("NVMLError_LibraryNotFound", (NvmlError,), {})("NVML Shared Library Not Found")
    assert read_nvml(fake_nvml(nvmlInit=raising(missing))) == NvidiaAnswer()
    broken = fake_nvml(nvmlInit=raising(NvmlError("Driver/library version mismatch")))
    assert read_nvml(broken) == NvidiaAnswer((), NvidiaDriver(trouble="Driver/library version mismatch"))
    lost = fake_nvml(nvmlDeviceGetHandleByIndex=raising(NvmlError("GPU is lost")))
    assert read_nvml(lost) == NvidiaAnswer((), NvidiaDriver(trouble="GPU is lost"))


def test_a_gpu_without_memory_of_its_own_is_unified_for_nvml_too() -> None:
    answer = read_nvml(fake_nvml(nvmlDeviceGetMemoryInfo=raising(NvmlError("Not Supported"))))
    assert [(gpu.total, gpu.free, gpu.unified) for gpu in answer.gpus] == [(None, None, True)]


@pytest.mark.parametrize(
    ("told", "address"),
    [("00000000:01:00.0", "0000:01:00.0"), ("0000000F:01:00.0", "000f:01:00.0"), ("0000:0A:1F.7", "0000:0a:1f.7")],
)
def test_an_address_is_written_as_sysfs_does(told: str, address: str) -> None:
    assert pci_address(told) == address


def test_rocm_smi_fills_in_what_sysfs_did_not_say() -> None:
    said = parse_rocm_smi(captured("rocm-smi.two-cards.json"))
    assert said == {
        "0000:03:00.0": Gpu("amd", "AMD GPU", "0000:03:00.0", 34208743424, 4983361536, target="gfx1201"),
        "0000:0a:00.0": Gpu("amd", "Radeon RX 7900 XTX", "0000:0a:00.0", 25753026560, 24679284736, target="gfx1100"),
    }
    silent = Gpu("amd", "Navi 48", "0000:03:00.0", driver="amdgpu")
    known = Gpu("amd", "Navi 31", "0000:0a:00.0", 5, 4, driver="amdgpu")
    assert fill_from_rocm_smi([silent, known], said) == (
        Gpu("amd", "Navi 48", "0000:03:00.0", 34208743424, 4983361536, driver="amdgpu", target="gfx1201"),
        known,
    )


@pytest.mark.parametrize("text", ["", "no JSON", "{", "{}", '{"card0": 3}', "ERROR: No AMD GPU\n[1]"])
def test_a_rocm_smi_that_says_nothing_useful_is_no_error(text: str) -> None:
    assert parse_rocm_smi(text) == {}


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("system_profiler.m2-pro.json", (Gpu("apple", "Apple M2 Pro", unified=True),)),
        (
            "system_profiler.intel-mac.json",
            (
                Gpu("intel", "Intel UHD Graphics 630", unified=True),
                Gpu("amd", "AMD Radeon Pro 5500M", total=4 * GIB),
            ),
        ),
    ],
)
def test_a_macs_gpus_are_read(name: str, gpus: tuple[Gpu, ...]) -> None:
    assert parse_system_profiler(captured(name)) == gpus


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"SPDisplaysDataType": [3]}', "\0"])
def test_a_system_profiler_that_says_nothing_useful_is_no_error(text: str) -> None:
    assert parse_system_profiler(text) == ()


def test_windows_adapters_are_read_and_ghosts_of_them_are_not() -> None:
    card = {
        "DriverDesc": "NVIDIA GeForce RTX 4070",
        "MatchingDeviceId": r"pci\ven_10de&dev_2786",
        "HardwareInformation.qwMemorySize": 12878610432,
    }
    inside = {
        "DriverDesc": "Intel(R) UHD Graphics 770",
        "MatchingDeviceId": r"PCI\VEN_8086&DEV_4680",
        "HardwareInformation.qwMemorySize": 134217728,
    }
    basic = {"DriverDesc": "Microsoft Remote Display Adapter", "MatchingDeviceId": "TERMSRV"}
    assert parse_display_class([card, inside, card, basic, {}]) == (
        Gpu("nvidia", "NVIDIA GeForce RTX 4070", total=12878610432),
        Gpu("intel", "Intel(R) UHD Graphics 770", unified=True),
        Gpu("other", "Microsoft Remote Display Adapter"),
    )


@given(st.text(), st.text(max_size=5))
def test_no_text_makes_a_parser_fail(text: str, name: str) -> None:
    parse_nvidia_smi(text), parse_nvidia_smi_head(Said(0, text)), parse_rocm_smi(text), parse_system_profiler(text)
    parse_kfd([text]), parse_pci_names(text, {(1, 2)}), parse_proc_information(text), parse_proc_version(text)
    parse_pci({name: {"class": text, "vendor": name}}), parse_number(text)
    assert clean_name(text) == " ".join(clean_name(text).split())


def test_a_name_reaches_nobody_with_control_characters() -> None:
    assert clean_name("  Evil\x1b[2J GPU\n\tX\x9b ") == "Evil [2J GPU X"


def test_a_program_that_is_not_there_or_takes_too_long_is_no_error() -> None:
    assert ask_program(["/nonexistent/tool"]) == Said(None, "", "No such file or directory")
    import sys

    slow = ask_program([sys.executable, "-c", "import sys; sys.stdin.read(); input()"], seconds=20)
    assert slow.code == 1  # its stdin is empty: nothing waits for a terminal
    hung = ask_program([sys.executable, "-c", "import threading; threading.Event().wait()"], seconds=0.5)
    assert hung == Said(None, "", "no answer in 0.5 seconds")


@pytest.mark.parametrize(
    ("kind", "backend", "unified"),
    [("GPU", "CUDA", False), ("IGPU", "Vulkan", True), ("GPU", "MTL", True), ("GPU", "RPC", False)],
)
def test_a_device_is_unified_where_its_memory_is_the_hosts(kind: str, backend: str, unified: bool) -> None:
    info = DeviceInfo("X0", "X0", "A GPU", backend, kind, 5, 9)
    assert device_of(info) == Device("X0", backend, "A GPU", 9, 5, unified)


def test_layers_are_given_to_gpus_only() -> None:
    kinds = ("CPU", "GPU", "IGPU", "ACCEL", "META")
    infos = [DeviceInfo(kind, kind, "", "X", kind, 1, 1) for kind in kinds]
    assert [device.id for device in usable(infos)] == ["GPU", "IGPU"]
