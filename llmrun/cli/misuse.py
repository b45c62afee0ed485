"""A command line that means nothing, as an error of ours: what was typed, and what to type.

Knows what people type in their first minutes. Typer finds what is wrong, and would show it in a box of its own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from llmrun.errors import UsageError

# click's UsageError, wherever typer keeps it: what is public of it is its subclass
_Misuse: type[Exception] = typer.BadParameter.__mro__[1]

_SAME = {
    "help": "`llmrun --help` shows the commands, `llmrun chat --help` one of them",
    "version": "`llmrun --version`",
    "ls": "`llmrun list` shows the models that are here",
    "models": "`llmrun list` shows the models that are here, `llmrun search WORDS` those of the Hub",
    "download": "`llmrun pull MODEL` fetches a model",
    "install": "`llmrun pull MODEL` fetches a model",
    "remove": "`llmrun rm MODEL` removes a model",
    "delete": "`llmrun rm MODEL` removes a model",
    "ask": '`llmrun run guide "what is a KV cache?"` answers once',
    "generate": '`llmrun run guide "what is a KV cache?"` answers once',
    "start": "`llmrun chat MODEL` talks with a model, `llmrun serve MODEL` serves it",
    "server": "`llmrun serve MODEL` serves a model",
    "rpc-server": "`llmrun lend` lends this machine's devices to another one",
    "share": "`llmrun lend` lends this machine's devices to another one",
    "borrow": "`llmrun chat MODEL --device rpc:HOST:PORT` uses the devices of a machine where `llmrun lend` runs",
    "update": "llmrun is updated by what installed it, a model by `llmrun pull MODEL`",
}
_MODEL_WORDS = ("-m", "--model", "--hf", "-hf", "--hf-repo")
_TAKES_MODEL = {"chat", "run", "serve", "plan", "show", "pull", "inspect", "tune", "rm", "verify"}
_EXAMPLES = {
    "run": 'guide "what is a KV cache?"',
    "search": "qwen3",
    "estimate": "--params 7b --bits 4",
}


class Commands(TyperGroup):
    """The commands of llmrun; raises UsageError of ours for what typer cannot make sense of."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """Read the options that stand before a command."""
        typed = list(args)
        try:
            return super().make_context(info_name, args, *more, **extra)
        except _Misuse as error:
            raise explained(error, typed, self) from error

    def invoke(self, ctx: Any) -> Any:
        """Read and run the command."""
        typed = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        try:
            return super().invoke(ctx)
        except _Misuse as error:
            raise explained(error, typed, self) from error


def explained(error: Any, typed: Sequence[str], commands: Any) -> Exception:
    """Return an error of typer's as ours; typed: the words after `llmrun`, commands: those there are.

    A wish for help is returned as it is.
    """
    if type(error).__name__ == "NoArgsIsHelpError":
        return error  # type: ignore[no-any-return]
    path = _path(error) if error.ctx is not None else _typed_path(typed, commands)
    option = str(getattr(error, "option_name", ""))
    if type(error).__name__ == "NoSuchOption":
        return UsageError(f"{path} has no option {option}", _option_hint(error, path, option, typed))
    if (wrong := _wrong_number(error, path, typed)) is not None:
        return wrong
    message = str(error.format_message()).rstrip(".")
    unknown = next(iter(typed[path.count(" ") :]), None)
    if message.startswith("No such command") and unknown is not None:
        return UsageError(f"{path} has no command {unknown!r}", _command_hint(error, path, unknown))
    if type(error).__name__ == "MissingParameter":
        return UsageError(f"{path} needs {_missing(error)}", _example(path))
    if message.startswith("Got unexpected extra argument"):
        hint = f"text of several words goes into quotes: `llmrun run guide {_EXAMPLES['run'].partition(' ')[2]}`"
        if path == "llmrun lend":
            hint = "it takes options alone, as in `llmrun lend --device CUDA0 --memory 6GiB`"
        return UsageError(f"{path} takes fewer words: {message[4:]}", hint)
    return UsageError(message[:1].lower() + message[1:], f"`{path} --help` shows what there is")


def _path(error: Any) -> str:
    """The command that was meant, as it is typed: however the program was started, it is llmrun's."""
    context, names = error.ctx, []
    while context is not None and context.parent is not None:
        names.append(str(context.info_name))
        context = context.parent
    return " ".join(["llmrun", *reversed(names)])


def _typed_path(typed: Sequence[str], commands: Any) -> str:
    """The command that was meant, by what was typed: an option without its value comes without a context."""
    names = ["llmrun"]
    for word in typed:
        commands = getattr(commands, "commands", {}).get(word)
        if commands is None:
            break
        names.append(word)
    return " ".join(names)


