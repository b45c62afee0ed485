"""The command `chat`: a terminal with a person at it, or a pipe with a message a line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from llmrun.chat.beside import Beside
from llmrun.chat.bottom_line import bottom_line
from llmrun.chat.clipboard import copy_text
from llmrun.chat.completing import Names
from llmrun.chat.conversation import Conversation
from llmrun.chat.editor import editor
from llmrun.chat.hands import Hands
from llmrun.chat.keeper import Keeper, memory_of
from llmrun.chat.lines import clean_text, read_piped
from llmrun.chat.talk import Talk
from llmrun.chat.typing_line import LineWish, read_typed
from llmrun.cli.choosing import with_a_model
from llmrun.cli.completing import complete_model
from llmrun.cli.conversations import list_text
from llmrun.cli.keeping import Keeping
from llmrun.cli.one_key import ask_one_key
from llmrun.cli.running import RunningModel, Wish, settled, tell_times
from llmrun.cli.story import LEAVING
from llmrun.console import Console
from llmrun.engine.answering import AnsweringEngine
from llmrun.errors import LLMRunError
from llmrun.history.record import Saved
from llmrun.history.store import Store, no_history, open_store
from llmrun.states import Vault

_COMPLETED = 100  # conversations that Tab offers


def run_chat(wish: Wish, keeping: Keeping, *, named: bool) -> None:
    """Talk until the user leaves, or the pipe ends. named: whether the user named the model."""
    keeping.check()
    console = Console(quiet=wish.quiet, verbose=wish.verbose, style=wish.style)
    typed = sys.stdin is not None and sys.stdin.isatty()
    is_kept = not keeping.no_history and (typed or keeping.goes_on)  # what scripts ask is nobody's conversation
    with open_store(tell=console.notice) if is_kept else no_history() as store:
        saved = keeping.find(store)
        chosen: Wish | None = wish
        if not named:
            chosen = with_a_model(wish) if saved is None else replace(wish, model=saved.model)
        if chosen is not None:
            as_before = (None, None) if saved is None or named else memory_of(saved)
            _chat(chosen, _Kept(store, saved, as_before, is_kept=is_kept and store.leaves_trace), console, typed=typed)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where the chat is kept, and the conversation it goes on with, if any; as_before: its context and KV type."""

    store: Store
    saved: Saved | None
    as_before: tuple[int | None, str | None]
    is_kept: bool


def _chat(wish: Wish, kept: _Kept, console: Console, *, typed: bool) -> None:
    model = RunningModel(wish, console, whole_story=typed)
    keeper = Keeper(kept.store, Vault() if kept.is_kept else None, model.kept, is_kept=kept.is_kept)
    with model.told_without():
        engine = model.start_as(*kept.as_before)
    settings = settled(wish, model, engine, console)
    talk = Talk(
        engine,
        model.start,
        settings,
        console,
        Conversation(clean_text(wish.system) if wish.system else None),
        _hands(model, console) if typed else Hands(plan_lines=model.plan_lines),
        keeper,
        as_json=wish.json,
        forgiving=typed,
        beside=Beside(list(wish.images)),
        on_answer=model.answered,
    )
    try:
        if typed:
            console.say(LEAVING)
        if kept.saved is not None:
            talk.take_up(kept.saved)
            if talk.first_system is not None:  # what is said now holds
                talk.conversation.system = talk.first_system
                talk.was_rewritten()
        with model.told_without():
            talk.run(read_typed(_line_wish(talk, keeper)) if typed else read_piped())
        if talk.last is not None:
            tell_times(talk.engine, talk.last.usage, console)
    finally:
        try:
            console.end_answer()
            keeper.keep_state(talk.engine)
        finally:
            talk.engine.close()


def _hands(model: RunningModel, console: Console) -> Hands:
    """What a person at a terminal can be asked and given."""

    def switch(name: str, engine: AnsweringEngine) -> AnsweringEngine:
        go_back = model.way_back()
        model.become(name)
        return restarted(engine, go_back)

    def see(engine: AnsweringEngine) -> AnsweringEngine:
        go_back = model.way_back()
        model.look()
        return restarted(engine, go_back)

    def restarted(engine: AnsweringEngine, go_back: Callable[[], None]) -> AnsweringEngine:
        try:
            engine.close()  # first: the memory it holds is what the other is planned with
            return model.start()
        except (LLMRunError, KeyboardInterrupt) as error:  # a large model may take long to come
            if isinstance(error, LLMRunError):
                console.error(error)
            go_back()
            console.notice(f"(going on with {model.name})")
            return model.start()

    return Hands(
        choose=lambda question, choices: ask_one_key(console, question, choices),
        edit=editor(),
        copy=lambda text: copy_text(text, console.control),
        plan_lines=model.plan_lines,
        switch=switch,
        see=see,
        speed=model.speed,
        without=lambda lenders: model.without(lenders).offer(),
        listing=lambda found: list_text(found, datetime.now(UTC)),
    )


def _line_wish(talk: Talk, keeper: Keeper) -> LineWish:
    def below(width: int) -> str:
        info = talk.model_info()
        return bottom_line(info.name, talk.last.usage if talk.last else None, info.n_ctx, width)

    def sessions() -> list[str]:
        with contextlib.suppress(LLMRunError):  # not in the middle of a line
            return [summary.name or summary.id for summary in keeper.kept(_COMPLETED)]
        return []

    return LineWish(
        talk.was_stopped,
        talk.console.notice,
        talk.take_draft,
        below,
        Names(sessions, lambda: complete_model("")),
        keeps_history=keeper.is_kept,
    )
