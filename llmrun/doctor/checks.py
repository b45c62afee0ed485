"""The doctor's judgement: what is well, what is odd, what is wrong, and what to do. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Callable

from llmrun.doctor.builds import NAMES, Backend, Build, build_for, choose_build, command_text
from llmrun.doctor.facts import Facts, Trouble
from llmrun.doctor.finding import Finding, Level
from llmrun.doctor.gpu_checks import check_gpus, rebuild_lines
from llmrun.hardware.cpu import FLAGS_AMX
from llmrun.hardware.gpu import HIDING, is_minor
from llmrun.units import format_bytes

_GIB = 1 << 30
_LITTLE_DISK, _NO_DISK = 10 * _GIB, _GIB  # a model of 8B parameters at 4 bits takes 5 GiB
_LITTLE_MEMORY = 2 * _GIB

# llama.cpp's names of what it was compiled with (ggml-cpu.cpp, get_features), and the system's of the same
_FEATURES: dict[str, tuple[str, ...]] = {
    "SSE3": ("pni", "sse3"),
    "SSSE3": ("ssse3",),
    "AVX": ("avx",),
    "AVX_VNNI": ("avx_vnni",),
    "AVX2": ("avx2",),
    "F16C": ("f16c",),
    "FMA": ("fma",),
    "BMI2": ("bmi2",),
    "AVX512": ("avx512f",),
    "AVX512_VBMI": ("avx512vbmi", "avx512_vbmi"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
    "AMX_INT8": ("amx_int8",),
    "NEON": ("asimd", "neon"),
    "DOTPROD": ("asimddp", "dotprod"),
    "MATMUL_INT8": ("i8mm",),
    "SVE": ("sve",),
}
# Of them, those whose lack makes the engine notably slower.
_WORTHWHILE = ("AVX2", "F16C", "FMA", "AVX512", "AVX512_VNNI", "DOTPROD", "MATMUL_INT8")

_PACKAGES = {
    "libcuda.so": "it comes with NVIDIA's driver",
    "libcudart.so": "it comes with the CUDA toolkit",
    "libcublas": "it comes with the CUDA toolkit",
    "libamdhip64.so": "it comes with ROCm",
    "libhipblas": "it comes with ROCm",
    "librocblas": "it comes with ROCm",
    "libvulkan.so": "it comes with the Vulkan loader (libvulkan1, vulkan-loader, vulkan-icd-loader)",
    "libsycl.so": "source /opt/intel/oneapi/setvars.sh",
    "libgomp.so": "it comes with GCC (libgomp1, libgomp)",
    "libstdc++.so": "it comes with GCC (libstdc++6, libstdc++)",
}


def check(facts: Facts) -> tuple[Finding, ...]:
    """Judge everything, in the order in which it matters."""
    return tuple(finding for judge in _CHECKS for finding in judge(facts))


def check_aside(facts: Facts) -> tuple[Finding, ...]:
    """A repair that was interrupted left the engine from before aside."""
    if facts.aside is None:
        return ()
    text = f"an earlier repair was interrupted; the engine from before lies in {facts.aside}"
    return (Finding("repair", "problem", text, ("`llmrun doctor --fix` puts it back",)),)


def check_python(facts: Facts) -> tuple[Finding, ...]:
    """The interpreter: a 32-bit one cannot map a model of more than 2 GiB."""
    if facts.bits != 64:
        text = f"Python {facts.python} is a {facts.bits}-bit one: no model of more than 2 GiB can be loaded"
        return (Finding("python", "problem", text, ("install a 64-bit Python",)),)
    return (Finding("python", "ok", f"{facts.python}, 64-bit, its packages kept by {facts.environment.maker}"),)


def check_start(facts: Facts) -> tuple[Finding, ...]:
    """Whether the engine's process starts, and of which version and kind it is."""
    engine = facts.engine
    if engine.start is not None or engine.info is None:
        trouble = engine.start or Trouble("the engine told nothing of itself")
        return (Finding("engine", "problem", trouble.message, _repair_engine(facts, trouble), rebuild=True),)
    kinds = " and ".join(NAMES.get(name, name) for name in engine.info.backends if name != "RPC")
    text = f"llama-cpp-python {engine.info.version} starts; it is built for {kinds}"
    return (Finding("engine", "ok", text),)


