"""doctor.checks: what is found on machines of every kind, whole findings and exact commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.doctor.checks import built_with, check, wanted_build
from llmrun.doctor.facts import EngineFacts, Facts, MissingLibrary, Trouble
from llmrun.doctor.finding import Finding, worst
from llmrun.doctor.gpu_required import require_gpu
from llmrun.engine.layouts import AmxCode
from llmrun.errors import EngineError
from llmrun.hardware.device import Device
from llmrun.hardware.host_memory import HostMemory
from tests.doctor_machines import (
    AVX2_FLAGS,
    CPU_ENGINE,
    CPU_INFO,
    CUDA_ENGINE,
    CUDA_INFO,
    GIB,
    HEALTHY,
    HOST,
    RTX_4090,
    RX_7900,
    UHD,
    engine,
    machine,
    nvidia_machine,
    with_host,
)

PIP = "/home/ada/venv/bin/python -m pip install --force-reinstall --no-deps --no-cache-dir"
PIP_BUILD = f"{PIP} --no-binary=llama-cpp-python"
CPU_BUILD = (
    f"{PIP_BUILD} --config-settings=cmake.define.GGML_NATIVE=on --config-settings=cmake.define.GGML_RPC=on "
    "llama-cpp-python==0.3.36"
)


def found(facts: Facts, name: str) -> list[Finding]:
    return [finding for finding in check(facts) if finding.check == name]


def test_a_healthy_machine_has_nothing_but_ok() -> None:
    assert [(finding.level, finding.check, finding.text, finding.repair) for finding in check(HEALTHY)] == [
        ("ok", "python", "3.12.3, 64-bit, its packages kept by pip", ()),
        ("ok", "engine", "llama-cpp-python 0.3.36 starts; it is built for CUDA and the CPU", ()),
        ("ok", "processor", "Some processor; the engine uses what it can do", ()),
        ("ok", "gpu", "NVIDIA GeForce RTX 4090: the engine uses it, as CUDA0", ()),
        ("ok", "model", "the embedded model answers on the CPU and the GPU", ()),
        ("ok", "memory", "48.0 GiB of 64.0 GiB is available", ()),
        ("ok", "disk", "200.0 GiB is free for models in /home/ada/.cache/llmrun", ()),
    ]


# ---- the engine


def test_an_illegal_instruction_is_found_in_a_child_and_repaired_by_a_build_for_this_processor() -> None:
    died = Trouble("the engine's process met an illegal instruction (SIGILL) while it started", None, ("a", "b", "c"))
    facts = machine(engine=EngineFacts(start=died, installed="0.3.36", required="0.3.36"))
    assert found(facts, "engine") == [
        Finding(
            "engine",
            "problem",
            died.message,
            (
                "its last words: b",
                "its last words: c",
                "`llmrun doctor --fix` builds it for this processor, with this command:",
                CPU_BUILD,
            ),
            rebuild=True,
        )
    ]
    assert not found(facts, "model")


@pytest.mark.parametrize(
    ("message", "illegal"),
    [
        ("the engine's process ended with exit code 3221225501 while it started", True),
        ("the engine's process crashed (SIGSEGV) while it started", False),
    ],
)
def test_windows_tells_an_illegal_instruction_by_a_number(message: str, illegal: bool) -> None:
    assert Trouble(message).is_illegal_instruction is illegal


def test_a_model_that_does_not_answer_is_a_problem_where_it_does_not() -> None:
    trouble = Trouble("the engine's process crashed (SIGABRT) while it wrote the answer", None, ("no kernel image",))
    (finding,) = found(replace(HEALTHY, engine=replace(CUDA_ENGINE, gpu_answer=trouble)), "model")
    assert finding.text == f"the embedded model does not answer on the GPU: {trouble.message}"
    assert finding.repair[0] == "its last words: no kernel image"


def test_a_lost_embedded_model_is_not_the_engines_fault() -> None:
    lost = Trouble("the embedded model guide-Q8_0.gguf is missing from this installation", "reinstall llmrun")
    assert found(replace(HEALTHY, embedded=lost), "model") == [
        Finding("model", "problem", lost.message, ("reinstall llmrun",), engine=False)
    ]


def test_another_version_of_the_engine_is_a_problem() -> None:
    facts = machine(engine=replace(CPU_ENGINE, installed="0.3.2"))
    (finding,) = found(facts, "version")
    assert finding.text == "llama-cpp-python 0.3.2 is installed, and llmrun 0.1.0 is made for 0.3.36"
    assert CPU_BUILD in finding.repair


def test_a_missing_library_is_told_with_where_it_comes_from() -> None:
    missing = (MissingLibrary("libcudart.so.12", "libggml-cuda.so"), MissingLibrary("libodd.so.1", "libllama.so"))
    assert found(nvidia_machine(engine=replace(CUDA_ENGINE, missing=missing)), "libraries") == [
        Finding(
            "libraries",
            "problem",
            "libcudart.so.12 is missing, which the engine's libggml-cuda.so needs",
            ("it comes with the CUDA toolkit",),
        ),
        Finding("libraries", "problem", "libodd.so.1 is missing, which the engine's libllama.so needs"),
    ]


@pytest.mark.parametrize(
    ("flags", "level", "text"),
    [
        (AVX2_FLAGS, "ok", "Some processor; the engine uses what it can do"),
        (
            AVX2_FLAGS - {"avx2", "fma"},
            "problem",
            "the engine was built for a processor with AVX2, FMA, which this one lacks",
        ),
        (
            AVX2_FLAGS | {"avx512f", "avx512_vnni", "sse4_2"},
            "warning",
            "the engine was built without AVX512, AVX512_VNNI, which this processor has: it is slower than need be",
        ),
    ],
)
def test_the_processor_is_compared_with_what_the_engine_was_built_for(
    flags: frozenset[str], level: str, text: str
) -> None:
    facts = with_host(HEALTHY, cpu=replace(HOST.cpu, features=flags))
    assert [(finding.level, finding.text) for finding in found(facts, "processor")] == [(level, text)]


def test_a_system_that_does_not_tell_all_features_is_not_believed_to_lack_some() -> None:
    facts = with_host(replace(HEALTHY, system="win32"), cpu=replace(HOST.cpu, features=AVX2_FLAGS - {"fma"}))
    assert [finding.level for finding in found(facts, "processor")] == ["ok"]


@pytest.mark.parametrize(("code", "level"), [("unknown", "warning"), ("whole", "ok"), ("none", "ok")])
def test_amx_code_that_may_be_broken_is_told_where_it_would_be_used(code: AmxCode, level: str) -> None:
    features = AVX2_FLAGS | {"amx_tile", "amx_int8", "avx512_vnni"}
    info = HEALTHY.engine.info
    assert info is not None
    built = replace(info, system_info=info.system_info + " | AVX512_VNNI = 1")
    facts = replace(HEALTHY, engine=replace(HEALTHY.engine, amx=code, info=built))
    there = with_host(facts, cpu=replace(HOST.cpu, features=features))
    assert [finding.level for finding in found(there, "processor")] == [level]


def test_a_processor_whose_features_nobody_could_read_is_not_judged() -> None:
    assert found(with_host(HEALTHY, cpu=replace(HOST.cpu, features=frozenset())), "processor") == []


def test_only_the_cpus_part_of_the_engines_words_is_about_the_cpu() -> None:
    assert built_with(CUDA_INFO) == built_with(CPU_INFO)
    assert built_with(CPU_INFO) >= {"AVX2", "FMA", "REPACK"}
    assert built_with("") == frozenset()


# ---- the machine around it


@pytest.mark.parametrize(
    ("facts", "finding"),
    [
        (
            with_host(
                HEALTHY,
                memory=HostMemory(
                    2 * GIB, GIB, limit=2 * GIB, limited_by="cgroup /x", machine_total=64 * GIB, swap_total=GIB
                ),
            ),
            Finding(
                "memory",
                "warning",
                "1.0 GiB of 2.0 GiB is available: that is what cgroup /x allows of the machine's 64.0 GiB",
                ("close other programs, or choose a model of 1B parameters or fewer",),
                engine=False,
            ),
        ),
        (
            with_host(HEALTHY, memory=replace(HOST.memory, swap_total=0)),
            Finding(
                "swap",
                "warning",
                "there is no swap: when memory runs out, a program is ended at once",
                ("add swap, or keep more memory free",),
                engine=False,
            ),
        ),
        (
            with_host(HEALTHY, on_battery=True),
            Finding("power", "warning", "on battery: answers are slower", ("plug it in",), engine=False),
        ),
        (
            replace(HEALTHY, free_disk=9 * GIB),
            Finding(
                "disk",
                "warning",
                "9.0 GiB is free for models in /home/ada/.cache/llmrun",
                ("free some space there",),
                engine=False,
            ),
        ),
        (
            replace(HEALTHY, free_disk=GIB - 1, models_folder=Path("/m")),
            Finding("disk", "problem", "1.0 GiB is free for models in /m", ("free some space there",), engine=False),
        ),
        (
            replace(HEALTHY, bits=32),
            Finding(
                "python",
                "problem",
                "Python 3.12.3 is a 32-bit one: no model of more than 2 GiB can be loaded",
                ("install a 64-bit Python",),
            ),
        ),
        (
            replace(HEALTHY, aside=Path("/x/aside")),
            Finding(
                "repair",
                "problem",
                "an earlier repair was interrupted; the engine from before lies in /x/aside",
                ("`llmrun doctor --fix` puts it back",),
            ),
        ),
        (
            replace(HEALTHY, variables={"CUDA_VISIBLE_DEVICES": "0"}),
            Finding("variables", "ok", "CUDA_VISIBLE_DEVICES=0 says which devices may be used"),
        ),
    ],
)
def test_what_is_odd_about_the_machine_is_told(facts: Facts, finding: Finding) -> None:
    assert found(facts, finding.check) == [finding]


@pytest.mark.parametrize("facts", [HEALTHY, with_host(HEALTHY, on_battery=None)])
def test_mains_and_an_unknown_battery_are_nothing_to_tell(facts: Facts) -> None:
    assert found(facts, "power") == []


def test_a_container_needs_no_swap_of_its_own() -> None:
    facts = with_host(replace(HEALTHY, container=True), memory=replace(HOST.memory, swap_total=0))
    assert found(facts, "swap") == []


# ---- what follows


def test_the_worst_level_counts() -> None:
    assert (worst([]), worst(["ok"]), worst(["ok", "warning"]), worst(["warning", "problem", "ok"])) == (
        "ok",
        "ok",
        "warning",
        "problem",
    )


def test_a_new_engine_is_for_the_biggest_card_or_else_for_what_the_old_one_was() -> None:
    assert wanted_build(machine(UHD, RX_7900, replace(RTX_4090, total=None))).backend == "ROCm"
    assert wanted_build(machine(engine=engine(backends=("Vulkan", "CPU")))).backend == "Vulkan"
    assert wanted_build(machine(UHD)).backend == "CPU"


def no_facts() -> Facts:
    raise AssertionError("nobody needs an explanation")


def test_a_required_gpu_that_is_there_is_no_error() -> None:
    require_gpu([Device("CUDA0", "CUDA", "RTX", 9, 8)], no_facts)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            nvidia_machine(),
            "a GPU is required: NVIDIA GeForce RTX 4090 stays idle: the engine was built for the CPU only",
        ),
        (machine(), "a GPU is required, and none was found"),
        (
            machine(engine=EngineFacts(start=Trouble("llama.cpp could not be started: no"))),
            "a GPU is required: llama.cpp could not be started: no",
        ),
    ],
)
def test_a_required_gpu_that_is_not_there_is_an_engine_error_with_the_reason(facts: Facts, message: str) -> None:
    with pytest.raises(EngineError) as caught:
        require_gpu([], lambda: facts)
    assert (caught.value.message, caught.value.exit_code) == (message, 7)
