"""The header of one quantization made into another's: what it says of memory is what the real one says."""

from __future__ import annotations

import pytest

from llmrun.gguf.encode import encode_header
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.likeness import likeness
from llmrun.gguf.parse import parse_header
from llmrun.memory.estimate import Estimator
from llmrun.settings import RunSettings
from scripts.architectures.quants import QUANTS, quantized
from scripts.architectures.shapes import MODELS

SHAPES = ("qwen3-8b", "llama-3.1-70b", "qwen3-30b-a3b", "gemma-3-1b", "falcon-h1-0.5b")
SETTINGS = RunSettings(n_ctx=8192, devices=(), n_gpu_layers=0)


def of_types(header: GGUFHeader) -> dict[str, int]:
    """Bytes of each type."""
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.size
    return sizes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("read", ["Q4_K_M", "Q8_0"])
def test_a_likeness_takes_what_the_real_file_takes(shape: str, read: str) -> None:
    """Within a thousandth, for every quantization a repository has."""
    base = quantized(MODELS[shape], read)
    for quant in QUANTS:
        real = quantized(MODELS[shape], quant)
        alike = likeness(base, quant, real.file_size)
        assert alike.file_size == pytest.approx(real.file_size, rel=1e-3)
        taken, truth = (Estimator(header).estimate(SETTINGS).footprint.total for header in (alike, real))
        assert taken == pytest.approx(truth, rel=1e-3)


def test_most_of_it_has_the_type_of_the_label() -> None:
    alike = likeness(quantized(MODELS["qwen3-8b"], "Q8_0"), "UD-Q4_K_XL", 5_100_000_000)
    sizes = of_types(alike)
    assert max(sizes, key=lambda name: sizes[name]) == "Q4_K"


def test_a_label_nobody_knows_is_judged_by_the_size() -> None:
    real = quantized(MODELS["qwen3-8b"], "Q5_K_S")
    alike = likeness(quantized(MODELS["qwen3-8b"], "Q8_0"), "APEX-I-Balanced", real.file_size)
    assert alike.file_size == pytest.approx(real.file_size, rel=1e-3)


def test_experts_published_in_four_bits_stay_so() -> None:
    base = quantized(MODELS["gpt-oss-20b"], "F16")
    experts = of_types(base)["MXFP4"]
    assert of_types(likeness(base, "Q4_K_M", base.file_size - (1 << 30)))["MXFP4"] == experts


@pytest.mark.parametrize("quant", ["Q2_K", "Q3_K_M", "Q3_K_L", "Q4_K_M", "Q5_K_M"])
def test_a_k_quant_is_made_of_k_quants(quant: str) -> None:
    real = quantized(MODELS["llama-3.1-8b"], quant)
    found = likeness(quantized(MODELS["llama-3.1-8b"], "Q8_0"), quant, real.file_size)
    assert not [tensor.name for tensor in found.tensors if tensor.type.name.startswith("IQ")]


def test_an_impossible_size_ends_in_the_smallest_there_is() -> None:
    base = quantized(MODELS["qwen3-8b"], "Q4_K_M")
    assert likeness(base, "Q2_K", 0).file_size < quantized(MODELS["qwen3-8b"], "IQ1_M").file_size


def test_a_likeness_can_be_written_and_read() -> None:
    """So that the engine can be asked about it as about a real one."""
    alike = likeness(quantized(MODELS["qwen3-8b"], "Q4_K_M"), "Q3_K_M", 4_000_000_000)
    read = parse_header(encode_header(alike))
    assert isinstance(read, GGUFHeader)
    assert read.tensors == alike.tensors


def test_experts_that_were_only_quantized_to_four_bits_change() -> None:
    """Many repositories have an MXFP4_MOE file beside others; its header says as much of them as any."""
    base = likeness(quantized(MODELS["qwen3-30b-a3b"], "Q8_0"), "MXFP4_MOE", 17_500_000_000)
    assert "MXFP4" in of_types(base)
    for quant in ("Q8_0", "Q2_K"):
        real = quantized(MODELS["qwen3-30b-a3b"], quant)
        assert likeness(base, quant, real.file_size).file_size == pytest.approx(real.file_size, rel=1e-3)
