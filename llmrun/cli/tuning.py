"""`llmrun tune`: what is fastest for a model on this machine, as lines of 80 columns and as JSON."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from llmrun import pipeline
from llmrun.cli.fetching import listener_of
from llmrun.console import Console
from llmrun.errors import LLMRunError, UsageError
from llmrun.hardware.threads import choose_threads, usual_threads
from llmrun.planning.trials import Found, Option
from llmrun.reference import parse_reference
from llmrun.settings import Constraints
from llmrun.tuning import DEFAULT_BUDGET, Outcome, open_subject, tune

_NAMES = {
    "n_threads": "threads, writing",
    "n_threads_batch": "threads, reading",
    "affinity": "thread affinity",
    "repack": "CPU's own layout",
    "n_ubatch": "batch",
    "flash_attn": "flash attention",
    "type_k": "KV type",
}
_MEASURES = {"write": "writing", "read": "reading", "answer": "512 read, 256 written"}
_SHORTEST, _LONGEST = 1.0, 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """Everything the command line said. seconds: of timing; None is what stays within a minute."""

    model: str
    constraints: Constraints
    seconds: float | None = None
    forget: bool = False
    offline: bool = False
    json: bool = False
    quiet: bool = False


def run_tune(request: TuneRequest) -> None:
    """Find out what is fastest and remember it, or forget it; Ctrl-C leaves what was known as it was."""
    console = Console(quiet=request.quiet)
    budget = DEFAULT_BUDGET if request.seconds is None else request.seconds
    if not _SHORTEST <= budget <= _LONGEST:
        raise UsageError(f"--seconds takes {_SHORTEST:.0f} to {_LONGEST:.0f}, not {budget:g}")
    reference = parse_reference(request.model, pipeline.hub_address())
    subject = open_subject(reference, request.constraints, listener_of(console), offline=request.offline)
    if request.forget:
        _show_forgotten(request, subject.tunings.forget(subject.work), console)
        return
    busy = choose_threads().decode < usual_threads().decode
    if busy:
        console.say("note: other work keeps processors busy: tune again when it is over")

    def show(name: str, fraction: float) -> None:
        console.status(f"tuning: {name}, {fraction:.0%}")

    try:
        outcome = tune(subject, request.constraints, budget, show)
    except OSError as error:
        raise LLMRunError(f"what was found cannot be remembered: {error.strerror}") from error
    finally:
        console.clear_status()
    if request.json:
        console.data(tune_figures(request.model, outcome))
    else:
        console.show(tune_text(request.model, outcome))


def _show_forgotten(request: TuneRequest, n: int, console: Console) -> None:
    if request.json:
        console.data({"model": request.model, "forgotten": n})
    else:
        console.show(f"{request.model} is run by the defaults again" if n else "nothing was remembered of such a model")


def tune_figures(model: str, outcome: Outcome) -> dict[str, object]:
    """Return everything as plain values; speeds are tokens a second."""
    variant = outcome.planned.variant
    return {
        "model": model,
        "quant": variant.quant,
        "where": outcome.planned.plan.where,
        "seconds": outcome.seconds,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "choices": [_choice_figures(found) for found in outcome.found],
        "skipped": [{"what": name, "why": why} for name, why in outcome.skipped],
        "before": asdict(outcome.before),
        "after": asdict(outcome.after),
    }


def _choice_figures(found: Found) -> dict[str, object]:
    return {
        "setting": found.aim.setting,
        "measure": found.aim.measure,
        "unit": "tokens/s",
        "default": {"value": found.default.value, "speed": found.default.speed},
        "chosen": {"value": found.taken.value, "speed": found.taken.speed},
        "ratio": found.taken.verdict.ratio,
        "spread": found.taken.verdict.spread,
        "kept": bool(found.chosen),
        "note": found.note,
        "options": [
            {"value": one.value, "speed": one.speed, **asdict(one.verdict), "wins": one.verdict.wins}
            for one in found.options
        ],
    }


def tune_text(model: str, outcome: Outcome) -> str:
    """Return what was timed and what is done from now on."""
    lines = [line for found in outcome.found for line in _found_lines(found)]
    lines += [f"{name}: not tried, {why}" for name, why in outcome.skipped]
    kept = [found for found in outcome.found if found.chosen]
    if not kept:
        last = f"the defaults stay: nothing is clearly faster ({outcome.seconds:.0f} s)"
    else:
        last = (
            f"remembered: `llmrun plan {model}` shows it, `llmrun tune {model} --forget` undoes it "
            f"({outcome.seconds:.0f} s)"
        )
    return "\n".join(row for line in [*lines, last] for row in textwrap.wrap(line, 80, break_long_words=False))


def _found_lines(found: Found) -> Iterator[str]:
    aim = found.aim
    yield f"{_NAMES.get(aim.setting, aim.setting)} ({_MEASURES[aim.measure]}): {_verdict(found)}"
    for index, option in enumerate(found.options):
        yield _option_line(option, is_default=not index)


def _verdict(found: Found) -> str:
    if found.chosen:
        return f"{_value(found.taken)}, {found.taken.verdict.ratio:.2f} times as fast"
    return f"{_value(found.default)} as before" + (f"; {found.note}" if found.note else "")


def _option_line(option: Option, *, is_default: bool) -> str:
    verdict = option.verdict
    beside = "default" if is_default else f"{verdict.ratio:.2f} times, ± {verdict.spread / 2:.0%}"
    return f"  {_value(option):<9} {option.speed:>8,.1f} tokens/s   {beside}, {verdict.n_turns} turns"


def _value(option: Option) -> str:
    if option.value is None:
        return "automatic"
    if isinstance(option.value, bool):
        return "yes" if option.value else "no"
    return str(option.value)
