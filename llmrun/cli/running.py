"""The commands that run a model, `chat` and `run`: from what was wished for to the last answer."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace

from llmrun import pipeline
from llmrun.chat.answering import stream_answer
from llmrun.chat.commands import command_names
from llmrun.chat.conversation import Conversation
from llmrun.chat.lines import clean_text, read_piped, read_typed
from llmrun.chat.memory_watch import MemoryWatch
from llmrun.chat.talk import AnswerSettings, Talk
from llmrun.cli.answering import Answering
from llmrun.cli.fetching import FetchScreen, listener_of
from llmrun.cli.flags import Output, Running
from llmrun.cli.planning import loss_notes
from llmrun.cli.wishes import check_gpu_wishes, check_replay, saved_plan
from llmrun.console import AnswerStyle, Console
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Generate, Message, ModelInfo, Usage
from llmrun.errors import UsageError
from llmrun.models import check_meant
from llmrun.planning.plan import Plan, PlanWish
from llmrun.planning.plan_file import SavedPlan
from llmrun.reference import parse_reference
from llmrun.report import ending_note, usage_figures
from llmrun.sampling import SamplingWish, choose_sampling
from llmrun.settings import Constraints
from llmrun.units import format_bytes, format_count, format_seconds


@dataclass(frozen=True, slots=True)
class Wish:
    """Everything the command line said."""

    model: str
    constraints: Constraints
    plan: PlanWish
    replay: SavedPlan | None
    offline: bool
    sampling: SamplingWish
    max_tokens: int | None
    stop: tuple[str, ...]
    system: str | None
    json: bool
    quiet: bool
    verbose: bool
    style: AnswerStyle


def wish_of(model: str, running: Running, answering: Answering, output: Output) -> Wish:
    """Return what the options mean; raises UsageError, or NotFoundError for a plan there is not."""
    return Wish(
        model,
        running.constraints(),
        running.plan_wish(),
        saved_plan(running.plan),
        running.offline,
        answering.sampling(),
        answering.max_tokens,
        tuple(answering.stop or ()),
        answering.system,
        output.json,
        output.quiet,
        output.verbose,
        output.style(),
    )


def run_chat(wish: Wish) -> None:
    """Talk until the user leaves, or the pipe ends."""
    console = Console(quiet=wish.quiet, verbose=wish.verbose, style=wish.style)
    typed = sys.stdin is not None and sys.stdin.isatty()
    model = _Model(wish, console)
    engine = model.start()
    talk = Talk(
        engine,
        model.start,
        _answer_settings(wish, _info(engine)),
        console,
        Conversation(clean_text(wish.system) if wish.system else None),
        as_json=wish.json,
        forgiving=typed,
        on_answer=model.answered,
    )
    try:
        if typed:
            console.say(_introduction(_info(engine)))
        talk.run(read_typed(command_names(), talk.was_stopped, console.notice) if typed else read_piped())
        if talk.last is not None:
            _tell_times(talk.engine, talk.last.usage, console)
    finally:
        console.end_answer()
        talk.engine.close()


def run_once(wish: Wish, prompt: str | None) -> None:
    """Answer one question, from the command line, a pipe, or both."""
    console = Console(quiet=wish.quiet, verbose=wish.verbose, style=wish.style)
    reference = parse_reference(wish.model, pipeline.hub_address())
    check_meant(reference)  # before standard input is waited for: a typo is answered at once
    question = _question(prompt)
    model = _Model(wish, console)
    with model.start() as engine:
        settings = _answer_settings(wish, _info(engine))
        system = (Message("system", clean_text(wish.system)),) if wish.system else ()
        request = Generate((*system, Message("user", question)), settings.sampling, settings.max_tokens, settings.stop)
        try:
            answered = stream_answer(engine, request, console, show=not wish.json)
        finally:
            console.end_answer()
        if wish.json:
            console.data(
                {
                    "model": _info(engine).name,
                    "answer": answered.text,
                    "finish_reason": answered.finish_reason,
                    "usage": usage_figures(answered.usage),
                    "sampling": asdict(settings.sampling) | {"seed": answered.usage.seed},
                }
            )
        _tell_times(engine, answered.usage, console)
        model.answered(answered.usage)
    if answered.finish_reason == "cancelled":
        raise KeyboardInterrupt
    note = ending_note(answered.finish_reason)
    if note and answered.finish_reason == "context":
        console.notice(f"({note})")


def _question(prompt: str | None) -> str:
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8", "replace")
    parts = [part for part in (prompt, piped.rstrip("\r\n")) if part and part.strip()]
    if not parts:
        raise UsageError("there is no prompt", 'llmrun run guide "what is a KV cache?", or pipe a text into it')
    return clean_text("\n\n".join(parts))


class _Model:
    """The wished model: started, and started again where its engine died, with what is to be done after each answer."""

    def __init__(self, wish: Wish, console: Console) -> None:
        """Raises UsageError for wishes that exclude each other."""
        self._wish, self._console = wish, console
        self._reference = parse_reference(wish.model, pipeline.hub_address())
        check_gpu_wishes(wish.constraints, wish.plan)
        check_replay(wish.constraints, wish.replay)
        self._started: pipeline.Started | None = None
        self._watch: MemoryWatch | None = None

    def start(self) -> Engine:
        """Plan and load it, telling about it; the engine is the caller's to close."""
        wish, console = self._wish, self._console
        with FetchScreen(console).shown() as screen:
            listener = replace(
                listener_of(console),
                log=console.log if wish.verbose else None,
                planned=lambda plan: _tell_plan(plan, wish.constraints, console),
                fetch=screen,
                progress=lambda part: console.status(f"loading {wish.model}: {part:.0%}"),
                step=console.say,
            )
            started = pipeline.start(
                self._reference, wish.constraints, wish.plan, listener, wish.replay, offline=wish.offline
            )
        console.clear_status()
        if notice := _info(started.engine).notice:
            console.say(f"note: {notice}")
        self._started = started
        self._watch = self._watch or MemoryWatch(started.plan.forecast.pools[0].reserve, pipeline.available_memory)
        return started.engine

    def answered(self, usage: Usage) -> None:
        """Remember how fast an answer was, and say so, once, where memory is short."""
        assert self._started is not None
        assert self._watch is not None
        self._started.record(usage)
        if (note := self._watch.look()) is not None:
            self._console.say(f"note: {note}")


