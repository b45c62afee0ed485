"""Where the machine's GPUs and the engine's devices disagree, and why. Pure: facts in, findings out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from llmrun.doctor.builds import NAMES, Build, backends_for, choose_build, command_text, numbers
from llmrun.doctor.facts import Facts
from llmrun.doctor.finding import Finding, Level
from llmrun.engine.protocol import DeviceInfo
from llmrun.hardware.gpu import HIDING, Gpu, Vendor, is_minor

_CHECK = "gpu"
_BACKEND_VENDORS: dict[str, Vendor] = {"CUDA": "nvidia", "ROCm": "amd", "SYCL": "intel"}
_WORDS: dict[Vendor, str] = {
    "nvidia": r"nvidia|geforce|quadro|tesla",
    "amd": r"\bamd\b|radeon|instinct",
    "intel": r"intel|\barc\b",
    "apple": r"apple",
}
_KERNEL_DRIVERS: dict[Vendor, tuple[str, ...]] = {"nvidia": ("nvidia",), "amd": ("amdgpu",), "intel": ("i915", "xe")}
_GROUPS = ("render", "video")


def check_gpus(facts: Facts) -> tuple[Finding, ...]:
    """Judge every GPU that could compute: used, not usable and why, or not worth it."""
    gpus = [gpu for gpu in facts.hardware.gpus if gpu.vendor != "other"]
    if not gpus:
        return (_without_gpu(facts),)
    if facts.engine.info is None:
        return ()  # there is no engine to disagree with, and another check says so
    used, unused = match_devices(gpus, facts.engine.gpus)
    return (*(_used(facts, gpu, device) for gpu, device in used), *(explain(facts, gpu) for gpu in unused))


def match_devices(gpus: Iterable[Gpu], devices: Iterable[DeviceInfo]) -> tuple[list[tuple[Gpu, DeviceInfo]], list[Gpu]]:
    """Match GPUs with the engine's devices, vendor by vendor; returns the pairs, and the GPUs it does not use."""
    by_vendor: dict[Vendor, list[Gpu]] = {}
    for gpu in gpus:
        by_vendor.setdefault(gpu.vendor, []).append(gpu)
    found = list(devices)
    results = [
        pair(mine, [device for device in found if vendor_of(device) == vendor]) for vendor, mine in by_vendor.items()
    ]
    return [one for used, _ in results for one in used], [one for _, unused in results for one in unused]


def vendor_of(device: DeviceInfo) -> Vendor | None:
    """Return whose GPU a device of the engine is, by its backend or its name; None for one of another machine."""
    if device.backend == "RPC":
        return None
    known = _BACKEND_VENDORS.get(device.backend)
    words = device.description.lower()
    return known or next((vendor for vendor, pattern in _WORDS.items() if re.search(pattern, words)), None)


def pair(gpus: list[Gpu], devices: list[DeviceInfo]) -> tuple[list[tuple[Gpu, DeviceInfo]], list[Gpu]]:
    """Match GPUs of one vendor with the engine's devices, by name first; returns the pairs, and the GPUs left over.

    What is left over is integrated, where there is a choice: the engine prefers cards.
    """
    left, free, pairs = list(gpus), list(devices), []
    for gpu in gpus:
        device = next((device for device in free if _same_name(gpu.name, device.description)), None)
        if device is not None:
            pairs.append((gpu, device))
            left.remove(gpu)
            free.remove(device)
    for gpu in sorted(left, key=lambda gpu: gpu.unified)[: len(free)]:
        pairs.append((gpu, free.pop(0)))
        left.remove(gpu)
    return pairs, left


def _same_name(one: str, other: str) -> bool:
    # pci.ids says "GA102 [GeForce RTX 3090]" where the driver says "NVIDIA GeForce RTX 3090"
    bracket = re.search(r"\[(.+)\]", one)
    short = (bracket[1] if bracket else one).lower()
    return bool(short) and short in other.lower()


def _without_gpu(facts: Facts) -> Finding:
    others = [device.id for device in facts.engine.gpus]
    if others:
        return Finding(_CHECK, "ok", f"the engine uses {', '.join(others)}")
    nvidia = facts.hardware.nvidia
    if nvidia is not None and nvidia.trouble:
        text = f"no GPU was found, and NVIDIA's driver says: {nvidia.trouble}"
        return Finding(_CHECK, "warning", text, _nvidia_repair(nvidia.trouble))
    return Finding(_CHECK, "ok", "no GPU was found: models run on the CPU")


