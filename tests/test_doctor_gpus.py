"""doctor.gpu_checks: GPUs that the engine does not use, why, and the exact commands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmrun.doctor.checks import check
from llmrun.doctor.facts import DeviceFile, Facts
from llmrun.doctor.finding import Finding
from llmrun.engine.protocol import DeviceInfo
from llmrun.hardware.gpu import Gpu, NvidiaDriver
from tests.doctor_machines import (
    ARC,
    BLIND_CUDA_ENGINE,
    CUDA0,
    CUDA_ENGINE,
    GIB,
    M2,
    ROCM0,
    RTX_4090,
    RX_7900,
    UHD,
    engine,
    machine,
    nvidia_machine,
)

PIP = "/home/ada/venv/bin/python -m pip install --force-reinstall --no-deps --no-cache-dir"
PIP_BUILD = f"{PIP} --no-binary=llama-cpp-python"
CUDA_BUILD = (
    f"{PIP_BUILD} --config-settings=cmake.define.GGML_CUDA=on --config-settings=cmake.define.GGML_RPC=on "
    "--config-settings=cmake.define.CMAKE_CUDA_COMPILER=/usr/local/cuda/bin/nvcc llama-cpp-python==0.3.36"
)
FASTER = "or, faster, one that is built already, without devices of other machines (--prebuilt):"


def found(facts: Facts, name: str) -> list[Finding]:
    return [finding for finding in check(facts) if finding.check == name]


def gpu_finding(facts: Facts) -> Finding:
    (finding,) = found(facts, "gpu")
    return finding


def test_an_idle_gpu_is_a_problem_with_the_command_that_repairs_it() -> None:
    """The most reported complaint: a GPU, and an engine built for the CPU only."""
    assert gpu_finding(nvidia_machine()) == Finding(
        "gpu",
        "problem",
        "NVIDIA GeForce RTX 4090 stays idle: the engine was built for the CPU only",
        (
            "`llmrun doctor --fix` builds the engine for CUDA, with this command:",
            CUDA_BUILD,
            FASTER,
            f"{PIP} --only-binary=llama-cpp-python "
            "--index-url=https://abetlen.github.io/llama-cpp-python/whl/cu124 llama-cpp-python==0.3.36",
        ),
        rebuild=True,
    )


def test_what_is_missing_for_the_build_comes_first() -> None:
    repair = gpu_finding(nvidia_machine(tools={})).repair
    assert repair[:2] == (
        "first: a C++ compiler (c++) is missing: sudo apt install g++",
        "first: the CUDA toolkit (nvcc) is missing: sudo apt install nvidia-cuda-toolkit",
    )


def test_a_gpu_that_shares_the_hosts_memory_may_stay_idle() -> None:
    text = "AlderLake-S GT1 shares the host's memory; the engine, built for the CPU, leaves it alone"
    repair = ("`llmrun doctor --fix --backend vulkan` builds one that uses it",)
    assert gpu_finding(machine(UHD)) == Finding("gpu", "ok", text, repair)


def test_a_gpu_beside_a_card_in_use_is_no_problem() -> None:
    facts = machine(UHD, RTX_4090, nvidia=NvidiaDriver("550.54.14", "12.4"), engine=CUDA_ENGINE)
    assert [(finding.level, finding.text) for finding in found(facts, "gpu")] == [
        ("ok", "NVIDIA GeForce RTX 4090: the engine uses it, as CUDA0"),
        ("ok", "AlderLake-S GT1 shares the host's memory; the engine uses the card instead"),
    ]


def test_a_chip_that_is_mostly_gpu_may_not_stay_idle_though_it_shares_the_hosts_memory() -> None:
    gb10 = Gpu("nvidia", "NVIDIA GB10", "000f:01:00.0", unified=True, driver="nvidia", target="12.1")
    finding = gpu_finding(machine(gb10, nvidia=NvidiaDriver("580.95.05", "13.0"), machine="aarch64"))
    assert (finding.level, finding.text) == (
        "problem",
        "NVIDIA GB10 stays idle: the engine was built for the CPU only",
    )


def test_apples_gpu_may_not() -> None:
    finding = gpu_finding(machine(M2, system="darwin", machine="arm64", distribution=None, tools={}))
    assert (finding.level, finding.text) == (
        "problem",
        "Apple M2 Pro stays idle: the engine was built for the CPU only",
    )
    assert "Xcode's command line tools (xcode-select) is missing: xcode-select --install" in finding.repair[0]


def test_without_any_gpu_there_is_nothing_to_repair() -> None:
    assert gpu_finding(machine()) == Finding("gpu", "ok", "no GPU was found: models run on the CPU")
    screen = Gpu("other", "display adapter 1234:1111", "0000:00:02.0", driver="bochs-drm")
    assert gpu_finding(machine(screen)) == Finding("gpu", "ok", "no GPU was found: models run on the CPU")


@pytest.mark.parametrize(
    ("facts", "text", "repair"),
    [
        (
            machine(replace(RTX_4090, name="AD102", driver="nouveau")),
            "AD102 has the driver nouveau; computing needs nvidia",
            ("sudo ubuntu-drivers install, or sudo apt install nvidia-driver", "then restart the machine"),
        ),
        (
            machine(replace(RTX_4090, name="AD102", driver=None), distribution="gentoo"),
            "AD102 has no driver; computing needs nvidia",
            ("install NVIDIA's driver: https://www.nvidia.com/drivers", "then restart the machine"),
        ),
        (
            machine(
                RTX_4090, nvidia=NvidiaDriver(trouble="Failed to initialize NVML: Driver/library version mismatch")
            ),
            "NVIDIA GeForce RTX 4090: its driver says: Failed to initialize NVML: Driver/library version mismatch",
            ("restart the machine: its driver was updated while it ran",),
        ),
        (
            machine(RTX_4090, nvidia=NvidiaDriver(trouble="Failed to initialize NVML: Unknown Error")),
            "NVIDIA GeForce RTX 4090: its driver says: Failed to initialize NVML: Unknown Error",
            ("restart the container: it lost its GPU",),
        ),
        (
            machine(RTX_4090, container=True),
            "NVIDIA GeForce RTX 4090 is not passed into this container",
            ("start the container with `docker run --gpus all …`, with NVIDIA's container toolkit on the host",),
        ),
        (
            nvidia_machine(engine=BLIND_CUDA_ENGINE, variables={"CUDA_VISIBLE_DEVICES": "-1"}),
            "NVIDIA GeForce RTX 4090 is hidden: the variable CUDA_VISIBLE_DEVICES is '-1'",
            ("unset CUDA_VISIBLE_DEVICES",),
        ),
        (
            nvidia_machine(engine=BLIND_CUDA_ENGINE, variables={"CUDA_VISIBLE_DEVICES": ""}, system="win32"),
            "NVIDIA GeForce RTX 4090 is hidden: the variable CUDA_VISIBLE_DEVICES is ''",
            ("Remove-Item Env:CUDA_VISIBLE_DEVICES",),
        ),
        (
            machine(
                RX_7900,
                engine=engine(backends=("ROCm", "CPU")),
                files=(DeviceFile("/dev/dri/renderD128", "render", False), DeviceFile("/dev/kfd", "render", False)),
            ),
            "Navi 31 [Radeon RX 7900 XTX]: this user may not open /dev/dri/renderD128, /dev/kfd",
            ("sudo usermod -aG render $USER", "then log out and in again"),
        ),
        (
            machine(RX_7900, engine=engine(backends=("ROCm", "CPU")), container=True),
            "Navi 31 [Radeon RX 7900 XTX]: /dev/kfd is not there, which ROCm needs",
            ("start the container with --device /dev/kfd --device /dev/dri",),
        ),
        (
            nvidia_machine(engine=BLIND_CUDA_ENGINE),
            "NVIDIA GeForce RTX 4090 is there and the engine is built for CUDA, but sees no such device",
            ("run `llmrun doctor --report FILE` and report this",),
        ),
    ],
)
def test_the_reason_why_a_gpu_is_not_used_is_told(facts: Facts, text: str, repair: tuple[str, ...]) -> None:
    assert gpu_finding(facts) == Finding("gpu", "problem", text, repair)


def test_a_driver_that_is_too_old_is_told_in_the_engines_words() -> None:
    line = "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version"
    facts = nvidia_machine(engine=replace(BLIND_CUDA_ENGINE, log=("load_backend: hm", line)))
    finding = gpu_finding(facts)
    assert finding.text == f"NVIDIA GeForce RTX 4090: the engine says: {line}"
    assert finding.repair[0] == "update the GPU's driver"


def test_a_gpu_given_to_a_virtual_machine_is_left_alone() -> None:
    finding = gpu_finding(machine(replace(RX_7900, driver="vfio-pci")))
    assert (finding.level, finding.repair) == ("ok", ("it is set aside for a virtual machine",))


def test_code_for_a_newer_gpu_only_is_told() -> None:
    old = replace(RTX_4090, name="NVIDIA GeForce GTX 1080", target="6.1")
    device = replace(CUDA0, description="NVIDIA GeForce GTX 1080")
    facts = machine(old, nvidia=NvidiaDriver("535.183.01", "12.2"), engine=replace(CUDA_ENGINE, devices=(device,)))
    assert gpu_finding(facts).text == (
        "NVIDIA GeForce GTX 1080 has compute capability 6.1, and the engine was built for 7.5 and newer"
    )


def test_of_two_cards_the_one_that_is_hidden_is_named() -> None:
    second = replace(RTX_4090, name="NVIDIA GeForce RTX 3060", pci="0000:41:00.0", target="8.6")
    facts = machine(
        second,
        RTX_4090,
        nvidia=NvidiaDriver("550.54.14", "12.4"),
        engine=CUDA_ENGINE,
        variables={"CUDA_VISIBLE_DEVICES": "0"},
    )
    assert [finding.text for finding in found(facts, "gpu")] == [
        "NVIDIA GeForce RTX 4090: the engine uses it, as CUDA0",
        "NVIDIA GeForce RTX 3060 is hidden: the variable CUDA_VISIBLE_DEVICES is '0'",
    ]


def test_a_card_is_known_by_the_name_in_the_brackets_and_the_rest_in_turn() -> None:
    unnamed = Gpu("amd", "AMD GPU 0x744c", "0000:0a:00.0", 20 * GIB, driver="amdgpu")
    other = replace(ROCM0, id="ROCm1", description="AMD Radeon Graphics")
    facts = machine(unnamed, RX_7900, engine=engine(ROCM0, other, backends=("ROCm", "CPU")))
    assert [finding.text for finding in found(facts, "gpu")] == [
        "Navi 31 [Radeon RX 7900 XTX]: the engine uses it, as ROCm0",
        "AMD GPU 0x744c: the engine uses it, as ROCm1",
    ]


def test_of_two_gpus_without_known_names_the_card_is_the_one_in_use() -> None:
    inside = Gpu("amd", "Phoenix1", "0000:01:00.0", unified=True, driver="amdgpu")
    unnamed = Gpu("amd", "AMD GPU 0x744c", "0000:0a:00.0", 20 * GIB, driver="amdgpu")
    facts = machine(inside, unnamed, engine=engine(ROCM0, backends=("ROCm", "CPU")))
    assert found(facts, "gpu")[0].text == "AMD GPU 0x744c: the engine uses it, as ROCm0"


def test_vulkans_devices_are_known_by_their_names() -> None:
    vulkan = DeviceInfo("Vulkan0", "Vulkan0", "Intel(R) Arc(tm) A770 Graphics (DG2)", "Vulkan", "GPU", 1, 2)
    facts = machine(ARC, engine=engine(vulkan, backends=("Vulkan", "CPU")))
    assert gpu_finding(facts) == Finding("gpu", "ok", "DG2 [Arc A770]: the engine uses it, as Vulkan0")


def test_a_lent_device_is_nobodys_gpu() -> None:
    lent = DeviceInfo("rpc:10.0.0.7:50052", "RPC0", "NVIDIA GeForce RTX 4090", "RPC", "GPU", 1, 2)
    assert gpu_finding(nvidia_machine(engine=engine(lent))).level == "problem"


def test_a_driver_in_trouble_is_told_where_no_gpu_can_be_seen() -> None:
    facts = machine(nvidia=NvidiaDriver(trouble="No devices were found"))
    text = "no GPU was found, and NVIDIA's driver says: No devices were found"
    repair = ("reinstall NVIDIA's driver, then restart the machine",)
    assert gpu_finding(facts) == Finding("gpu", "warning", text, repair)


def test_an_engine_that_uses_another_makers_card_is_not_taken_from_it() -> None:
    facts = machine(RTX_4090, RX_7900, nvidia=NvidiaDriver("550.54.14", "12.4"), engine=CUDA_ENGINE)
    assert found(facts, "gpu")[1] == Finding(
        "gpu",
        "warning",
        "Navi 31 [Radeon RX 7900 XTX] stays idle: the engine was built for CUDA and the CPU only",
        ("`llmrun doctor --fix --backend vulkan` builds one that can use both, a little slower",),
    )