def _option_hint(error: Any, path: str, option: str, typed: Sequence[str]) -> str:
    if option in _MODEL_WORDS:
        command = path.removeprefix("llmrun").strip()
        said = f"llmrun {command}" if command in _TAKES_MODEL else "llmrun chat"
        return f"a model is named without an option: `{said} {_value(option, typed)}`"
    if option == "--key-file":
        if path == "llmrun serve":
            return "--api-key-file is for clients, LLMRUN_LEND_KEY_FILE=FILE for lenders"
        return "the variable LLMRUN_LEND_KEY_FILE names the key shared with a lender"
    if path == "llmrun" and option.lower() in ("-v", "-version", "--v"):
        return "`llmrun --version`"
    close = list(error.possibilities or ())
    if path == "llmrun":
        return "options stand behind a command: `llmrun --help` shows the commands"
    return f"did you mean {' or '.join(sorted(close))}?" if close else f"`{path} --help` shows its options"


def _wrong_number(error: Any, path: str, typed: Sequence[str]) -> UsageError | None:
    """Return the error for an option whose value is no number, or none of its range; None where it is another one."""
    if type(error).__name__ != "BadParameter" or error.__cause__ is None:
        return None
    option = error.param
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    value = _given(getattr(option, "opts", ()), typed)
    if kind not in (int, float) or value is None:
        return None
    low, high = option.min, option.max
    span = f" from {low:,} to {high:,}" if None not in (low, high) else "" if low is None else f" of at least {low:,}"
    name = max(option.opts, key=len)
    message = f"{name} is a {'whole ' * (kind is int)}number{span}, not {value[:40]!r}"
    meant = _spelled_out(value) if kind is int else None
    if meant is None or meant < (low or 0) or (high is not None and meant > high):
        return UsageError(message, f"`{path} --help` shows what there is")
    return UsageError(message, f"for example {name} {meant}")


def _given(names: Sequence[str], typed: Sequence[str]) -> str | None:
    """Return what was typed for an option that goes by these names, the last time it was."""
    found = None
    for word, following in zip(typed, (*typed[1:], None), strict=True):
        if word in names:
            found = following
        for name in names:
            short = not name.startswith("--")
            if word.startswith(name if short else f"{name}=") and word != name:
                found = word[len(name) :].removeprefix("=")
    return found


def _spelled_out(text: str) -> int | None:
    """Return the number that is meant by "32k", "1m" or "32,768", None for another text."""
    found = re.fullmatch(r"([0-9]{1,9})([km]?)", text.lower().replace(",", ""))
    return None if found is None else int(found[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[found[2]]


def _value(option: str, typed: Sequence[str]) -> str:
    """Return what was given to an option there is not."""
    for place, word in enumerate(typed):
        name, equals, value = word.partition("=")
        if name == option and equals:
            return value
        if word == option and place + 1 < len(typed) and not typed[place + 1].startswith("-"):
            return typed[place + 1]
    return "MODEL"


def _command_hint(error: Any, path: str, typed: str) -> str:
    if path != "llmrun":
        return f"`{path} --help` shows those it has"
    if _is_model(typed):
        return f"`llmrun chat {typed}` talks with that model"
    if typed.lower() in _SAME:
        return _SAME[typed.lower()]
    close = difflib.get_close_matches(typed.lower(), error.ctx.command.list_commands(error.ctx), n=1, cutoff=0.7)
    if close:
        return f"did you mean `llmrun {close[0]}`?"
    return "`llmrun chat MODEL` talks with a model, `llmrun --help` shows the commands"


def _is_model(typed: str) -> bool:
    """Whether a word is the name of a model, or written as one."""
    from llmrun.catalog import find
    from llmrun.reference import GUIDE

    if any(sign in typed for sign in ("/", ":", "\\")) or typed.lower().endswith(".gguf"):
        return " " not in typed
    return typed.lower() == GUIDE or find(typed) is not None


def _missing(error: Any) -> str:
    name = str(getattr(error.param, "name", "") or "more")
    return {"model": "a model", "words": "words to look for", "params": "--params"}.get(name, name.upper())


def _example(path: str) -> str:
    """Return a command line that would do."""
    command = path.removeprefix("llmrun ")
    if command in _EXAMPLES or command in _TAKES_MODEL:
        return f"`{path} {_EXAMPLES.get(command, 'qwen3:4b')}`, for one; `{path} --help` shows the rest"
    return f"`{path} --help` shows what it takes"
