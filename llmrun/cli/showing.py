"""`llmrun show`: every quantization of a model side by side, as text, as a picture and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from llmrun import pipeline
from llmrun.cli.charts import chart_of_show
from llmrun.cli.fetching import listener_of
from llmrun.cli.show_text import PLACES, show_text
from llmrun.console import Console
from llmrun.planning.plan import PlanWish
from llmrun.planning.quality import loss_class
from llmrun.plots.file import check_picture, write_picture
from llmrun.reference import format_reference, parse_reference
from llmrun.settings import Constraints
from llmrun.survey import Row, Survey


@dataclass(frozen=True, slots=True)
class ShowRequest:
    """Everything the command line said. plot: a picture to draw."""

    model: str
    constraints: Constraints
    wish: PlanWish
    exact: bool
    plot: Path | None
    offline: bool
    json: bool
    quiet: bool


def run_show(request: ShowRequest) -> None:
    """Show every quantization of a model, what it takes here, and which one would be taken."""
    console = Console(quiet=request.quiet)
    if request.plot is not None:
        check_picture(request.plot)
    reference = parse_reference(request.model, pipeline.hub_address())
    shown = pipeline.show(
        reference, request.constraints, request.wish, listener_of(console), exact=request.exact, offline=request.offline
    )
    if request.plot is not None:
        write_picture(request.plot, chart_of_show(request.model, shown, request.wish))
        console.say(f"the picture is in {request.plot}")
    if request.json:
        console.data(show_figures(shown))
        return
    console.show(show_text(request.model, shown, request.wish))
    name = format_reference(reference)
    for line in _what_to_type(name, shown.survey):
        console.say(line)


def _what_to_type(name: str, survey: Survey) -> Iterator[str]:
    if survey.chosen is None:
        yield "none of them fits here: a shorter --ctx, or a smaller model"
        return
    yield f"> is what `llmrun chat {name}` would take"


def show_figures(shown: pipeline.Shown) -> dict[str, object]:
    """Return everything as plain values; sizes are bytes."""
    survey, repository = shown.survey, shown.repository
    return {
        "model": {
            "name": survey.summary.name,
            "architecture": survey.summary.architecture,
            "n_params": survey.summary.n_params,
            "n_ctx_train": survey.summary.n_ctx_train,
        },
        "repository": None
        if repository is None
        else {
            "repo_id": repository.repo_id,
            "commit": repository.commit,
            "license": repository.license,
            "gated": repository.gated,
        },
        "n_ctx": survey.n_ctx,
        "chosen": survey.chosen,
        "variants": [_figures(row) | {"here": row.quant in shown.here} for row in survey.rows],
        "sidecars": list(shown.sidecars),
        "unusable": list(shown.unusable),
    }


def _figures(row: Row) -> dict[str, object]:
    taken = row.taken
    return {
        "quant": row.quant,
        "label": row.label,
        "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in row.variant.files],
        "size": row.variant.size,
        "bpw": row.bpw,
        "loss": row.loss,
        "loss_class": loss_class(row.loss).name,
        "exact": row.is_read,
        "memory": None if taken is None else asdict(taken) | {"total": taken.total},
        "where": "no" if row.where is None else PLACES[row.where],
        "n_gpu_layers": row.n_gpu_layers,
        "decode": row.decode,
    }
