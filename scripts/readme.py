"""Writes into the README what can be generated: the commands' help, the chat's commands, the exit codes.

Each piece stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llmrun import errors
from llmrun.catalog import entries, resolve
from llmrun.chat.commands.table import help_text
from llmrun.cli.choosing import suggestion_lines
from llmrun.cli.estimating import EstimateWish, estimate_text
from llmrun.cli.plan_text import plan_text
from llmrun.cli.story import source_line, story_lines
from llmrun.engine.standby import Standby
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads
from llmrun.memory.rules_of_thumb import FreeMemory
from llmrun.pipeline import Planned
from llmrun.planning.plan import PlanWish
from llmrun.planning.policy import ANYWHERE, POLICIES, Step
from llmrun.reference import NameRef
from llmrun.settings import Constraints
from llmrun.settling import make_planner
from llmrun.site import Site
from llmrun.speeds import Speeds
from llmrun.suggesting import suggest
from llmrun.units import format_count
from llmrun.variant import ModelFile, RemoteFile, Variant
from scripts import figures
from scripts.architectures.quants import QUANTS, quantized
from scripts.architectures.shapes import MODELS
from scripts.recording import recorded_session

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
_BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str) -> str:
    """Return the README's text with every generated piece as it is now."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_PIECES[block[2]]()}\n{block[3]}", text)


def _help(*command: str) -> str:
    """What `llmrun … --help` prints on 80 columns, without colours."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from llmrun.cli.main import app; app(prog_name='llmrun')", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "80", "TERMINAL_WIDTH": "80", "TERM": "dumb", "NO_COLOR": "1"},
    )
    return _fenced("\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()))


_ASKED = (
    "how much memory does a 7B model need at 4 bits?",
    "can i run a model without a gpu?",
    "and on the CPU and the GPU together?",
)


def _session() -> str:
    """A chat with guide, as a pipe gives it, with the questions put back in."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llmrun.cli.main", "chat", "guide", "--json"],
        input="\n".join(_ASKED),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line)["answer"] for line in done.stdout.splitlines()]
    turns = [f">>> {asked}\n{textwrap.fill(answer, 80)}" for asked, answer in zip(_ASKED, answers, strict=True)]
    return _fenced("\n".join(["$ scripts/chat", *turns]))


_LAPTOP = Site(HostMemory(total=16 << 30, available=12 << 30), Threads(4, 4, "4 physical cores: 4 threads"))


def _plan() -> str:
    """A plan of a published 8B shape in twenty quantizations on a laptop without a GPU, which is made up."""
    stock = [_variant("llama-3.1-8b", quant) for quant in QUANTS]
    with Standby() as standby:
        planner = make_planner(stock, _LAPTOP, Constraints(), PlanWish(), standby, Speeds(None, 4))
        plan = planner.plan()
        text = plan_text("llama-3.1-8b", planner.variant(plan).summary, plan)
    return _fenced(f"$ llmrun plan ./llama-3.1-8b/\n{text}")


def _choice() -> str:
    """What `llmrun chat` offers on that laptop, with nothing of it measured and no model there."""
    found = suggest(entries(), _LAPTOP, Speeds(None, _LAPTOP.threads.decode))
    return _fenced("\n".join(["$ llmrun chat", *suggestion_lines(found, 80)]))


def _first_run() -> str:
    """What a first run tells there, of a repository with a published 8B shape in three quantizations."""
    stock = [_remote(*_variant("llama-3.1-8b", quant)) for quant in ("Q4_K_M", "Q6_K", "Q8_0")]
    planner = make_planner(stock, _LAPTOP, Constraints(), PlanWish(), None, Speeds(None, _LAPTOP.threads.decode))
    plan = planner.plan()
    chosen = planner.variant(plan)
    told = story_lines(_NAME, Planned(chosen.summary, chosen.variant, plan, _LAPTOP))
    return _fenced("\n".join([f"$ llmrun chat {_NAME}", str(source_line(_NAME, chosen.variant)), *told]))


_NAME = "llama3.1:8b"


def _remote(variant: Variant, header: GGUFHeader) -> tuple[Variant, GGUFHeader]:
    """The same in the repository that its short name stands for."""
    repo_id = resolve(NameRef(_NAME), {}).repo_id
    files = (replace(file, origin=RemoteFile(repo_id, "0" * 40, file.name)) for file in variant.files)
    return replace(variant, files=tuple(files)), header


def _variant(name: str, quant: str) -> tuple[Variant, GGUFHeader]:
    header = quantized(MODELS[name], quant)
    return Variant(quant, (ModelFile(f"{name}-{quant}.gguf", header.file_size, Path(f"{name}-{quant}.gguf")),)), header


