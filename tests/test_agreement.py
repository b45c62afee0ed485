"""servers.agreement: what a user fixed is never adjusted, not even to save a load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmrun import pipeline
from llmrun.planning.plan import Plan, PlanWish
from llmrun.reference import GuideRef
from llmrun.servers.agreement import disagreement, fixes_something
from llmrun.settings import DEFAULT_DRAFT, Constraints, Lora


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A plan for guide with everything fixed: two conversations of 1,024 tokens, two threads, on the CPU."""
    fixed = Constraints(1024, 0, "f16", 2, 2, ())
    return pipeline.plan(GuideRef("Q8_0"), fixed, PlanWish(source="arithmetic")).plan


NOTHING = Constraints()


@pytest.mark.parametrize(
    "agreed",
    [
        NOTHING,
        Constraints(n_ctx=1024),
        Constraints(n_gpu_layers=0),
        Constraints(type_kv="f16"),
        Constraints(n_threads=2),
        Constraints(n_draft_max=DEFAULT_DRAFT),
        Constraints(devices=()),
        Constraints(1024, 0, "f16", 2, None, ()),
    ],
)
def test_what_is_as_the_server_has_it_agrees(plan: Plan, agreed: Constraints) -> None:
    assert disagreement(agreed, PlanWish(), plan) is None


@pytest.mark.parametrize(
    ("fixed", "option"),
    [
        (Constraints(n_ctx=2048), "--ctx 2048"),  # of all conversations together, and not of one
        (Constraints(n_ctx=1000), "--ctx 1000"),
        (Constraints(n_gpu_layers=1), "--gpu-layers 1"),
        (Constraints(type_kv="q8_0"), "--kv-type q8_0"),
        (Constraints(n_threads=1), "--threads 1"),
        (Constraints(n_draft_max=0), "--speculate off"),
        (Constraints(n_draft_max=3), "--speculate 3"),
        (Constraints(devices=("CUDA0",)), "--device"),
        (Constraints(loras=(Lora("/a.gguf"),)), "--lora"),
        (Constraints(projector="/mmproj.gguf"), "--projector"),
        (Constraints(projector="auto"), "--image"),
        (Constraints(draft="/draft.gguf"), "--draft"),
    ],
)
def test_what_is_otherwise_is_named(plan: Plan, fixed: Constraints, option: str) -> None:
    assert disagreement(fixed, PlanWish(), plan) == option
    assert fixes_something(fixed, PlanWish())


def test_a_model_that_sees_already_needs_no_other_projector(plan: Plan) -> None:
    settings = replace(plan.settings, projector="/mmproj.gguf")
    seeing = replace(plan, forecast=replace(plan.forecast, settings=settings))
    assert disagreement(Constraints(projector="auto"), PlanWish(), seeing) is None
    assert disagreement(Constraints(projector="/other.gguf"), PlanWish(), seeing) == "--projector"
    assert disagreement(NOTHING, PlanWish(), seeing) is None


def test_a_server_guesses_with_the_draft_that_was_asked_for_or_with_any() -> None:
    fixed = Constraints(1024, draft="guide:Q4_K_M")
    plan = pipeline.plan(GuideRef("Q8_0"), fixed, PlanWish(source="arithmetic")).plan
    assert disagreement(fixed, PlanWish(), plan) is None
    assert disagreement(NOTHING, PlanWish(), plan) is None  # no answer is another one for it
    assert disagreement(Constraints(draft="guide:Q8_0"), PlanWish(), plan) == "--draft"
    assert disagreement(Constraints(n_draft_max=0), PlanWish(), plan) == "--speculate off"
    assert fixes_something(Constraints(draft="guide"), PlanWish())


def test_wishes_count_where_they_would_change_the_plan(plan: Plan) -> None:
    assert disagreement(NOTHING, PlanWish(require_gpu=True), plan) == "--require-gpu"
    assert disagreement(NOTHING, PlanWish(prefer="quality"), plan) == "--prefer quality"
    assert disagreement(NOTHING, PlanWish(reserve_host=1 << 40, allow_disk=True), plan) is None
    assert not fixes_something(NOTHING, PlanWish(reserve_host=1))


def test_an_adapter_that_was_not_asked_for_is_no_agreement(plan: Plan) -> None:
    settings = replace(plan.settings, loras=(Lora("/a.gguf"),))
    changed = replace(plan, forecast=replace(plan.forecast, settings=settings))
    assert disagreement(NOTHING, PlanWish(), changed) == "--lora"