def check_version(facts: Facts) -> tuple[Finding, ...]:
    """llmrun is made for one version of the engine, whose structures it knows."""
    installed, required = facts.engine.installed, facts.engine.required
    if installed is None or required is None or installed == required:
        return ()
    text = f"llama-cpp-python {installed} is installed, and llmrun {facts.llmrun} is made for {required}"
    return (Finding("version", "problem", text, rebuild_lines(facts, wanted_build(facts)), rebuild=True),)


def check_libraries(facts: Facts) -> tuple[Finding, ...]:
    """Shared libraries that the engine needs and the system does not find."""
    return tuple(
        Finding(
            "libraries",
            "problem",
            f"{missing.name} is missing, which the engine's {missing.needed_by} needs",
            tuple(text for start, text in _PACKAGES.items() if missing.name.startswith(start)),
        )
        for missing in facts.engine.missing
    )


def check_processor(facts: Facts) -> tuple[Finding, ...]:
    """What the processor can do against what the engine was compiled with."""
    features, info = facts.hardware.host.cpu.features, facts.engine.info
    if info is None or not features:
        return ()
    built = built_with(info.system_info)
    here = {name for name, words in _FEATURES.items() if any(word in features for word in words)}
    lacking = [name for name in _FEATURES if name in built and name not in here]
    if lacking and facts.system == "linux":  # the others do not tell of every feature; there the trial has to find it
        text = f"the engine was built for a processor with {', '.join(lacking)}, which this one lacks"
        return (Finding("processor", "problem", text, rebuild_lines(facts, wanted_build(facts)), rebuild=True),)
    unused = [name for name in _WORTHWHILE if name in here and name not in built]
    if unused:
        text = f"the engine was built without {', '.join(unused)}, which this processor has: it is slower than need be"
        return (Finding("processor", "warning", text, rebuild_lines(facts, wanted_build(facts)), rebuild=True),)
    if features >= FLAGS_AMX and facts.engine.amx == "unknown":
        text = "the engine's code for AMX may be broken, as GCC 12 compiles it, and is not used: slower than need be"
        hint = "`scripts/chat --rebuild`, in a clone of llmrun, compiles it so that it is known to be whole"
        return (Finding("processor", "warning", text, (hint,)),)
    name = facts.hardware.host.cpu.name or facts.machine
    return (Finding("processor", "ok", f"{name}; the engine uses what it can do"),)


def built_with(system_info: str) -> frozenset[str]:
    """Return what llama_print_system_info says the CPU's part was compiled with: "AVX2 = 1" is AVX2."""
    _, _, cpu = system_info.rpartition("CPU :")
    pairs = (item.partition("=") for item in cpu.split("|"))
    return frozenset(name.strip() for name, _, value in pairs if value.strip() == "1")


def check_answers(facts: Facts) -> tuple[Finding, ...]:
    """Whether the embedded model answers: on the CPU, and on the GPUs the engine has."""
    if facts.embedded is not None:
        hint = facts.embedded.hint or "reinstall llmrun"
        return (Finding("model", "problem", facts.embedded.message, (hint,), engine=False),)
    findings = []
    for where, trouble in (("the CPU", facts.engine.answer), ("the GPU", facts.engine.gpu_answer)):
        if trouble is not None:
            text = f"the embedded model does not answer on {where}: {trouble.message}"
            findings.append(Finding("model", "problem", text, _repair_engine(facts, trouble), rebuild=True))
    if facts.engine.info is None or findings:
        return tuple(findings)
    where = "the CPU and the GPU" if facts.engine.gpus else "the CPU"
    return (Finding("model", "ok", f"the embedded model answers on {where}"),)


