"""The model that a command runs: from what was wished for to a loaded engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmrun.chat.kept_model import KeptModel
from llmrun.chat.lines import clean_text
from llmrun.chat.memory_watch import MemoryWatch
from llmrun.chat.settings import AnswerSettings
from llmrun.cli.answering import Answering
from llmrun.cli.flags import Output, Running
from llmrun.cli.names import lasting_reference
from llmrun.cli.wishes import check_gpu_wishes, check_replay, grammar_wish, saved_plan
from llmrun.console import AnswerStyle, Console
from llmrun.engine.answering import AnsweringEngine
from llmrun.engine.protocol import Grammar, ModelInfo, Usage
from llmrun.errors import InsufficientMemoryError, LenderLostError, UsageError
from llmrun.hub.settings import hub_address
from llmrun.planning.plan import Plan, PlanWish
from llmrun.planning.plan_file import SavedPlan
from llmrun.reference import GuideRef, LocalRef, ModelRef, parse_reference
from llmrun.sampling import SamplingWish, choose_sampling
from llmrun.servers.finding import is_noted
from llmrun.settings import Constraints
from llmrun.thinking import choose_thinking
from llmrun.units import format_seconds

if TYPE_CHECKING:
    from llmrun.cli.lost import WithoutThem
    from llmrun.cli.story import Story
    from llmrun.gguf.summary import ModelSummary
    from llmrun.pipeline import Started

_ITS_OWN = "auto"  # Constraints.projector


@dataclass(frozen=True, slots=True)
class Wish:
    """Everything the command line said."""

    model: str
    constraints: Constraints
    plan: PlanWish
    replay: SavedPlan | None
    offline: bool
    no_server: bool
    sampling: SamplingWish
    max_tokens: int | None
    stop: tuple[str, ...]
    system: str | None
    grammar: Grammar | None
    think: str | None
    images: tuple[str, ...]
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
        running.no_server,
        answering.sampling(),
        answering.max_tokens,
        tuple(answering.stop or ()),
        answering.system,
        grammar_wish(answering.schema, answering.grammar, answering.stop),
        answering.think,
        running.images(),
        output.json,
        output.quiet,
        output.verbose,
        output.style(),
    )


class RunningModel:
    """The wished model: started, and started again where its engine died, with what is to be done after each answer."""

    def __init__(self, wish: Wish, console: Console, *, whole_story: bool = False, hasty: bool = False) -> None:
        """Raises UsageError for wishes that exclude each other. hasty: as of pipeline.start."""
        self._wish, self._console = wish, console
        self._given = wish.constraints  # what the user fixed, for whichever model
        self.name, self._whole_story = wish.model, whole_story
        self._hasty = hasty and not wish.verbose
        self._story: Story | None = None
        self._reference = self._first = parse_reference(wish.model, hub_address())
        check_gpu_wishes(wish.constraints, wish.plan)
        check_replay(wish.constraints, wish.replay)
        self._started: Started | None = None
        self._shown: tuple[ModelSummary, Plan] | None = None  # of what answers now, wherever that is
        self._kept = KeptModel(wish.model)
        self._watch: MemoryWatch | None = None

    def check(self) -> None:
        """Raise NotFoundError or GGUFError where it is known without a request that no model is meant."""
        if self._wish.no_server or not is_noted(lasting_reference(self._reference)):
            if isinstance(self._reference, GuideRef | LocalRef):  # without what knows of the Hub and other programs
                from llmrun.local import check_here

                check_here(self._reference)
                return
            from llmrun.models import check_meant

            check_meant(self._reference)

    def plan_lines(self) -> list[str]:
        """Return how the model runs here and why so, as lines to read."""
        from llmrun.cli.plan_text import plan_text

        return plan_text(self.name, *self._shown).rstrip("\n").splitlines() if self._shown else []

    def kept(self) -> KeptModel:
        """Return what a kept conversation needs to know of it."""
        return self._kept

    def start_as(self, n_ctx: int | None, type_kv: str | None) -> AnsweringEngine:
        """Start it with this context and KV type where the user fixed no other, and they fit; else as `start` does.

        So that what was kept of a conversation can be taken back, which another context could not hold.
        """
        if (attached := self._attach(n_ctx)) is not None:
            return attached
        given = self._wish.constraints
        if self._wish.replay is None and given.n_ctx is None and given.type_kv is None:
            self._wish = replace(self._wish, constraints=replace(given, n_ctx=n_ctx, type_kv=type_kv))
            with contextlib.suppress(InsufficientMemoryError):
                return self._load()
            self._wish = replace(self._wish, constraints=given)
        return self._load()

    def look(self) -> None:
        """Be able to see from the next start on."""
        self._wish = replace(self._wish, constraints=replace(self._wish.constraints, projector=_ITS_OWN))

    def become(self, name: str) -> None:
        """Mean another model from the next start on; raises UsageError or NotFoundError for a name that means none."""
        from llmrun.models import check_meant

        reference = parse_reference(name, hub_address())
        check_meant(reference)
        self.name, self._reference = name, reference
        draft = self._given.draft if reference == self._first else None  # it guesses for the model it was given with
        self._wish = replace(self._wish, replay=None, constraints=replace(self._given, draft=draft))
        self._story = None

    def without(self, lenders: Sequence[str]) -> WithoutThem:
        """Do without lenders that cannot be reached from the next start on, if it can; returns how it would run then.

        lenders: those that the engine lost; they may be back.
        """
        from llmrun.cli.lost import without_them  # here: most have none to lose

        wish = self._wish
        found = without_them(self._reference, wish.constraints, wish.plan, lenders, wish.replay)
        if found.plan is not None:
            self._wish = replace(wish, constraints=found.constraints, replay=None)
            self._given = self._given.without(found.gone)
        return found

    @contextlib.contextmanager
    def told_without(self) -> Iterator[None]:
        """Let the error of a lender that is lost meanwhile say how the command does without it.

        Which lenders a server has lost, and how it goes on, is the server's to say.
        """
        try:
            yield
        except LenderLostError as lost:
            if not lost.lenders:
                raise
            them = "them" if len(lost.lenders) > 1 else "it"
            self._console.say(f"lost {' and '.join(lost.lenders)}: looking how {self.name} runs without {them}")
            lost.hint = self.without(lost.lenders).command()
            raise

    def way_back(self) -> Callable[[], None]:
        """Return what makes it mean again what it means now, a plan that was given included."""
        before = self.name, self._reference, self._wish, self._story

        def go_back() -> None:
            self.name, self._reference, self._wish, self._story = before

        return go_back

    def start(self) -> AnsweringEngine:
        """Find it in a running server, else plan and load it, telling about it; the engine is the caller's to close."""
        return self._attach() or self._load()

    def _attach(self, enough: int | None = None) -> AnsweringEngine | None:
        """Return it as a running server has it, if that is wished and as it is wished; enough: see `attach`."""
        wish = self._wish
        if wish.no_server or wish.replay is not None:
            return None
        from llmrun.cli.attaching import attach

        engine = attach(lasting_reference(self._reference), wish.constraints, wish.plan, self._console, enough)
        if engine is not None:
            plan = engine.served.plan
            self._started, self._shown = None, (engine.served.summary, plan)
            name = _lasting_name(self.name, self._reference)
            self._kept = KeptModel(name, plan.quant, None, plan.forecast.n_ctx_each, plan.settings.type_k)
        return engine

    def _load(self) -> AnsweringEngine:
        """Plan and load it here."""
        from llmrun.cli import starting
        from llmrun.cli.story import Story

        wish = self._wish
        self._story = self._story or Story(self._console, self.name, wish.constraints, whole=self._whole_story)
        started = starting.start_here(self._reference, wish, self._console, self._story, hasty=self._hasty)
        self._started, self._shown = started, (started.summary, started.plan)
        if not self._hasty:  # who answers once keeps no conversation
            self._kept = starting.kept_model(_lasting_name(self.name, self._reference), started)
        self._watch = self._watch or starting.memory_watch(started)
        return started.engine

    @property
    def started(self) -> Started | None:
        """The model as it was loaded here; None where it answers in a running server."""
        return self._started

    def speed(self) -> float | None:
        """Return the tokens a second that it is predicted to write, None where nothing is known."""
        return self._shown[1].decode if self._shown else None

    def answered(self, usage: Usage) -> None:
        """Remember how fast an answer was, and say so, once, where memory is short; of a server's both are its own."""
        if self._started is None or self._watch is None:
            return
        self._started.record(usage)
        if (note := self._watch.look()) is not None:
            self._console.say(f"note: {note}")


