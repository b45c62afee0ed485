"""hardware.cpu and hardware.layout: which weights a processor keeps in layouts of its own, and what they take there."""

from __future__ import annotations

import pytest

from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.hardware.cpu import cpu_layouts, parse_cpu_flags
from llmrun.hardware.layout import Matrix, layout_of
from llmrun.memory.placement import place_layers
from llmrun.memory.shape import model_shape
from llmrun.memory.weights import may_repack, place_weights
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost


def test_flags_are_read_from_both_kinds_of_cpuinfo() -> None:
    assert parse_cpu_flags("processor\t: 0\nflags\t\t: fpu avx2 avx512f\nflags : x\n") == {"fpu", "avx2", "avx512f"}
    assert parse_cpu_flags("Features\t: fp asimd asimddp\n") == {"fp", "asimd", "asimddp"}
    assert parse_cpu_flags("") == frozenset()


def test_what_is_repacked_depends_on_the_cpu() -> None:
    assert cpu_layouts("x86_64", frozenset()) == {}
    assert set(cpu_layouts("x86_64", frozenset({"avx2", "avx512f"}))) == {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q2_K"}
    assert "Q6_K" in cpu_layouts("aarch64", frozenset({"asimddp"}))


AMX = cpu_layouts("x86_64", frozenset({"avx2", "avx512f", "avx512_vnni", "amx_tile", "amx_int8"}))


@pytest.mark.parametrize(
    ("matrix", "more"),
    [
        (Matrix("Q4_K", 64, 512, 128, 128 * 144), 4),
        (Matrix("Q8_0", 64, 96, 192, 192 * 34), 4),
        (Matrix("IQ4_XS", 32, 256, 32, 32 * 136), 2),
        (Matrix("F16", 32, 48, 32 * 48, 2 * 32 * 48), 0),
        (Matrix("Q4_K", 64, 512, 128, 128 * 144, is_expert=True), 0),  # not AMX's: a layout of the AVX2 kind
        (Matrix("Q4_K", 40, 512, 80, 80 * 144), 0),  # so are rows that AMX cannot group
    ],
)
def test_amx_takes_matrices_and_some_need_more_room_there(matrix: Matrix, more: int) -> None:
    layout = layout_of(matrix, AMX)
    assert layout is not None
    assert layout.more == more


@pytest.mark.parametrize("matrix", [Matrix("Q8_0", 40, 96, 120, 4080), Matrix("F16", 32, 40, 1280, 2560)])
def test_what_no_layout_fits_stays_as_it_is(matrix: Matrix) -> None:
    assert layout_of(matrix, AMX) is None


def test_amx_without_vnni_is_not_used() -> None:
    layouts = cpu_layouts("x86_64", frozenset({"avx2", "amx_tile", "amx_int8"}))
    assert set(layouts) == {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}


def test_what_amx_needs_more_is_counted() -> None:
    shape = model_shape(_header("qwen3-8b"))
    nowhere = place_layers(shape.n_layer, 0, ())
    plain, kept = (place_weights(shape, nowhere, (), mmap=False, layouts=layouts) for layouts in ({}, AMX))
    groups = [shape.output, *(layer.weights for layer in shape.layers)]
    blocks = sum(m.n_blocks for group in groups for m in group.matrices if m.type == "Q4_K")
    assert kept.host - plain.host == 4 * blocks > 2**20


def test_a_model_with_stacks_of_matrices_is_not_run_in_amx_buffers() -> None:
    """Multi-head latent attention multiplies by them."""
    avx2 = cpu_layouts("x86_64", frozenset({"avx2"}))
    plain, with_stacks = (_header(name) for name in ("qwen3-8b", "deepseek-v3"))
    assert may_repack(plain, AMX)
    assert may_repack(with_stacks, avx2)
    assert not may_repack(with_stacks, AMX)
    assert not may_repack(plain, {})


def _header(name: str) -> GGUFHeader:
    header = parse_header(ghost(MODELS[name], "Q4_K_M")[0])
    assert isinstance(header, GGUFHeader)
    return header
