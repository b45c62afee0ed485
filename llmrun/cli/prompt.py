"""The commands below `llmrun prompt`: prompts that are kept by name, and used with --prompt-template."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import options as o
from llmrun.cli.answering import Answering
from llmrun.cli.flags import check_behind
from llmrun.cli.flat import flat
from llmrun.cli.prompting import complete_prompt

if TYPE_CHECKING:
    from llmrun.prompts.prompt import Prompt

prompt_app = typer.Typer(help="Keep prompts by name, for --prompt-template.")

_WIDTH = 80
_NAME = 20  # columns
NewName = Annotated[str, typer.Argument(metavar="NAME", help="The prompt's name.", show_default=False)]
Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The prompt's name.", show_default=False, autocompletion=complete_prompt),
]
Text = Annotated[
    str | None,
    typer.Argument(
        metavar="TEXT",
        help="The prompt: $input is what is asked, any other $name a --param. (default: what is piped in)",
        show_default=False,
    ),
]
Defaults = Annotated[
    list[str] | None,
    typer.Option(
        "--default", metavar="NAME=TEXT", help="What $NAME is without a --param; many times.", show_default=False
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Take the place of a prompt of that name.")]


@prompt_app.callback(invoke_without_command=True)
def prompts(context: typer.Context, json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """Show the prompts that are kept; or do more with them."""
    if context.invoked_subcommand is not None:
        check_behind("prompt", context.invoked_subcommand, {"--json": json, "--quiet": quiet})
        return
    _list(as_json=json, quiet=quiet)


@prompt_app.command()
def show(name: Name, json: o.PlainJson = False) -> None:
    """Show a prompt as its file has it."""
    from llmrun.console import Console
    from llmrun.prompts.folder import prompt_file, read_prompt
    from llmrun.prompts.prompt import format_prompt

    prompt = read_prompt(name)
    if json:
        Console().data(_figures(prompt) | {"file": str(prompt_file(name))})
    else:
        Console().show(format_prompt(prompt).rstrip("\n"))


@prompt_app.command()
@flat
def save(name: Name, answering: Answering, text: Text = None, default: Defaults = None, force: Force = False) -> None:
    """Keep a prompt, with a system message and options for how it is answered."""
    from llmrun.chat.lines import clean_text
    from llmrun.cli.prompting import options_of, pairs
    from llmrun.console import Console
    from llmrun.prompts.folder import save_prompt
    from llmrun.prompts.prompt import Prompt, check_prompt_name

    check_prompt_name(name)  # before standard input is waited for
    body = _piped() if text is None else text
    prompt = Prompt(
        name,
        None if body is None else clean_text(body),
        None if answering.system is None else clean_text(answering.system),
        pairs(default or [], "--default"),
        options_of(answering),
    )
    path = save_prompt(prompt, over=force)
    Console().say(f"kept in {path}: `llmrun run MODEL --prompt-template {name}` uses it")


@prompt_app.command()
def rm(name: Name) -> None:
    """Remove a prompt."""
    from llmrun.console import Console
    from llmrun.prompts.folder import remove_prompt

    remove_prompt(name)
    Console().say(f"removed: prompt {name}")


def _list(*, as_json: bool, quiet: bool) -> None:
    from llmrun.console import Console, one_line
    from llmrun.errors import LLMRunError
    from llmrun.prompts.folder import prompt_names, read_prompt

    console, found = Console(quiet=quiet), []
    for name in prompt_names():
        try:
            found.append(read_prompt(name))
        except LLMRunError as error:  # one that is damaged hides no other
            console.say(f"note: {one_line(error.message)}")
    if as_json:
        console.data({"prompts": [_figures(prompt) for prompt in found]})
        return
    if not found:
        console.say("no prompt is kept yet: `llmrun prompt save summarize 'Summarize: $input'` keeps one")
        return
    width = max(_NAME, *(len(prompt.name) for prompt in found))
    for prompt in found:
        text = " ".join((prompt.prompt or prompt.system or "").split())
        console.show(one_line(f"{prompt.name:<{width}}  {text}")[:_WIDTH])


def _figures(prompt: Prompt) -> dict[str, object]:
    return {
        "name": prompt.name,
        "prompt": prompt.prompt,
        "system": prompt.system,
        "parameters": list(prompt.parameters),
        "defaults": dict(prompt.defaults),
        "options": dict(prompt.options),
    }


def _piped() -> str | None:
    if sys.stdin is None or sys.stdin.isatty():
        return None
    return sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\r\n") or None
