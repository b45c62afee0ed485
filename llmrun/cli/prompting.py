"""A prompt that is kept under a name, as an option of the commands that answer."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import typer

from llmrun.cli.answering import Answering
from llmrun.errors import LLMRunError, UsageError
from llmrun.prompts.prompt import OPTIONS, Option, Prompt, question_of, system_of

_ANSWERING = "How it answers"


def complete_prompt(incomplete: str) -> list[str]:
    """Return the names of prompts that begin so: for a shell, which shows no errors."""
    from llmrun.prompts.folder import prompt_names

    try:
        return [name for name in prompt_names() if name.startswith(incomplete)]
    except LLMRunError:
        return []


@dataclass(frozen=True, slots=True)
class Prompting:
    """What the command line said about a prompt by name."""

    prompt_template: Annotated[
        str | None,
        typer.Option(
            "--prompt-template",
            metavar="NAME",
            help="Use a prompt that `llmrun prompt save` kept.",
            autocompletion=complete_prompt,
            show_default=False,
            rich_help_panel=_ANSWERING,
        ),
    ] = None
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="NAME=TEXT",
            help="Put TEXT for $NAME into it; can be given many times.",
            show_default=False,
            rich_help_panel=_ANSWERING,
        ),
    ] = None

    def chosen(self) -> Chosen | None:
        """Return the prompt that was named; raises UsageError, or NotFoundError where there is none."""
        from llmrun.prompts.folder import read_prompt

        given = pairs(self.param or [], "--param")
        if self.prompt_template is None:
            if given:
                raise UsageError("--param is for a prompt, and none is named", "add --prompt-template NAME")
            return None
        return Chosen(read_prompt(self.prompt_template), given)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A prompt with the parameters that were given for it."""

    prompt: Prompt
    given: dict[str, str]

    def question(self, text: str) -> str:
        """Return what is to be asked; raises UsageError where something is missing."""
        return question_of(self.prompt, text, self.given)

    def answering(self, said: Answering) -> Answering:
        """Return the options with the prompt's system message and options, where the command line said nothing."""
        kept: dict[str, Any] = {"system": system_of(self.prompt, self.given), **self.prompt.options}
        if "stop" in kept:
            kept["stop"] = list(kept["stop"])
        return replace(said, **{name: value for name, value in kept.items() if getattr(said, name) is None})

    def check_chat(self) -> None:
        """Raise UsageError for a prompt that has nothing for a chat."""
        if self.prompt.system is None:
            name = self.prompt.name
            raise UsageError(
                f"prompt {name!r} has no system message, and a chat uses no more of it",
                f"llmrun run MODEL --prompt-template {name}",
            )


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """Return what stands on both sides of the first "=" of each; raises UsageError where there is none."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"{option} {text[:40]!r} is no NAME=TEXT", f"{option} language=German")
        found[name] = value
    return found


def options_of(answering: Answering) -> dict[str, Option]:
    """Return what a prompt can hold of the options; raises UsageError for one that it cannot."""
    found: dict[str, Option] = {}
    for field in fields(answering):
        value = getattr(answering, field.name)
        if field.name == "system" or value == field.default:
            continue
        if field.name not in OPTIONS:
            flag = "--" + field.name.replace("_", "-")
            raise UsageError(f"a prompt cannot hold {flag}", f"give {flag} where the prompt is used")
        found[field.name] = tuple(value) if isinstance(value, list) else value
    return found