def _tell_plan(plan: Plan, constraints: Constraints, console: Console) -> None:
    if constraints.n_gpu_layers and plan.where == "host":
        console.say(f"note: --gpu-layers {constraints.n_gpu_layers} has no effect: the engine sees no GPU")
    for note in loss_notes(plan):
        console.say(f"note: {note}")
    if plan.from_disk:
        console.say("note: the model is larger than the memory: it is read from disk for every token")
    for reason in plan.reasons:
        console.log(f"plan: {reason.setting} {reason.value}: {reason.note}")


def _info(engine: Engine) -> ModelInfo:
    assert engine.info is not None  # pipeline.start returns loaded engines
    return engine.info


def _answer_settings(wish: Wish, info: ModelInfo) -> AnswerSettings:
    sampling, origin = choose_sampling(wish.sampling, info.sampling)
    return AnswerSettings(sampling, origin, wish.max_tokens, tuple(map(clean_text, wish.stop)))


def _introduction(info: ModelInfo) -> str:
    return (
        f"{info.name}: {info.description}, {format_count(info.n_params)} parameters, {format_bytes(info.size)}, "
        f"context {info.n_ctx:,} tokens\n/help shows the commands, Ctrl-D leaves"
    )


def _tell_times(engine: Engine, usage: Usage, console: Console) -> None:
    times = engine.times
    if times is None:
        return
    console.log(
        f"time: start {format_seconds(times.start)} (of it importing llama.cpp {format_seconds(times.engine_import)}), "
        f"load {format_seconds(times.load)}, prompt {format_seconds(usage.prompt_seconds)}, "
        f"answer {format_seconds(usage.completion_seconds)}"
    )
