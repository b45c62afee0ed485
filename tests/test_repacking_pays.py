"""For which models weights in the processor's own layout are worth having, and for which they may not be there."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from llmrun.hardware.cpu import cpu_layouts
from llmrun.hardware.what_if import parse_machine
from llmrun.planning.plan import PlanWish
from llmrun.planning.plan_file import SavedPlan
from llmrun.planning.repacking import repacking_pays, repacking_pays_together
from llmrun.planning.work import ModelWork, model_work
from llmrun.settings import Constraints, RunSettings
from llmrun.settling import make_planner
from llmrun.site import site_of
from llmrun.speeds import Speeds
from llmrun.variant import ModelFile, Variant
from scripts.architectures.quants import QUANTS, quantized
from scripts.architectures.shapes import MODELS

AVX2 = frozenset({"avx2"})
AMX = AVX2 | {"avx512f", "avx512_vnni", "amx_tile", "amx_int8"}


def test_repacking_pays_by_the_types_until_it_was_measured() -> None:
    assert paying("llama-3.1-8b", AVX2) == {"Q4_0", "IQ4_NL"}


def test_most_types_are_faster_in_amx_buffers_but_those_of_six_bits_are_not() -> None:
    found = paying("llama-3.1-8b", AMX)
    assert {"Q8_0", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_XS"} <= found
    assert not {"F16", "Q6_K", "Q3_K_M", "Q2_K"} & found


def test_experts_do_not_gain_by_amx_which_does_not_take_them() -> None:
    assert "Q4_K_M" not in paying("qwen3-30b-a3b", AMX)


def test_repacking_pays_for_more_types_where_conversations_are_written_at_once() -> None:
    by_quant = works("llama-3.1-8b")
    avx2 = cpu_layouts("x86_64", AVX2)
    together = {quant for quant, work in by_quant.items() if repacking_pays_together(work, avx2)}
    assert together == {"Q4_0", "IQ4_NL", "Q4_K_M", "Q4_K_S"}
    assert not any(repacking_pays_together(work, {*avx2, "Q2_K"}) for work in by_quant.values())  # AVX-512
    assert not any(repacking_pays_together(work, ()) for work in by_quant.values())


@cache
def works(name: str) -> dict[str, ModelWork]:
    return {quant: model_work(quantized(MODELS[name], quant)) for quant in QUANTS}


def paying(name: str, flags: frozenset[str]) -> set[str]:
    layouts = cpu_layouts("x86_64", flags)
    return {quant for quant, work in works(name).items() if repacking_pays(work, RunSettings(), None, None, layouts)}


@pytest.mark.parametrize(("name", "repacked"), [("llama-3.1-8b", True), ("deepseek-v2-lite", False)])
def test_a_saved_plan_is_run_without_a_layout_that_would_break_the_engine(name: str, repacked: bool) -> None:
    header = quantized(MODELS[name], "Q4_K_M")
    variant = Variant("Q4_K_M", (ModelFile("Q4_K_M", header.file_size, Path("Q4_K_M")),))
    site = replace(site_of(parse_machine("ram=64GiB")), layouts=cpu_layouts("x86_64", AMX))
    planner = make_planner([(variant, header)], site, Constraints(), PlanWish(), None, Speeds(None, 2))
    saved = SavedPlan("Q4_K_M", header.file_size, RunSettings(n_ctx=4096, devices=(), n_gpu_layers=0, repack=True))
    assert planner.replayed(saved).settings == replace(saved.settings, repack=repacked)
