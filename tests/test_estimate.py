"""The command `estimate`: what it says to people and to programs."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun import pipeline
from llmrun.cli.estimating import METHODS, EstimateWish, estimate_json, estimate_text
from llmrun.errors import UsageError
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import usual_threads
from llmrun.memory.rules_of_thumb import FreeMemory
from llmrun.site import Site

GIB = 1 << 30
SOURCE_EXAMPLE = EstimateWish("7b", "32", 2048, 1, 32, 32, None, 4096, "activations")


def free(host: int, *devices: tuple[str, int]) -> FreeMemory:
    return FreeMemory(host, GIB, devices, GIB // 2)


def test_the_sources_example_prints_to_the_digit() -> None:
    lines = estimate_text(SOURCE_EXAMPLE, free(64 * GIB)).splitlines()
    assert lines[0] == '71.5 GB (66.6 GiB) by the rule of thumb "with activations".'
    assert "    of every layer  89.2 GB  83.1 GiB" in lines
    assert "  llama.cpp         29.1 GB  27.1 GiB" in lines
    assert "  with activations: bits/8 · (parameters + l·(5/2)·a·b·s² + 17·b·h·s)" in lines


def test_the_answer_to_the_usual_question() -> None:
    text = estimate_text(EstimateWish("7b", method="weights"), free(22 * GIB, ("CUDA0", 11 * GIB)))
    assert (
        text
        == """\
14.0 GB (13.0 GiB) by the rule of thumb "weights only".
Running a model of 7B parameters at 16 bits takes 16.2 GB (15.1 GiB), in GPU
memory, in RAM, or in both together.

  weights   14.0 GB  13.0 GiB
  KV cache   2.1 GB   2.0 GiB  4,096 tokens, 16 bits
  compute   26.3 MB  25.1 MiB  scratch space of one step

Shape: 32 layers, 32 heads, 32 KV heads of 128, hidden 4096. What you did not
give (--layers, --heads, --kv-heads, --hidden) is as in Llama 2 7B (6.7B).

Rules of thumb, side by side

  weights only  14.0 GB  13.0 GiB
  llama.cpp     16.2 GB  15.1 GiB

  weights only: bits/8 · parameters
  llama.cpp: weights + KV cache + compute

Why they differ

- Weights only leaves out the KV cache and compute: 2.2 GB (2.0 GiB) more here.

On this machine, with 1.0 GiB of RAM and 512.0 MiB of each GPU left free

  CPU      yes: 15.1 GiB needed, 22.0 GiB available
  GPU      no: 15.1 GiB needed, 11.0 GiB free on CUDA0
  both     yes: 22 of 33 layers on CUDA0, 5.0 GiB in RAM

