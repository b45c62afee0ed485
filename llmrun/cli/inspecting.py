"""`llmrun inspect`: what a file says of itself, as lines to read and as JSON."""

from __future__ import annotations

from dataclasses import asdict

from llmrun import pipeline
from llmrun.console import Console, bullet_list, one_line
from llmrun.gguf.summary import ModelSummary
from llmrun.reference import parse_reference
from llmrun.units import format_bytes, format_count


def run_inspect(model: str, *, offline: bool, as_json: bool) -> None:
    """Show what the file of a model says."""
    console = Console()
    path, summary = pipeline.inspect(parse_reference(model, pipeline.hub_address()), offline=offline)
    if as_json:
        console.data({"path": path, **asdict(summary)})
        return
    console.show(summary_text(summary))


def summary_text(summary: ModelSummary) -> str:
    """Return the figures as lines, at most 80 columns where the file's own names are short."""
    rows = [
        ("name", one_line(summary.name or "not given")),
        ("architecture", f"{one_line(summary.architecture)} (GGUF version {summary.gguf_version})"),
        ("parameters", f"{format_count(summary.n_params)} ({summary.n_params:,})"),
        ("size", f"{format_bytes(summary.size)}, {summary.bpw:.2f} bits per weight"),
        ("quantization", summary.quant or "not given"),
        ("layers", _layers(summary)),
        ("heads", f"{_span(summary.n_head)}, of K and V {_span(summary.n_head_kv or summary.n_head)}"),
        ("embedding", _count(summary.n_embd)),
        ("experts", _experts(summary)),
        ("context", _context(summary)),
        ("vocabulary", f"{_count(summary.n_vocab)} tokens"),
        ("tokenizer", one_line(" ".join(filter(None, (summary.tokenizer, summary.tokenizer_pre))) or "not given")),
        ("template", _template(summary)),
        ("license", one_line(summary.license or "not given")),
    ]
    mix = [
        f"  {share.type:<8} {share.n_tensors:>5} tensors  {format_count(share.n_elements):>6} weights  "
        f"{format_bytes(share.size):>10}  {share.size / (summary.tensor_bytes or 1):>6.1%}"
        for share in summary.mix
    ]
    return "\n".join(
        [bullet_list([row for row in rows if row[1]]), "", "tensors by type, and their share of the bytes", *mix]
    )


def _layers(summary: ModelSummary) -> str:
    draft = f", {summary.n_layer_draft} of them only for drafting (MTP)" if summary.n_layer_draft else ""
    return f"{_count(summary.n_layer)}{draft}"


def _experts(summary: ModelSummary) -> str:
    if not summary.n_expert:
        return ""
    return f"{summary.n_expert}, of them {_span(summary.n_expert_used)} used for a token"


def _context(summary: ModelSummary) -> str:
    window = f", in some layers a window of {summary.n_swa:,}" if summary.n_swa else ""
    return f"trained on {_count(summary.n_ctx_train)} tokens{window}"


def _template(summary: ModelSummary) -> str:
    if summary.chat_template is None:
        return "none: the model may continue text rather than answer"
    return f"in the file, {len(summary.chat_template):,} characters"


def _count(value: int | None) -> str:
    return "not given" if value is None else f"{value:,}"


def _span(pair: tuple[int, int] | None) -> str:
    if pair is None:
        return "not given"
    return f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} to {pair[1]:,}"
