"""`llmrun plan`: how a model would be run on this machine or another, as text, as JSON, and as a file to run it by."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llmrun import pipeline
from llmrun.cli.fetching import listener_of
from llmrun.cli.idle import tell_idle_gpu
from llmrun.cli.plan_text import plan_text
from llmrun.cli.wishes import check_gpu_wishes
from llmrun.console import Console, one_line
from llmrun.errors import LLMRunError, UsageError
from llmrun.gguf.summary import ModelSummary
from llmrun.hardware.hardware import Hardware
from llmrun.planning.forecast import Forecast, Source
from llmrun.planning.lent import lent_parts
from llmrun.planning.llama_server import llama_server_command
from llmrun.planning.plan import Plan, PlanWish
from llmrun.planning.plan_file import format_plan
from llmrun.planning.quality import NOTICEABLE, loss_class
from llmrun.plots.file import check_picture, write_picture
from llmrun.reference import parse_reference
from llmrun.settings import MTP, Constraints, RunSettings
from llmrun.variant import Variant

EMITTERS = ("llama-server",)


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Everything the command line said.

    on: another machine, in words; emit: one of EMITTERS; plot: a picture to draw.
    """

    model: str
    constraints: Constraints
    wish: PlanWish
    on: str | None = None
    save: Path | None = None
    emit: str | None = None
    plot: Path | None = None
    offline: bool = False
    json: bool = False
    quiet: bool = False


def chosen_source(*, exact: bool, fast: bool) -> Source | None:
    """Return whom to ask; raises UsageError for both at once."""
    if exact and fast:
        raise UsageError("--exact and --fast exclude each other", "give neither: the engine is asked where it can be")
    return "engine" if exact else "arithmetic" if fast else None


def run_plan(request: PlanRequest) -> None:
    """Show how a model would be run; raises InsufficientMemoryError where nothing fits, with the nearest that does."""
    console = Console(quiet=request.quiet)
    if request.emit is not None and request.emit not in EMITTERS:
        raise UsageError(f"--emit knows {', '.join(EMITTERS)}, not {request.emit!r}")
    check_gpu_wishes(request.constraints, request.wish)
    if request.plot is not None:
        check_picture(request.plot)
    machine = None if request.on is None else _other_machine(request.on)
    if machine is not None and request.wish.source == "engine":
        raise UsageError("--exact asks the engine of this machine, and --on is another", "leave one of them out")
    reference = parse_reference(request.model, pipeline.hub_address())
    planned = pipeline.plan(
        reference, request.constraints, request.wish, machine, listener_of(console), offline=request.offline
    )
    plan = planned.plan
    if request.save is not None:
        _save(request.save, format_plan(plan, planned.variant.size, request.model))
        console.say(f"the plan is in {request.save}: `llmrun chat {request.model} --plan {request.save}` runs it")
    if request.plot is not None:
        from llmrun.cli.charts import chart_of_plan  # here, because what starts a chat imports this module

        write_picture(request.plot, chart_of_plan(request.model, planned))
        console.say(f"the picture is in {request.plot}")
    _show(request, planned.summary, planned.variant, plan, console)
    notes = (*(machine.notes if machine is not None else ()), *_notes(request, plan.forecast), *loss_notes(plan))
    for note in notes:
        console.say(f"note: {note}")
    if not request.quiet:
        tell_idle_gpu(planned.site, request.constraints, console)


def _other_machine(text: str) -> Hardware:
    from llmrun.hardware.what_if import parse_machine

    return parse_machine(text)


def _save(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise LLMRunError(f"{path} cannot be written: {error.strerror}") from error


def _show(request: PlanRequest, summary: ModelSummary, variant: Variant, plan: Plan, console: Console) -> None:
    if request.emit is not None:
        path = str(variant.path) if variant.is_here else variant.files[0].name
        console.show(shlex.join(llama_server_command(path, _with_files(plan), plan.forecast.n_ctx_train)))
    elif request.json:
        console.data(plan_figures(summary, plan))
    else:
        console.show(plan_text(request.model, summary, plan))


def _with_files(plan: Plan) -> RunSettings:
    """Return the settings with the name of the draft's file, where it is not here and they say what fetches it."""
    draft, settings = plan.draft, plan.settings
    if draft is None or settings.draft is None or settings.draft == MTP or Path(settings.draft).is_absolute():
        return settings
    return replace(settings, draft=draft.name)


def loss_notes(plan: Plan) -> tuple[str, ...]:
    """Return what to say of a quantization that loses much."""
    if plan.loss <= NOTICEABLE.most:
        return ()
    return (f"{plan.quant} loses much of the model: a smaller model in 4 bits or more answers better",)


def _notes(request: PlanRequest, forecast: Forecast) -> Iterator[str]:
    """What of the wishes goes without effect, or has one that may not be wanted."""
    asked = request.wish.source is None and request.on is None
    if asked and forecast.source == "arithmetic" and forecast.engine_trouble:
        yield f"the engine could not be asked, so this is arithmetic: {one_line(forecast.engine_trouble)}"
    if request.constraints.n_gpu_layers and len(forecast.pools) == 1:
        yield "--gpu-layers has no effect: the engine sees no GPU"
    if forecast.n_ctx_each > forecast.n_ctx_train:
        yield (
            f"a context of {forecast.n_ctx_each:,} tokens is more than the {forecast.n_ctx_train:,} the model was "
            "trained on"
        )


def plan_figures(summary: ModelSummary, plan: Plan) -> dict[str, object]:
    """Return everything as plain values; sizes are bytes."""
    forecast = plan.forecast
    return {
        "model": {"name": summary.name, "architecture": summary.architecture, "n_params": summary.n_params},
        "quant": plan.quant,
        "loss": plan.loss,
        "loss_class": loss_class(plan.loss).name,
        "prefer": plan.prefer,
        "why": plan.why,
        "where": plan.where,
        "speed": None if plan.speed is None else asdict(plan.speed) | {"measured": plan.measured},
        "settings": asdict(forecast.settings),
        "reasons": [asdict(reason) for reason in plan.reasons],
        "n_ctx": forecast.n_ctx_each,
        "n_ctx_allocated": forecast.n_ctx,
        "n_layer": forecast.n_layer,
        "n_offloaded": forecast.n_offloaded,
        "source": forecast.source,
        "engine_trouble": forecast.engine_trouble,
        "total": forecast.total,
        "arithmetic_total": forecast.arithmetic,
        "fits": forecast.fits or plan.from_disk,
        "from_disk": plan.from_disk,
        "draft": None if plan.draft is None else asdict(plan.draft) | {"total": plan.draft.total},
        "pools": [
            {**asdict(pool), "used": {**asdict(pool.used), "total": pool.used.total}, "headroom": pool.headroom}
            for pool in forecast.pools
        ],
        "lent": [asdict(part) for part in lent_parts(forecast)],
        "better": [asdict(better) for better in plan.better],
        "runners_up": [asdict(runner) for runner in plan.runners_up],
        "contexts": [
            {"n_ctx": row.n_ctx, **{kv_type: cell and asdict(cell) for kv_type, cell in row.cells.items()}}
            for row in forecast.contexts
        ],
    }
