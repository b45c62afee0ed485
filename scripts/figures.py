"""The README's tables of figures: the three questions in numbers, how exact memory is known, and how fast llmrun is.

Memory and speeds are llmrun's own, for machines that are made up; what was measured lies in `tests/golden/measured`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from llmrun.errors import InsufficientMemoryError
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.what_if import parse_machine
from llmrun.planning.plan import Plan, PlanWish
from llmrun.settings import Constraints
from llmrun.settling import make_planner
from llmrun.site import described_site
from llmrun.speeds import Speeds
from llmrun.units import format_bytes
from llmrun.variant import ModelFile, Variant
from scripts.architectures.quants import quantized
from scripts.architectures.shapes import MODELS
from scripts.measuring.logs import LOGS, judge
from scripts.measuring.rows import LoadLog, read_rows

MEASURED = Path(__file__).resolve().parent.parent / "tests/golden/measured"
MODEL, SHOWN_QUANTS = "llama-3.1-8b", ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
CONTEXT, LONG = 8192, 32768
LARGE, LAPTOP, WITH_CARD = "512GiB", "16GiB,free=12GiB", "rtx4060-laptop+16GiB,free=12GiB"


def questions() -> str:
    """One model in several quantizations: what it takes, whether the CPU runs it, and what a card of 8 GB adds."""
    rows = [
        f"| | weights | KV cache of {CONTEXT:,} tokens | of {LONG:,} | all, at {CONTEXT:,} "
        "| on the CPU of a laptop with 16 GiB | with a card of 8 GB beside it |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for quant in SHOWN_QUANTS:
        here, long = _plan(quant, LARGE, CONTEXT), _plan(quant, LARGE, LONG)
        assert here is not None, quant
        assert long is not None, quant
        used, cache = here.forecast.pools[0].used, long.forecast.pools[0].used.kv_cache
        sizes = " | ".join(format_bytes(size) for size in (used.weights, used.kv_cache, cache, used.total))
        rows.append(f"| {quant} | {sizes} | {_where(quant, LAPTOP)} | {_where(quant, WITH_CARD)} |")
    return "\n".join(rows)


def _where(quant: str, machine: str) -> str:
    plan = _plan(quant, machine, CONTEXT)
    if plan is None:
        return "no"
    speed = "" if plan.decode is None else f", {plan.decode:.0f} tokens a second"
    if plan.settings.n_gpu_layers == 0:
        return f"yes{speed}"
    on_card, n_all = plan.forecast.n_offloaded, plan.forecast.n_layer + 1
    return f"all layers{speed}" if on_card >= n_all else f"{on_card} of {n_all} layers on it{speed}"


def _plan(quant: str, machine: str, n_ctx: int) -> Plan | None:
    """What would be run, None where it does not fit."""
    site = described_site(parse_machine(machine), Constraints())
    stock: Sequence[tuple[Variant, GGUFHeader]] = [_variant(quant)]
    speeds = Speeds(None, site.threads.decode)
    try:
        return make_planner(stock, site, Constraints(n_ctx=n_ctx), PlanWish(), None, speeds).plan()
    except InsufficientMemoryError:
        return None


def _variant(quant: str) -> tuple[Variant, GGUFHeader]:
    header = quantized(MODELS[MODEL], quant)
    path = Path(f"{MODEL}-{quant}.gguf")
    return Variant(quant, (ModelFile(path.name, header.file_size, path),)), header


def accuracy() -> str:
    """How the sizes that llmrun told came out: on others' machines, against the engine, on a card, and on this one."""
    logs = [row for row in read_rows(LOGS.read_text("utf-8")) if isinstance(row, LoadLog)]
    judged = [one for log in logs for one in judge(log) if one.judged]
    exact, names = sum(one.exact for one in judged), {one.architecture.rstrip("?") for one in judged}
    rows = [
        "| beside | what | came out | shown by |",
        "|---|---|---|---|",
        f"| logs of other people's machines, {len(names)} architectures | KV cache or state of {len(judged)} loads, "
        f"to the digit printed | {exact} of {len(judged)} the same | `scripts/accuracy logs` |",
    ]
    rows += [_engine_row(json.loads(path.read_text("utf-8"))) for path in sorted((MEASURED / "engine").glob("*.json"))]
    rows += [_card_row(json.loads(path.read_text("utf-8"))) for path in sorted(MEASURED.glob("*.json"))]
    return "\n".join(rows)


def _engine_row(raw: dict[str, Any]) -> str:
    return (
        f"| llama.cpp itself, headers of {raw['models']} models | weights, KV cache and state in {raw['cases']} "
        f"settings, {raw['buffers']} compute buffers, to the byte "
        f"| {raw['weights']}, {raw['caches']} and {raw['equal']} the same | `{raw['command']}` |"
    )


def _card_row(raw: dict[str, Any]) -> str:
    runs = raw["runs"]
    right = sum(run["planned"] == run["allocated"] for run in runs)
    beside = [run["taken_full"] - sum(run["allocated"]) for run in runs]
    return (
        f"| an {raw['card']}, driver {raw['driver']} | the same three after a real load | {right} of {len(runs)} loads "
        f"to the byte; the driver took {format_bytes(min(beside))} to {format_bytes(max(beside))} beside "
        "| `scripts/accuracy card` |"
    )


def speeds() -> str:
    """llmrun beside others on the same machine, in the same run, a table for each machine; above 1 llmrun is faster."""
    return "\n\n".join(_beside(path) for path in sorted((MEASURED / "beside").glob("*.json")))


def _beside(path: Path) -> str:
    raw = json.loads(path.read_text("utf-8"))
    columns = ("| what | beside | times as fast | runs | shown by |", "|---|---|---:|---:|---|")
    rows = [f"On {raw['machine']}:", "", *columns]
    rows += [
        f"| {row['what']} | {row['peer']} | {_ratio(row['ratios'])} | {row['turns']} | `{row['command']}` |"
        for row in raw["beside"]
    ]
    return "\n".join(rows)


def _ratio(ratios: Sequence[float]) -> str:
    """The middle one, and where there are several what they lie between."""
    middle = f"{median(ratios):.3g}"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.3g} to {max(ratios):.3g})"
