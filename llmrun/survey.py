"""All variants of a model side by side: what each would take on this machine, where it would run, and how fast.

Knows nothing of where variants come from, or how the table is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmrun.gguf.summary import ModelSummary
from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.planner import Planner
from llmrun.planning.lent import whose
from llmrun.planning.plan import Plan, PlanWish, Whose
from llmrun.planning.policy import Where
from llmrun.settings import Constraints, RunSettings
from llmrun.site import Site
from llmrun.speeds import Speeds
from llmrun.stock import Stocked
from llmrun.variant import Variant

_USUAL_CONTEXT = 4096  # tokens, where nothing fits and so no context is chosen


@dataclass(frozen=True, slots=True)
class Row:
    """One variant. is_read: whether its header is its own, so that what it takes is exact. label: its quantization, by
    its files' names, else by its own header; None where neither tells it.

    where: None where it does not fit; what it takes is then told for the CPU alone. taken: host and devices together,
    None where nobody knows. n_gpu_layers: the output counted. decode: predicted tokens a second, None where unknown.
    """

    variant: Variant
    is_read: bool
    label: str | None
    bpw: float
    loss: float
    where: Where | None
    n_gpu_layers: int
    taken: MemoryBreakdown | None
    decode: float | None

    @property
    def quant(self) -> str:
        """Its label."""
        return self.variant.quant


@dataclass(frozen=True, slots=True)
class Survey:
    """Rows from the largest to the smallest. chosen: the label of the variant llmrun would take, None for none.

    n_ctx: the tokens of context all rows are told for, n_layer: layers, the output counted. owner: whose the devices
    are.
    """

    summary: ModelSummary
    rows: tuple[Row, ...]
    chosen: str | None
    n_ctx: int
    n_layer: int
    owner: Whose = "own"


def survey(
    stock: Sequence[Stocked],
    is_read: Sequence[bool],
    site: Site,
    speeds: Speeds,
    constraints: Constraints,
    wish: PlanWish,
    plan: Plan | None,
) -> Survey:
    """Return what every variant would take, all with the context of the plan; None is where nothing fits."""
    n_ctx = constraints.n_ctx or (_usual(stock) if plan is None else plan.forecast.n_ctx_each)
    fixed = replace(constraints, n_ctx=n_ctx)
    rows = [
        _row(one, read, Planner([one], site, speeds, fixed, wish), n_ctx)
        for one, read in zip(stock, is_read, strict=True)
    ]
    chosen = None if plan is None else plan.quant
    summary = next((one.summary for one in stock if one.offer.quant == chosen), stock[0].summary)
    by_size = sorted(rows, key=lambda row: -row.variant.size)
    return Survey(summary, tuple(by_size), chosen, n_ctx, stock[0].offer.sizes.n_layer + 1, whose(site.devices))


def _usual(stock: Sequence[Stocked]) -> int:
    return min(_USUAL_CONTEXT, stock[0].offer.n_ctx_train)


def _row(one: Stocked, is_read: bool, planner: Planner, n_ctx: int) -> Row:
    """Return what one variant takes. planner: who plans with nothing else."""
    choice = planner.choice()
    settings = RunSettings(n_ctx=n_ctx, devices=(), n_gpu_layers=0) if choice is None else choice.settings
    footprint = one.offer.footprint(settings) if choice is None else choice.footprint
    return Row(
        variant=one.variant,
        is_read=is_read,
        label=one.variant.label or one.summary.quant,
        bpw=one.summary.bpw,
        loss=one.offer.loss,
        where=None if choice is None else choice.row.where,
        n_gpu_layers=settings.n_gpu_layers or 0,
        taken=None if footprint is None else _together(footprint),
        decode=None if choice is None else planner.decode(choice),
    )


def _together(footprint: Footprint) -> MemoryBreakdown:
    parts = (footprint.host, *footprint.devices)
    names = ("weights", "kv_cache", "compute", "overhead", "mapped")
    return MemoryBreakdown(**{name: sum(getattr(part, name) for part in parts) for name in names})
