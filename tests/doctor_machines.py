"""Machines for the doctor to judge: a healthy one with a GPU that is used, and changes to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llmrun.doctor.facts import DeviceFile, EngineFacts, Environment, Facts, Tool
from llmrun.engine.protocol import DeviceInfo, EngineInfo
from llmrun.hardware.cpu import CpuInfo
from llmrun.hardware.gpu import Gpu, NvidiaDriver
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.host import Host
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads

MIB, GIB = 1 << 20, 1 << 30

CPU_INFO = (
    "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | LLAMAFILE = 1 | REPACK = 1 | "
)
CUDA_INFO = f"CUDA : ARCHS = 750,800,890 | USE_GRAPHS = 1 | PEER_MAX_BATCH_SIZE = 128 | {CPU_INFO}"
AVX2_FLAGS = frozenset({"pni", "ssse3", "avx", "avx2", "f16c", "fma", "bmi2"})

CPU = DeviceInfo("CPU", "CPU", "Some processor", "CPU", "CPU", 64 * GIB, 64 * GIB)
CUDA0 = DeviceInfo("CUDA0", "CUDA0", "NVIDIA GeForce RTX 4090", "CUDA", "GPU", 23 * GIB, 24 * GIB)
ROCM0 = DeviceInfo("ROCm0", "ROCm0", "AMD Radeon RX 7900 XTX", "ROCm", "GPU", 23 * GIB, 24 * GIB)

RTX_4090 = Gpu(
    "nvidia", "NVIDIA GeForce RTX 4090", "0000:01:00.0", 24564 * MIB, 23651 * MIB, driver="nvidia", target="8.9"
)
RX_7900 = Gpu(
    "amd", "Navi 31 [Radeon RX 7900 XTX]", "0000:03:00.0", 24 * GIB, 23 * GIB, driver="amdgpu", target="gfx1100"
)
ARC = Gpu("intel", "DG2 [Arc A770]", "0000:03:00.0", 16 * GIB, driver="i915")
UHD = Gpu("intel", "AlderLake-S GT1", "0000:00:02.0", unified=True, driver="i915")
M2 = Gpu("apple", "Apple M2 Pro", unified=True)
DRIVER_12_4 = NvidiaDriver("550.54.14", "12.4")

HOST = Host(
    HostMemory(64 * GIB, 48 * GIB, swap_total=8 * GIB, swap_free=8 * GIB),
    CpuInfo("Some processor", 8, 16, None, AVX2_FLAGS),
    Threads(8, 8, "8 physical cores: 8 threads"),
    False,
    (),
)
VENV = Environment("pip", Path("/home/ada/venv"), "/home/ada/venv/bin/python", Path("/home/ada/venv/site-packages"))
NVCC, COMPILER = Tool("/usr/local/cuda/bin/nvcc", "12.4"), Tool("/usr/bin/c++", "13.2.0")


def engine(*devices: DeviceInfo, backends: tuple[str, ...] = ("CPU",), info: str = CPU_INFO) -> EngineFacts:
    """An engine that starts and answers, with these devices beside the CPU."""
    told = EngineInfo("0.3.36", "/home/ada/venv/site-packages/llama_cpp/lib", ("RPC", *backends), info, True)
    return EngineFacts(told, (*devices, CPU), "0.3.36", "0.3.36")


CPU_ENGINE = engine()
CUDA_ENGINE = engine(CUDA0, backends=("CUDA", "CPU"), info=CUDA_INFO)
BLIND_CUDA_ENGINE = engine(backends=("CUDA", "CPU"), info=CUDA_INFO)


def machine(*gpus: Gpu, nvidia: NvidiaDriver | None = None, **changes: Any) -> Facts:
    """A machine with these GPUs, 64 GiB of RAM and an engine for the CPU; changes are to its facts."""
    facts = Facts(
        system="linux",
        machine="x86_64",
        llmrun="0.1.0",
        python="3.12.3",
        bits=64,
        hardware=Hardware(HOST, (), gpus, nvidia, ()),
        engine=CPU_ENGINE,
        environment=VENV,
        distribution="debian",
        tools={"c++": COMPILER, "nvcc": NVCC},
        models_folder=Path("/home/ada/.cache/llmrun"),
        free_disk=200 * GIB,
    )
    return replace(facts, **changes)


def nvidia_machine(**changes: Any) -> Facts:
    """One with an RTX 4090 and its driver."""
    return machine(RTX_4090, nvidia=DRIVER_12_4, **changes)


HEALTHY = nvidia_machine(engine=CUDA_ENGINE, files=(DeviceFile("/dev/nvidia0", "root", True),))


def with_host(facts: Facts, **changes: Any) -> Facts:
    """The machine with another host."""
    return replace(facts, hardware=replace(facts.hardware, host=replace(facts.hardware.host, **changes)))
