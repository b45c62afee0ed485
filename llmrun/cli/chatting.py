"""The command `chat`: a terminal with a person at it, or a pipe with a message a line."""

from __future__ import annotations

import sys

from llmrun.chat.bottom_line import bottom_line
from llmrun.chat.clipboard import copy_text
from llmrun.chat.conversation import Conversation
from llmrun.chat.editor import editor
from llmrun.chat.hands import Hands
from llmrun.chat.lines import clean_text, read_piped
from llmrun.chat.talk import Talk
from llmrun.chat.typing_line import LineWish, read_typed
from llmrun.cli.one_key import ask_one_key
from llmrun.cli.running import RunningModel, Wish, answer_settings, info_of, tell_times
from llmrun.cli.story import LEAVING
from llmrun.console import Console
from llmrun.engine.client import Engine
from llmrun.errors import LLMRunError


def run_chat(wish: Wish) -> None:
    """Talk until the user leaves, or the pipe ends."""
    console = Console(quiet=wish.quiet, verbose=wish.verbose)
    typed = sys.stdin is not None and sys.stdin.isatty()
    model = RunningModel(wish, console, whole_story=typed)
    engine = model.start()
    talk = Talk(
        engine,
        model.start,
        answer_settings(wish, info_of(engine)),
        console,
        Conversation(clean_text(wish.system) if wish.system else None),
        _hands(model, console) if typed else Hands(plan_lines=model.plan_lines),
        as_json=wish.json,
        forgiving=typed,
        on_answer=model.answered,
    )
    try:
        if typed:
            console.say(LEAVING)
        talk.run(read_typed(_line_wish(talk)) if typed else read_piped())
        if talk.last is not None:
            tell_times(talk.engine, talk.last.usage, console)
    finally:
        console.end_answer()
        talk.engine.close()


def _hands(model: RunningModel, console: Console) -> Hands:
    """What a person at a terminal can be asked and given."""

    def switch(name: str, engine: Engine) -> Engine:
        before = model.name
        model.become(name)
        engine.close()  # first: the memory it holds is what the other is planned with
        try:
            return model.start()
        except LLMRunError as error:
            console.error(error)
            console.notice(f"(going on with {before})")
            model.become(before)
            return model.start()

    return Hands(
        choose=lambda question, choices: ask_one_key(console, question, choices),
        edit=editor(),
        copy=lambda text: copy_text(text, console.control),
        plan_lines=model.plan_lines,
        switch=switch,
    )


def _line_wish(talk: Talk) -> LineWish:
    def below(width: int) -> str:
        info = talk.model_info()
        return bottom_line(info.name, talk.last.usage if talk.last else None, info.n_ctx, width)

    return LineWish(talk.was_stopped, talk.console.notice, talk.take_draft, below)
