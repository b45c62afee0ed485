"""`llmrun doctor`: the findings as lines and as JSON, the report for a bug tracker, and the repair of the engine."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.console import Console
from llmrun.doctor.aside import put_back
from llmrun.doctor.builds import NAMES, Backend, build_for, command_text
from llmrun.doctor.checks import check, wanted_build
from llmrun.doctor.facts import Facts
from llmrun.doctor.finding import Finding
from llmrun.doctor.reading import read_engine, read_facts
from llmrun.doctor.repair import Repair, carry_out, check_space, plan_repair, with_output
from llmrun.doctor.report import doctor_figures, read_private, report_text, write_report
from llmrun.doctor.running import parse_progress, run_command
from llmrun.errors import EngineError, LLMRunError, UsageError

_WIDTH = 80
_LEVEL, _CHECK = 8, 10  # columns
_BACKENDS: dict[str, Backend] = {
    "cpu": "CPU",
    "cuda": "CUDA",
    "rocm": "ROCm",
    "vulkan": "Vulkan",
    "metal": "MTL",
    "sycl": "SYCL",
}


@dataclass(frozen=True, slots=True)
class DoctorWish:
    """Everything the command line said."""

    fix: bool
    backend: str | None
    prebuilt: bool
    yes: bool
    report: Path | None
    json: bool
    quiet: bool


def run_doctor(wish: DoctorWish) -> None:
    """Show the findings, and repair if that is wished; raises EngineError or LLMRunError where problems are left."""
    _check_wish(wish)
    console = Console(quiet=wish.quiet)
    console.status("looking at the machine…")
    facts = read_facts()
    console.clear_status()
    if wish.fix:
        facts = _repair(wish, facts, console)
    findings = check(facts)
    if wish.report is not None:
        write_report(wish.report, report_text(facts, findings, read_private()))
    if wish.json:
        console.data(doctor_figures(facts, findings))
    else:
        console.show(findings_text(findings))
    if wish.report is not None:
        console.say(f"the report is in {wish.report}: look it over before you pass it on")
    _raise_for(findings, wish)


def _check_wish(wish: DoctorWish) -> None:
    if not wish.fix and (wish.backend or wish.prebuilt or wish.yes):
        raise UsageError("--backend, --prebuilt and --yes are for --fix")
    if wish.backend is not None and wish.backend.lower() not in _BACKENDS:
        raise UsageError(f"{wish.backend!r} is none of {', '.join(_BACKENDS)}")


def findings_text(findings: Sequence[Finding]) -> str:
    """Return the findings as rows, repairs below theirs; commands are not wrapped, so that they can be copied."""
    lines: list[str] = []
    indent = " " * (_LEVEL + _CHECK + 2)
    told: tuple[str, ...] = ()
    for finding in findings:
        pieces = textwrap.wrap(finding.text, _WIDTH - len(indent), break_long_words=False) or [""]
        lines.append(f"{finding.level:<{_LEVEL}} {finding.check:<{_CHECK}} {pieces[0]}")
        lines += [indent + piece for piece in pieces[1:]]
        repair = ("the same as above",) if finding.repair and finding.repair == told else finding.repair
        lines += [f"{'':{_LEVEL}} > {line}" for line in repair]
        told = finding.repair
    return "\n".join(lines)


def _raise_for(findings: Sequence[Finding], wish: DoctorWish) -> None:
    problems = [finding for finding in findings if finding.level == "problem"]
    if not problems:
        return
    counted = Counter(finding.check for finding in problems)
    names = ", ".join(name if n == 1 else f"{name} ({n})" for name, n in counted.items())
    message = f"{len(problems)} problem{'s' * (len(problems) > 1)} found: {names}"
    if not any(finding.engine for finding in problems):
        raise LLMRunError(message)
    mends = not wish.fix and any(finding.rebuild for finding in problems)
    raise EngineError(message, "`llmrun doctor --fix` repairs the engine" if mends else None)


def _repair(wish: DoctorWish, facts: Facts, console: Console) -> Facts:
    if facts.aside is not None:
        _confirm("put back the engine from before the repair that was interrupted?", wish)
        put_back(facts.environment.packages)
        console.say("the engine from before is in its place again")
        return read_facts()
    if wish.backend is None and not any(finding.rebuild for finding in check(facts)):
        console.say("there is nothing that another engine would mend")
        return facts
    backend = _BACKENDS[wish.backend.lower()] if wish.backend else None
    build = wanted_build(facts) if backend is None else build_for(facts, backend)
    repair = plan_repair(facts, build, prebuilt=wish.prebuilt)
    check_space(facts.environment, repair)
    console.notice(command_text(repair.command, facts.system))
    how_long = "which takes 4 to 30 minutes" if repair.compiles else "which takes a minute"
    _confirm(f"run this, for an engine for {NAMES[build.backend]}, {how_long}?", wish)
    return _carry_out(facts, repair, console)


def _carry_out(facts: Facts, repair: Repair, console: Console) -> Facts:
    def on_line(line: str) -> None:
        progress = parse_progress(line)
        if progress is not None:
            console.status(f"building the engine: {progress[0]} of {progress[1]} steps")
        elif line.strip():
            console.status(line.strip())

    told = replace(repair, command=with_output(repair.command))
    try:
        carry_out(facts.environment, told, run_command, lambda: read_engine(facts.environment), on_line)
    except KeyboardInterrupt:
        console.clear_status()
        console.notice("stopped: the engine from before is in its place again")
        raise
    finally:
        console.clear_status()
    console.say(f"the engine is replaced: it is built for {NAMES[repair.build.backend]} now")
    return read_facts()


def _confirm(question: str, wish: DoctorWish) -> None:
    """Ask, on stderr; raises UsageError where nobody can answer, or the answer is no."""
    import sys

    import typer

    if wish.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("the engine is not replaced without asking, and there is no terminal to ask on", "add --yes")
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was changed")