def _lasting_name(name: str, reference: ModelRef) -> str:
    """Return a name that means the same in another folder too."""
    return lasting_reference(reference) if isinstance(reference, LocalRef) else name


def info_of(engine: AnsweringEngine) -> ModelInfo:
    """Return what is known of a loaded model."""
    assert engine.info is not None  # pipeline.start returns loaded engines
    return engine.info


def settled(wish: Wish, model: RunningModel, engine: AnsweringEngine, console: Console) -> AnswerSettings:
    """Return how a started model is to answer, and say what nobody asked for.

    Raises UsageError, with the engine closed, for a wish about thinking that the model's template cannot fulfil.
    """
    try:
        settings = _answer_settings(wish, info_of(engine), model.speed())
    except UsageError:
        engine.close()
        raise
    if settings.thinking.notice:
        console.say(f"note: {settings.thinking.notice}")
    return settings


def _answer_settings(wish: Wish, info: ModelInfo, speed: float | None) -> AnswerSettings:
    sampling, origin = choose_sampling(wish.sampling, info.sampling)
    thinking = choose_thinking(wish.think, info.thinking, info.name, speed)
    stop = tuple(map(clean_text, wish.stop))
    return AnswerSettings(sampling, origin, wish.max_tokens, stop, wish.grammar, wish.think, thinking)


def tell_times(engine: AnsweringEngine, usage: Usage, console: Console) -> None:
    """Say where the time went, when verbose."""
    times = engine.times
    if times is None:
        return
    console.log(
        f"time: start {format_seconds(times.start)} (of it importing llama.cpp {format_seconds(times.engine_import)}), "
        f"load {format_seconds(times.load)}, prompt {format_seconds(usage.prompt_seconds)}, "
        f"answer {format_seconds(usage.completion_seconds)}, "
        f"{usage.accepted_tokens:,} of {usage.drafted_tokens:,} guesses right"
    )