def _policies() -> str:
    """What is preferred to what, as `planning.policy` has it."""
    lines = []
    for name, policy in POLICIES.items():
        lines += [f"\n`--prefer {name}`: {policy.summary}.\n"]
        lines += ["| | the step | loss at most | where | tokens/s | context | KV cache | tried by |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [f"| {index} {_step_row(step)}" for index, step in enumerate(policy.steps, 1)]
    return "\n".join(lines).strip()


_WHERE = {"devices": "GPU", "experts": "GPU, experts in RAM", "split": "GPU and CPU", "host": "CPU"}


def _step_row(step: Step) -> str:
    where = "anywhere" if step.where == ANYWHERE else ", ".join(_WHERE[place] for place in step.where)
    longest, shortest = step.contexts[0], step.contexts[-1]
    contexts = f"{shortest:,}" if longest == shortest else f"{shortest:,} and up"
    return (
        f"| {step.why} | {step.loss.name} | {where} | {f'{step.speed:g}' if step.speed else ''} | {contexts} | "
        f"{', '.join(step.kv_types)} | {step.order} |"
    )


def _estimate() -> str:
    """The table of formulas for the usual question."""
    free = FreeMemory(_LAPTOP.memory.available, _LAPTOP.reserve().host)
    text = estimate_text(EstimateWish("7b", method="all"), free)
    first, _, rest = text.partition("\n\n")
    rules = rest[rest.index("Rules of thumb") :].split("Why they differ")[0].rstrip()
    return _fenced(f"$ llmrun estimate --params 7b\n{first}\n…\n{rules}\n…")


def _names() -> str:
    """The short names, family by family."""
    rows = ["| name | repository | parameters | context |", "|---|---|---:|---:|"]
    for entry in entries():
        names = ", ".join(f"`{name}`" for name in (entry.name, *entry.aliases))
        active = f", {format_count(entry.active_parameters)} active" if entry.active_parameters else ""
        rows.append(f"| {names} | {entry.repo_id} | {format_count(entry.parameters)}{active} | {entry.context:,} |")
    return "\n".join(rows)


def _exit_codes() -> str:
    rows = [
        "| exit code | what | HTTP status |",
        "|---|---|---|",
        "| 0 | all well | 200 |",
        "| 1 | The output cannot be written | |",
    ]
    for _, cls in inspect.getmembers(errors, inspect.isclass):
        if issubclass(cls, errors.LLMRunError) and cls is not errors.LLMRunError:
            what = (cls.__doc__ or "").splitlines()[0].split(";")[0].rstrip(".")
            rows.append(f"| {cls.exit_code} | {what} | {cls.http_status} |")
    codes = sorted(rows[4:], key=lambda row: int(row.split("|")[1]))
    return "\n".join([*rows[:4], *codes, "| 130 | Ctrl-C | |"])


def _fenced(text: str) -> str:
    return f"```\n{text}\n```"


_PIECES: dict[str, Callable[[], str]] = {
    "llmrun --help": lambda: _help(),
    "llmrun chat --help": lambda: _help("chat"),
    "llmrun run --help": lambda: _help("run"),
    "llmrun plan --help": lambda: _help("plan"),
    "llmrun estimate --help": lambda: _help("estimate"),
    "llmrun show --help": lambda: _help("show"),
    "llmrun search --help": lambda: _help("search"),
    "llmrun pull --help": lambda: _help("pull"),
    "llmrun list --help": lambda: _help("list"),
    "llmrun rm --help": lambda: _help("rm"),
    "llmrun verify --help": lambda: _help("verify"),
    "llmrun serve --help": lambda: _help("serve"),
    "llmrun ps --help": lambda: _help("ps"),
    "llmrun stop --help": lambda: _help("stop"),
    "llmrun lend --help": lambda: _help("lend"),
    "choice": _choice,
    "first run": _first_run,
    "plan": _plan,
    "policies": _policies,
    "estimate": _estimate,
    "session": _session,
    "recorded": lambda: _fenced(recorded_session()),
    "/help": lambda: _fenced(help_text()),
    "names": _names,
    "exit codes": _exit_codes,
    "questions": figures.questions,
    "accuracy": figures.accuracy,
    "speeds": figures.speeds,
}


def main() -> None:
    """Rewrite the README and its pictures."""
    from scripts.pictures import pictures  # here: who only compares the text needs no matplotlib

    for path, picture in pictures().items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
    README.write_text(render(README.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