def _used(facts: Facts, gpu: Gpu, device: DeviceInfo) -> Finding:
    text = f"{gpu.name}: the engine uses it, as {device.id}"
    oldest = _oldest_target(facts) if device.backend == "CUDA" else None
    able = numbers(gpu.target)
    if oldest is not None and able is not None and able < oldest:
        text = (
            f"{gpu.name} has compute capability {gpu.target}, and the engine was built for {_dotted(oldest)} and newer"
        )
        return Finding(_CHECK, "problem", text, rebuild_lines(facts, choose_build(facts, gpu)), rebuild=True)
    return Finding(_CHECK, "ok", text)


def explain(facts: Facts, gpu: Gpu) -> Finding:
    """Say why the engine does not use a GPU, the first cause that nothing else can help."""
    if is_minor(gpu) and facts.engine.gpus:
        return Finding(_CHECK, "ok", f"{gpu.name} shares the host's memory; the engine uses the card instead")
    causes: tuple[Callable[[Facts, Gpu], Finding | None], ...] = (_driver, _not_built, _hidden, _permission, _complaint)
    found = next((finding for cause in causes if (finding := cause(facts, gpu)) is not None), None)
    if found is not None:
        return found
    backend = _built(facts, gpu)
    text = f"{gpu.name} is there and the engine is built for {backend}, but sees no such device"
    return Finding(_CHECK, "problem", text, ("run `llmrun doctor --report FILE` and report this",))


def _driver(facts: Facts, gpu: Gpu) -> Finding | None:
    """The kernel's driver, or the vendor's own word about it."""
    wanted = _KERNEL_DRIVERS.get(gpu.vendor, ())
    level: Level = "ok" if is_minor(gpu) else "problem"
    if facts.system == "linux" and wanted and gpu.pci and gpu.driver not in wanted:
        what = f"the driver {gpu.driver}" if gpu.driver else "no driver"
        text = f"{gpu.name} has {what}; computing needs {' or '.join(wanted)}"
        return Finding(_CHECK, "ok" if gpu.driver == "vfio-pci" else level, text, _driver_repair(facts, gpu))
    nvidia = facts.hardware.nvidia
    if gpu.vendor == "nvidia" and nvidia is not None and nvidia.trouble:
        return Finding(
            _CHECK, "problem", f"{gpu.name}: its driver says: {nvidia.trouble}", _nvidia_repair(nvidia.trouble)
        )
    nodes = any(file.path.startswith("/dev/nvidia") for file in facts.files)
    if gpu.vendor == "nvidia" and facts.system == "linux" and facts.container and nvidia is None and not nodes:
        repair = ("start the container with `docker run --gpus all …`, with NVIDIA's container toolkit on the host",)
        return Finding(_CHECK, "problem", f"{gpu.name} is not passed into this container", repair)
    return None


def _driver_repair(facts: Facts, gpu: Gpu) -> tuple[str, ...]:
    if gpu.driver == "vfio-pci":
        return ("it is set aside for a virtual machine",)
    if gpu.vendor == "nvidia":
        command = {
            "debian": "sudo ubuntu-drivers install, or sudo apt install nvidia-driver",
            "fedora": "sudo dnf install akmod-nvidia (RPM Fusion)",
            "arch": "sudo pacman -S nvidia",
        }.get(facts.distribution or "")
        return (command or "install NVIDIA's driver: https://www.nvidia.com/drivers", "then restart the machine")
    return ("update the kernel and its firmware, then restart the machine",)


def _nvidia_repair(trouble: str) -> tuple[str, ...]:
    if "mismatch" in trouble:
        return ("restart the machine: its driver was updated while it ran",)
    if "Unknown Error" in trouble:
        return ("restart the container: it lost its GPU",)
    return ("reinstall NVIDIA's driver, then restart the machine",)