def check_variables(facts: Facts) -> tuple[Finding, ...]:
    """Variables that hide devices, where they are not the cause of anything worse."""
    names = dict.fromkeys(name for group in HIDING.values() for name in group)
    hiding = [f"{name}={facts.variables[name]}" for name in names if name in facts.variables]
    if not hiding or not facts.hardware.gpus:
        return ()
    return (Finding("variables", "ok", f"{', '.join(hiding)} says which devices may be used"),)


def check_memory(facts: Facts) -> tuple[Finding, ...]:
    """The host's memory, and what limits it."""
    memory = facts.hardware.host.memory
    text = f"{format_bytes(memory.available)} of {format_bytes(memory.total)} is available"
    if memory.limit is not None:
        machine = "" if memory.machine_total is None else f" of the machine's {format_bytes(memory.machine_total)}"
        text += f": that is what {memory.limited_by or 'a limit'} allows{machine}"
    if memory.available < _LITTLE_MEMORY:
        repair = ("close other programs, or choose a model of 1B parameters or fewer",)
        return (Finding("memory", "warning", text, repair, engine=False),)
    return (Finding("memory", "ok", text, engine=False),)


def check_swap(facts: Facts) -> tuple[Finding, ...]:
    """Without swap a program that takes too much ends another one at once; in a container that is the host's affair."""
    if facts.hardware.host.memory.swap_total != 0 or facts.container:
        return ()
    text = "there is no swap: when memory runs out, a program is ended at once"
    return (Finding("swap", "warning", text, ("add swap, or keep more memory free",), engine=False),)


def check_power(facts: Facts) -> tuple[Finding, ...]:
    """A machine on battery runs slower than it can."""
    if not facts.hardware.host.on_battery:
        return ()
    return (Finding("power", "warning", "on battery: answers are slower", ("plug it in",), engine=False),)


def check_disk(facts: Facts) -> tuple[Finding, ...]:
    """Room for models."""
    if facts.free_disk is None:
        return ()
    text = f"{format_bytes(facts.free_disk)} is free for models in {facts.models_folder}"
    level: Level = "problem" if facts.free_disk < _NO_DISK else "warning" if facts.free_disk < _LITTLE_DISK else "ok"
    repair = () if level == "ok" else ("free some space there",)
    return (Finding("disk", level, text, repair, engine=False),)


def wanted_build(facts: Facts) -> Build:
    """Return how the engine should be built here: for the GPU that is worth it, else as it is now, else for the CPU."""
    cards = [gpu for gpu in facts.hardware.gpus if gpu.vendor != "other" and not is_minor(gpu)]
    if cards:
        return choose_build(facts, max(cards, key=lambda gpu: gpu.total or 0))
    built = facts.engine.info.backends if facts.engine.info else ()
    kept: tuple[Backend, ...] = ("CUDA", "ROCm", "SYCL", "MTL", "Vulkan")
    return build_for(facts, next((backend for backend in kept if backend in built), "CPU"))


def _repair_engine(facts: Facts, trouble: Trouble) -> tuple[str, ...]:
    """What to do about an engine that does not run: rebuilding makes it fit this machine."""
    last = tuple(f"its last words: {line}" for line in trouble.log[-2:])
    if trouble.is_illegal_instruction:
        fit = build_for(facts, wanted_build(facts).backend)
        return (
            *last,
            "`llmrun doctor --fix` builds it for this processor, with this command:",
            command_text(fit.command, facts.system),
        )  # not a prebuilt one: it was made for yet another processor
    return (*last, *rebuild_lines(facts, wanted_build(facts)))


_CHECKS: tuple[Callable[[Facts], tuple[Finding, ...]], ...] = (
    check_aside,
    check_python,
    check_start,
    check_version,
    check_libraries,
    check_processor,
    check_gpus,
    check_variables,
    check_answers,
    check_memory,
    check_swap,
    check_power,
    check_disk,
)
