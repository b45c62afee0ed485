"""Whether a model as a server runs it is what a user would have been given: what they fixed is never adjusted. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from llmrun.planning.plan import Plan, PlanWish
from llmrun.settings import AUTO, MTP, Constraints

_AUTO = "auto"  # of Constraints.projector


def disagreement(constraints: Constraints, wish: PlanWish, plan: Plan) -> str | None:
    """Return the first option that asks for another plan than the one there is; None where none does.

    A reserve does not: nothing is loaded. Nor does leave to read from disk.
    """
    return next(_disagreements(constraints, wish, plan), None)


def fixes_something(constraints: Constraints, wish: PlanWish) -> bool:
    """Whether anything is fixed that a plan could disagree with."""
    return constraints != Constraints() or wish.prefer != PlanWish().prefer or wish.require_gpu


def _disagreements(constraints: Constraints, wish: PlanWish, plan: Plan) -> Iterator[str]:
    settings = plan.settings
    if constraints.n_ctx not in (None, plan.forecast.n_ctx_each):
        yield f"--ctx {constraints.n_ctx}"
    if constraints.n_gpu_layers not in (None, settings.n_gpu_layers):
        yield f"--gpu-layers {constraints.n_gpu_layers}"
    if constraints.type_kv is not None and {constraints.type_kv} != {settings.type_k, settings.type_v}:
        yield f"--kv-type {constraints.type_kv}"
    if constraints.n_threads not in (None, settings.n_threads):
        yield f"--threads {constraints.n_threads}"
    if constraints.n_draft_max not in (None, settings.n_draft_max):
        yield f"--speculate {constraints.n_draft_max or 'off'}"
    asked = None if plan.draft is None else plan.draft.asked
    if constraints.draft not in (None, asked) and (constraints.draft, asked) != (AUTO, MTP):
        yield "--draft"
    if constraints.devices not in (None, settings.devices) or any(constraints.device_limits):
        yield "--device"
    if constraints.loras != settings.loras:
        yield "--lora"
    if constraints.projector not in (None, settings.projector) and not _is_its_own(constraints, settings.projector):
        yield "--image" if constraints.projector == _AUTO else "--projector"
    if wish.prefer not in (PlanWish().prefer, plan.prefer):
        yield f"--prefer {wish.prefer}"
    if wish.require_gpu and plan.where == "host":
        yield "--require-gpu"


def _is_its_own(constraints: Constraints, projector: str | None) -> bool:
    return constraints.projector == _AUTO and projector is not None