A model runs on the CPU alone where RAM suffices, only slower: each token reads
all weights, and a GPU reads its memory faster. In mixed mode as many layers as
fit are on the GPU (--gpu-layers), the rest on the CPU."""
    )


def test_the_machine_is_told_in_the_words_of_each_case() -> None:
    def told(host: int, *devices: tuple[str, int]) -> list[str]:
        lines = estimate_text(EstimateWish("7b", method="inference"), free(host, *devices)).splitlines()
        return [line for line in lines if re.match("  (GPU|both|smaller) ", line)]

    no_gpu = ["  GPU      no: there is no GPU that llama.cpp can use", "  both     no: it takes a GPU"]
    assert told(20 * GIB) == no_gpu
    assert told(8 * GIB) == [*no_gpu, "  smaller  Q5_K_M runs here: --bits Q5_K_M"]
    assert told(2 * GIB) == [*no_gpu, "  smaller  no usual quantization below it fits: try fewer parameters or a"]
    assert told(8 * GIB, ("A", 10 * GIB), ("B", 10 * GIB)) == [
        "  GPU      yes: 15.1 GiB needed, 20.0 GiB free on 2 GPUs",
        "  both     not needed: all of it fits on the GPU",
    ]
    assert told(20 * GIB, ("A", GIB // 2))[1] == "  both     no: not one layer fits on the GPU"


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (
            EstimateWish("7b", "4"),
            "Files of 4 bits are larger, since each block has its scale: Q4_K_M is 4.89 bits per",
        ),
        (EstimateWish("7b", "4.5"), None),
        (EstimateWish("7b", "Q4_K_M"), None),
    ],
)
def test_whole_bits_are_told_apart_from_what_files_have(wish: EstimateWish, sentence: str | None) -> None:
    text = " ".join(estimate_text(wish, free(GIB)).split())
    assert (sentence in text) if sentence else ("Files of" not in text)


@pytest.mark.parametrize(
    ("wish", "sentences"),
    [
        (
            EstimateWish("8b", heads=64),
            "What you did not give (--layers, --hidden) is as in Llama 3.1 8B (8B). Without "
            "--kv-heads there are as many as heads.",
        ),
        (EstimateWish("8b", "16", 4096, 1, 32, 32, 8, 4096), "hidden 4096. Vocabulary as in Llama 3.1 8B (8B)."),
        (EstimateWish("10m"), "is as in Qwen3 0.6B (596M, the nearest known, but far away)."),
    ],
)
def test_what_was_assumed_is_said(wish: EstimateWish, sentences: str) -> None:
    assert sentences in " ".join(estimate_text(wish, free(GIB)).split())


WISHES = st.builds(
    EstimateWish,
    params=st.sampled_from(["1m", "600m", "7b", "8b", "70b", "1t", "1000t"]),
    bits=st.sampled_from(["1", "4", "16", "32", "4.123456", "Q4_K_M", "IQ2_XXS"]),
    seq=st.sampled_from([1, 4096, 16 << 20]),
    batch=st.sampled_from([1, 256]),
    layers=st.sampled_from([None, 1, 512]),
    heads=st.sampled_from([None, 64, 4096]),
    kv_heads=st.sampled_from([None, 1]),
    hidden=st.sampled_from([4096, 1 << 20]),
    method=st.sampled_from(METHODS),
)
DEVICES = st.lists(st.tuples(st.text(max_size=120), st.integers(0, 10**15)), max_size=2).map(tuple)


@given(WISHES, st.integers(0, 10**15), DEVICES)
def test_no_line_is_wider_than_80_columns(wish: EstimateWish, host: int, devices: tuple[tuple[str, int], ...]) -> None:
    for line in estimate_text(wish, free(host, *devices)).splitlines():
        assert len(line) <= 80


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("weights", ["weights"]),
        ("activations", ["activations", "activations_per_layer"]),
        ("inference", []),
        ("all", ["weights", "activations", "activations_per_layer"]),
    ],
)
def test_a_method_chooses_the_formulas(method: str, names: list[str]) -> None:
    formulas = estimate_json(EstimateWish("7b", method=method), free(GIB))["formulas"]
    assert isinstance(formulas, list)
    assert [formula["name"] for formula in formulas] == names


def test_the_keys_of_the_json_are_a_contract() -> None:
    found = json.loads(json.dumps(estimate_json(SOURCE_EXAMPLE, free(64 * GIB, ("CUDA0", 8 * GIB)))))
    formula = {"name", "bytes", "formula", "source"}
    assert set(found) == {"params", "bits", "seq", "batch", "shape", "formulas", "inference", "machine"}
    assert [set(one) for one in found["formulas"]] == [formula, formula]
    assert found["formulas"][0]["bytes"] == 71_520_098_304
    assert found["bits"] == {"name": "32", "bits_per_weight": 32.0}
    assert found["shape"] == {
        "n_layer": 32,
        "n_head": 32,
        "n_head_kv": 32,
        "head_dim": 128,
        "n_embd": 4096,
        "n_ff": 11008,
        "n_vocab": 32000,
        "like": "Llama 2 7B",
        "guessed": ["n_head_kv"],
    }
    assert [set(part) for part in found["inference"]["parts"]] == [formula] * 3
    assert found["inference"]["bytes"] == sum(part["bytes"] for part in found["inference"]["parts"])
    assert found["machine"] == {
        "host_available": 64 * GIB,
        "devices": [{"name": "CUDA0", "free": 8 * GIB}],
        "reserve": GIB,
        "device_reserve": GIB // 2,
        "cpu": True,
        "gpu": False,
        "mixed": True,
        "n_gpu_layers": 9,
        "smaller_quant": None,
    }


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (EstimateWish("7"), "'7' parameters make no language model"),
        (EstimateWish("2000t"), "make no language model"),
        (EstimateWish("7b", seq=0), "--seq 0 is not between 1 and"),
        (EstimateWish("7b", batch=257), "--batch 257 is not between 1 and 256"),
        (EstimateWish("7b", layers=513), "--layers 513"),
        (EstimateWish("7b", kv_heads=-1), "--kv-heads -1"),
        (EstimateWish("7b", method="magic"), "'magic' is no method"),
        (EstimateWish("7b", bits="Q9"), "'Q9' is neither 1 to 32 bits"),
        (EstimateWish("7b", bits="40"), "no model has more than 32 bits per weight"),
        (EstimateWish("x"), "'x' is not a count"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(wish: EstimateWish, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        estimate_text(wish, free(GIB))
    assert caught.value.hint


def test_as_much_is_left_free_as_a_plan_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = HostMemory(total=24 * GIB, available=20 * GIB)
    monkeypatch.setattr(pipeline, "read_host_memory", lambda: memory)
    found = pipeline.free_memory()
    kept = Site(memory, usual_threads()).reserve()
    assert (found.host_available, found.host_reserve, found.device_reserve) == (20 * GIB, kept.host, kept.device)
    assert "left free" in estimate_text(EstimateWish("7b"), found)
    assert "with 1.2 GiB left free" in estimate_text(EstimateWish("7b"), replace(found, devices=()))