def _not_built(facts: Facts, gpu: Gpu) -> Finding | None:
    """An engine without any backend for this GPU: the most frequent cause of all."""
    if _built(facts, gpu) is not None:
        return None
    info = facts.engine.info
    kinds = [NAMES.get(name, name) for name in (info.backends if info else ()) if name not in ("RPC", "BLAS")]
    built = " and ".join(kinds) or "nothing"
    if is_minor(gpu):
        text = f"{gpu.name} shares the host's memory; the engine, built for {built}, leaves it alone"
        return Finding(_CHECK, "ok", text, ("`llmrun doctor --fix --backend vulkan` builds one that uses it",))
    text = f"{gpu.name} stays idle: the engine was built for {built} only"
    if any(vendor_of(device) for device in facts.engine.gpus):
        # another maker's card is in use, which an engine for this one would leave idle in its turn
        repair = ("`llmrun doctor --fix --backend vulkan` builds one that can use both, a little slower",)
        return Finding(_CHECK, "warning", text, repair)
    return Finding(_CHECK, "problem", text, rebuild_lines(facts, choose_build(facts, gpu)), rebuild=True)


def rebuild_lines(facts: Facts, build: Build) -> tuple[str, ...]:
    """Return how to get the other engine: what is missing first, then the command, then the fast way."""
    lines = [f"first: {obstacle}" for obstacle in build.obstacles]
    lines += [f"`llmrun doctor --fix` builds the engine for {NAMES[build.backend]}, with this command:"]
    lines += [command_text(build.command, facts.system)]
    if build.prebuilt is not None:
        lines += ["or, faster, one that is built already, without devices of other machines (--prebuilt):"]
        lines += [command_text(build.prebuilt, facts.system)]
    return tuple(lines)


def _built(facts: Facts, gpu: Gpu) -> str | None:
    """The backend for this GPU that the engine has."""
    have = facts.engine.info.backends if facts.engine.info else ()
    return next((backend for backend in backends_for(gpu.vendor, facts.system) if backend in have), None)


def _hidden(facts: Facts, gpu: Gpu) -> Finding | None:
    for name in HIDING.get(_built(facts, gpu) or "", ()):
        if name in facts.variables:
            text = f"{gpu.name} is hidden: the variable {name} is {facts.variables[name]!r}"
            repair = f"Remove-Item Env:{name}" if facts.system == "win32" else f"unset {name}"
            return Finding(_CHECK, "problem", text, (repair,))
    return None


def _permission(facts: Facts, gpu: Gpu) -> Finding | None:
    """Files in /dev that this user may not open."""
    prefixes = {"nvidia": ("/dev/nvidia",), "amd": ("/dev/kfd", "/dev/dri/render"), "intel": ("/dev/dri/render",)}
    mine = [file for file in facts.files if file.path.startswith(prefixes.get(gpu.vendor, ("/dev/none",)))]
    shut = [file for file in mine if not file.usable]
    if shut:
        text = f"{gpu.name}: this user may not open {', '.join(file.path for file in shut)}"
        groups = sorted({file.group for file in shut} & set(_GROUPS)) or list(_GROUPS)
        repair = f"sudo usermod -aG {','.join(groups)} $USER"
        return Finding(_CHECK, "problem", text, (repair, "then log out and in again"))
    amd_compute = gpu.vendor == "amd" and _built(facts, gpu) == "ROCm"
    if amd_compute and facts.system == "linux" and not any(file.path == "/dev/kfd" for file in mine):
        how = "start the container with --device /dev/kfd --device /dev/dri" if facts.container else "load amdgpu"
        return Finding(_CHECK, "problem", f"{gpu.name}: /dev/kfd is not there, which ROCm needs", (how,))
    return None


def _complaint(facts: Facts, gpu: Gpu) -> Finding | None:
    """What the engine itself said when it looked for devices."""
    line = next(
        (line for line in facts.engine.log if re.search(r"fail|error|insufficient|no .*device", line, re.I)), None
    )
    if line is None:
        return None
    repair: tuple[str, ...] = ()
    if "driver version is insufficient" in line:
        repair = ("update the GPU's driver", *rebuild_lines(facts, choose_build(facts, gpu)))
    return Finding(_CHECK, "problem", f"{gpu.name}: the engine says: {line}", repair)


def _oldest_target(facts: Facts) -> tuple[int, int] | None:
    """The oldest compute capability the engine holds code for, of its list "ARCHS = 750,800,890"."""
    match = re.search(r"\bARCHS = ([\d,]+)", facts.engine.info.system_info if facts.engine.info else "")
    targets = [int(word) for word in match[1].split(",") if word] if match else []
    # __CUDA_ARCH_LIST__ counts in tens of the capability's digits: 750 is 7.5, 1200 is 12.0
    return divmod(min(targets) // 10, 10) if targets else None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
