"""The command `run`: a question, answered once or many times, and nothing else on stdout."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from llmrun.chat.answering import Answered, stream_answer
from llmrun.chat.lines import clean_text
from llmrun.cli.asking import Asking, cut_off, read_question, seeded
from llmrun.cli.caching import Cached, Caching
from llmrun.cli.prompting import Chosen
from llmrun.cli.running import RunningModel, Wish, info_of, settled, tell_times
from llmrun.console import Console
from llmrun.engine.answering import AnsweringEngine
from llmrun.engine.protocol import Generate
from llmrun.message import Message
from llmrun.report import usage_figures

if TYPE_CHECKING:
    from llmrun.prompt_cache import Taken


def run_once(wish: Wish, asking: Asking, caching: Caching, prompt: str | None, chosen: Chosen | None = None) -> None:
    """Answer one question, from the command line, a pipe, files, or all of them; once, or many times.

    chosen: the prompt by name that it is put into.
    """
    most = caching.most()
    console = Console(quiet=wish.quiet, verbose=wish.verbose, style=wish.style)
    model = RunningModel(wish, console, hasty=True)
    model.check()  # a typo is answered before a pipe is waited for
    question = read_question(prompt, asking.file, chosen)
    with model.told_without(), model.start() as engine:
        settings = settled(wish, model, engine, console)
        if asking.answers > 1 and settings.sampling.temperature <= 0:
            console.say("note: at temperature 0 all answers are the same; --temp 0.8 draws others")
        system = (Message("system", clean_text(wish.system)),) if wish.system else ()
        messages = (*system, Message("user", question.text, images=wish.images))
        alike = (*system, Message("user", question.alike, images=wish.images))
        answers: list[Answered] = []
        cached = Cached(caching, most, model.started, console)
        for sampling in seeded(settings.sampling, asking.answers, lambda: answers[-1].usage):
            if answers and not wish.json:
                console.answer("\n")
            request = Generate(
                messages,
                sampling,
                settings.max_tokens,
                settings.stop,
                grammar=settings.grammar,
                variables=settings.thinking.variables,
            )
            taken = None if answers else cached.take(request, replace(request, messages=alike))
            answers.append(_answer_once(engine, request, taken, console, as_json=wish.json))
            model.answered(answers[-1].usage)
            if answers[-1].finish_reason == "cancelled":
                cached.leave(answers[0].usage)  # the prompt was read: whoever asks otherwise need not wait again
                raise KeyboardInterrupt
        cached.leave(answers[0].usage)
    cut = [cut_off(answered.finish_reason, answered.usage) for answered in answers] if wish.grammar else []
    if error := next(filter(None, cut), None):
        raise error


def _answer_once(
    engine: AnsweringEngine, request: Generate, taken: Taken | None, console: Console, *, as_json: bool
) -> Answered:
    """Answer, print what there is to print of it, and return it. taken: what was not read, by the cache of prompts."""
    try:
        answered = stream_answer(engine, request, console, show=not as_json)
    finally:
        console.end_answer()
    if taken is not None:
        answered = replace(answered, usage=taken.counted(answered.usage))
    if as_json:
        console.data(
            {
                "model": info_of(engine).name,
                "answer": answered.text,
                "thoughts": answered.thoughts,
                "finish_reason": answered.finish_reason,
                "usage": usage_figures(answered.usage),
                "sampling": asdict(request.sampling) | {"seed": answered.usage.seed},
            }
            | ({} if taken is None else {"cache": {"tokens": taken.n_tokens, "seconds": round(taken.seconds, 6)}})
        )
    tell_times(engine, answered.usage, console)
    if answered.finish_reason == "context" and request.grammar is None:  # else an error says so
        console.notice("(the context is full: the answer stops here; --ctx gives more room)")
    return answered
