"""NVIDIA's GPUs as their driver tells: through nvidia-ml-py where it is installed, else nvidia-smi, else /proc."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.hardware.gpu import Gpu, NvidiaDriver, clean_name, parse_number
from llmrun.hardware.processes import Said, ask_program, find_program

_MIB = 1 << 20
_FOLDERS = ("/usr/lib/wsl/lib", "/usr/bin")  # where WSL puts it, outside PATH
_FIELDS = ("pci.bus_id", "name", "memory.total", "memory.free", "driver_version", "compute_cap")


@dataclass(frozen=True, slots=True)
class NvidiaAnswer:
    """What the driver told: nothing but its trouble where it does not answer."""

    gpus: tuple[Gpu, ...] = ()
    driver: NvidiaDriver | None = None


def read_nvidia(root: Path = Path("/")) -> NvidiaAnswer:
    """Ask the driver by whatever way there is; the driver is None where none is installed."""
    with contextlib.suppress(ImportError):
        import pynvml  # optional: llmrun[nvidia]

        answer = read_nvml(pynvml)
        if answer.driver is not None and answer.driver.trouble is None:
            return answer
    answer = read_nvidia_smi()
    if answer.driver is None:
        texts = [_text(path) for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information"))]
        gpus = tuple(gpu for text in texts if (gpu := parse_proc_information(text)) is not None)
        version = parse_proc_version(_text(root / "proc/driver/nvidia/version"))
        answer = NvidiaAnswer(gpus, None if version is None else NvidiaDriver(version))
    return answer


def read_nvml(nvml: Any) -> NvidiaAnswer:
    """Ask the driver through the module pynvml."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        missing = type(error).__name__ == "NVMLError_LibraryNotFound"
        return NvidiaAnswer((), None if missing else NvidiaDriver(trouble=str(error)))
    try:
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        driver = NvidiaDriver(_plain(nvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}")
        gpus = tuple(_nvml_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        return NvidiaAnswer(gpus, driver)
    except nvml.NVMLError as error:
        return NvidiaAnswer((), NvidiaDriver(trouble=str(error)))
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    total = free = None
    with contextlib.suppress(nvml.NVMLError):  # not supported where the memory is the host's
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    pci = _plain(nvml.nvmlDeviceGetPciInfo(handle).busId)
    name = clean_name(_plain(nvml.nvmlDeviceGetName(handle)))
    return Gpu("nvidia", name, pci_address(pci), total, free, total is None, "nvidia", f"{major}.{minor}")


def read_nvidia_smi() -> NvidiaAnswer:
    """Ask the driver through its own program."""
    program = find_program("nvidia-smi", _FOLDERS)
    if program is None:
        return NvidiaAnswer()
    head = ask_program([program])
    if head.code != 0:
        return NvidiaAnswer((), parse_nvidia_smi_head(head))
    query = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    said = ask_program(query)
    if said.code != 0:  # "Field "compute_cap" is not a valid field to query.": a driver before 510
        query[1] = f"--query-gpu={','.join(_FIELDS[:-1])}"
        said = ask_program(query)
    return NvidiaAnswer(parse_nvidia_smi(said.out), parse_nvidia_smi_head(head))


def parse_nvidia_smi(csv: str) -> tuple[Gpu, ...]:
    """Understand the answer to --query-gpu of the fields above, compute_cap or not; MiB become bytes."""
    gpus = []
    for line in csv.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) < len(_FIELDS) - 1 or ":" not in values[0]:
            continue
        total, free = (None if (n := parse_number(text)) is None else n * _MIB for text in values[2:4])
        target = values[5] if len(values) > 5 and re.fullmatch(r"\d+\.\d+", values[5]) else None
        # memory "[N/A]" is that of a chip that shares its host's, as GB10 and Orin do
        gpus.append(
            Gpu("nvidia", clean_name(values[1]), pci_address(values[0]), total, free, total is None, "nvidia", target)
        )
    return tuple(gpus)


def parse_nvidia_smi_head(said: Said) -> NvidiaDriver:
    """Understand what nvidia-smi says without options: versions, or why it has nothing to say."""
    version = re.search(r"Driver Version: ?([\d.]+)", said.out)
    cuda = re.search(r"CUDA(?: \w+)? Version ?: ?([\d.]+)", said.out)
    if said.code == 0 and version:
        return NvidiaDriver(version[1], cuda[1] if cuda else None)
    return NvidiaDriver(trouble=clean_name(said.first_line) or f"nvidia-smi ended with exit code {said.code}")


def parse_proc_information(text: str) -> Gpu | None:
    """Understand a file /proc/driver/nvidia/gpus/ADDRESS/information."""
    rows: Mapping[str, str] = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    if not rows.get("Model"):
        return None
    location = rows.get("Bus Location")
    return Gpu("nvidia", clean_name(rows["Model"]), pci_address(location) if location else None, driver="nvidia")


def parse_proc_version(text: str) -> str | None:
    """Return the driver's version out of /proc/driver/nvidia/version, of the open and the closed kernel module."""
    match = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", text)
    return match[1] if match else None


def pci_address(text: str) -> str:
    """Return an address as sysfs writes it: "00000000:01:00.0" is "0000:01:00.0"."""
    domain, _, rest = text.strip().lower().partition(":")
    return f"{domain[-4:].rjust(4, '0')}:{rest}"


def _plain(text: str | bytes) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
