"""Plans that were decided by hand and are kept as text: what changes in them is read before it is kept.

scripts/record_plans writes them anew. `expect` in each is what somebody who knows model and machine would do; where the
policy does otherwise, the difference is meant to be seen.
"""

from __future__ import annotations

import pytest

from llmrun.planning.quality import LOSS
from scripts.architectures.quants import QUANTS, bits_per_weight, quantized
from scripts.architectures.shapes import MODELS
from scripts.golden.plan_cases import CASES, PlanCase
from scripts.golden.plans import GOLDEN, described

# Bits per weight of Llama-3.1-8B's files: llama.cpp, tools/quantize/README.md; of Q5_0 and Q4_1 by their blocks
PUBLISHED_BITS = {
    "F16": 16.00, "Q8_0": 8.50, "Q6_K": 6.56, "Q5_K_M": 5.70, "Q5_K_S": 5.57, "Q5_0": 5.59, "Q4_K_M": 4.89,
    "Q4_K_S": 4.67, "Q4_0": 4.65, "Q4_1": 5.12, "IQ4_NL": 4.68, "IQ4_XS": 4.46, "Q3_K_L": 4.30, "Q3_K_M": 4.00,
    "Q3_K_S": 3.64, "IQ3_M": 3.76, "IQ3_XXS": 3.25, "Q2_K": 3.16, "IQ2_XS": 2.59, "IQ1_M": 2.15,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_plan_is_as_it_was_when_it_was_read(case: PlanCase) -> None:
    assert described(case) == (GOLDEN / f"{case.name}.txt").read_text("utf-8")


def test_every_golden_plan_has_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {case.name for case in CASES}
    assert len(CASES) >= 30


@pytest.mark.parametrize("quant", QUANTS)
def test_made_up_quantizations_are_as_large_as_real_ones(quant: str) -> None:
    """Within four percent: the recipes are simpler than llama.cpp's."""
    assert bits_per_weight(quantized(MODELS["llama-3.1-8b"], quant)) == pytest.approx(PUBLISHED_BITS[quant], rel=0.04)


def test_every_quantization_of_the_cases_has_a_known_loss() -> None:
    assert len(QUANTS) == 20
    assert set(QUANTS) <= set(LOSS)
