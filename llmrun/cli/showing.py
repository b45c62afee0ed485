"""`llmrun show`: every quantization of a model side by side, as a table of 80 columns and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from llmrun import pipeline
from llmrun.cli.fetching import listener_of
from llmrun.console import Console, one_line
from llmrun.planning.plan import PlanWish
from llmrun.planning.policy import Where
from llmrun.planning.quality import loss_class
from llmrun.reference import format_reference, parse_reference
from llmrun.settings import Constraints
from llmrun.survey import Row, Survey
from llmrun.units import format_count

_QUANT = 12  # columns
_PLACES: dict[Where, str] = {"devices": "GPU", "experts": "SPLIT", "split": "SPLIT", "host": "CPU"}
_COPIED = 1.2  # times the file's size: more than embeddings that are there twice
_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20))
_COLUMNS = f"  {'quant':<{_QUANT}} {'files':>5} {'size':>6} {'bpw':>5} {'loss':<13} {'weights':>7} "
_MORE_COLUMNS = f"{'KV':>5} {'comp.':>5} {'where':>5} {'tok/s':>5}"


@dataclass(frozen=True, slots=True)
class ShowRequest:
    """Everything the command line said."""

    model: str
    constraints: Constraints
    wish: PlanWish
    exact: bool
    offline: bool
    json: bool
    quiet: bool


def run_show(request: ShowRequest) -> None:
    """Show every quantization of a model, what it takes here, and which one would be taken."""
    console = Console(quiet=request.quiet)
    reference = parse_reference(request.model, pipeline.hub_address())
    shown = pipeline.show(
        reference, request.constraints, request.wish, listener_of(console), exact=request.exact, offline=request.offline
    )
    if request.json:
        console.data(show_figures(shown))
        return
    console.show(show_text(shown))
    name = format_reference(reference)
    for line in _what_to_type(name, shown.survey):
        console.say(line)


def show_text(shown: pipeline.Shown) -> str:
    """Return the table, at most 80 columns wide."""
    survey = shown.survey
    name, size = _unit(survey)
    rows = [_line(row, row.quant == survey.chosen, size) for row in survey.rows]
    head = [*_head(shown), f"with a context of {survey.n_ctx:,} tokens on this machine; sizes in {name}", ""]
    notes = list(_notes(shown))
    return "\n".join([*head, _COLUMNS + _MORE_COLUMNS, *rows, *([""] if notes else []), *notes])


def _head(shown: pipeline.Shown) -> Iterator[str]:
    summary = shown.survey.summary
    about = f"{format_count(summary.n_params)} parameters, {one_line(summary.architecture)}"
    repository = shown.repository
    name = summary.name or (repository.repo_id.rpartition("/")[2] if repository is not None else "no name")
    yield f"{one_line(name)}: {about}, trained on {summary.n_ctx_train or 0:,} tokens"
    if repository is not None:
        gate = ", gated: its owner decides who may have it" if repository.gated else ""
        license_ = f", licence {one_line(repository.license)}" if repository.license else ""
        yield f"{repository.repo_id} at {repository.commit[:12]}{license_}{gate}"


def _unit(survey: Survey) -> tuple[str, int]:
    largest = max(row.variant.size for row in survey.rows)
    return next((unit for unit in _UNITS if largest >= unit[1]), _UNITS[-1])


def _line(row: Row, chosen: bool, unit: int) -> str:
    label = row.quant if len(row.quant) <= _QUANT else f"{row.quant[: _QUANT - 1]}…"
    loss = loss_class(row.loss).name.removesuffix(" loss")
    taken, about = row.taken, "" if row.is_read else "≈"
    if taken is None:
        memory = f"{'?':>7} {'?':>5} {'?':>5}"
    else:
        weights = f"{about}{_number(taken.weights, unit)}"
        rest = taken.compute + taken.overhead
        memory = f"{weights:>7} {_number(taken.kv_cache, unit):>5} {_number(rest, unit):>5}"
    place = "no" if row.where is None else _PLACES[row.where]
    speed = "" if row.decode is None else f"{row.decode:.1f}" if row.decode < 100 else f"{row.decode:.0f}"
    return (
        f"{'>' if chosen else ' '} {one_line(label):<{_QUANT}} {len(row.variant.files):>5} "
        f"{_number(row.variant.size, unit):>6} {row.bpw:>5.2f} {loss:<13} {memory} {place:>5} {speed:>5}"
    ).rstrip()


def _number(size: int, unit: int) -> str:
    value = size / unit
    return f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _notes(shown: pipeline.Shown) -> Iterator[str]:
    if shown.repository is not None and shown.here:
        yield f"here already: {', '.join(map(one_line, shown.here))}"
    if any(not row.is_read for row in shown.survey.rows):
        yield "≈ scaled from the header of another quantization; --exact reads every header"
    if any(row.taken is not None and row.taken.weights > _COPIED * row.variant.size for row in shown.survey.rows):
        yield "weights beyond the size: a second copy in the CPU's own layout, for speed"
    for sidecar in shown.sidecars:
        yield f"also there: {one_line(sidecar)}"
    for problem in shown.unusable:
        yield f"not usable: {one_line(problem)}"


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
        "where": "no" if row.where is None else _PLACES[row.where],
        "n_gpu_layers": row.n_gpu_layers,
        "decode": row.decode,
    }
