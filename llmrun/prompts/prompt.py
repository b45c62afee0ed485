"""A prompt that is kept under a name: its text, what is put into it, and its form as a file. Pure.

    system = "You translate, and say nothing else."
    prompt = "Into $language, please: $input"

    [defaults]
    language = "German"

    [options]
    temp = 0.2

`$input` is what is asked or piped in; any other name is a parameter (string.Template's rules: `$name`, `${name}`, and
`$$` for a dollar).
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmrun.errors import UsageError
from llmrun.sampling import RANGES

Option = int | float | tuple[str, ...]

INPUT = "input"
_NAME = re.compile(r"[^\W_][\w-]{0,62}")
# The options a prompt may hold, by the names of the command line, and what each must be.
_SAMPLING = {"temp": "temperature", **{name: name for name in ("top_k", "top_p", "min_p", "repeat_penalty", "seed")}}
_WHOLE = {"top_k", "seed", "max_tokens"}
OPTIONS = (*_SAMPLING, "max_tokens", "stop")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt by name. prompt or system may be missing, not both. defaults: of parameters; options: see OPTIONS."""

    name: str
    prompt: str | None = None
    system: str | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UsageError for what makes no sense together."""
        if not (self.prompt or "").strip() and not (self.system or "").strip():
            raise UsageError(f"prompt {self.name!r} has neither a prompt nor a system message", _save(self.name))
        for what, text in (("prompt", self.prompt), ("system message", self.system)):
            if text is not None and not string.Template(text).is_valid():
                raise UsageError(f"the {what} of {self.name!r} has a $ that begins no name", "$$ is a dollar")
        if self.system is not None and INPUT in string.Template(self.system).get_identifiers():
            raise UsageError(f"the system message of {self.name!r} has ${INPUT}", "that can stand in the prompt only")
        for name in self.defaults:
            _check_parameter(self, name)
        for name, value in self.options.items():
            _check_option(name, value)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names that something is to be put in for, in the order they appear."""
        texts = (self.system or "", self.prompt or "")
        names = (name for text in texts for name in string.Template(text).get_identifiers())
        return tuple(dict.fromkeys(name for name in names if name != INPUT))


def check_prompt_name(name: str) -> str:
    """Return a name that can be a file's; raises UsageError for any other."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:80]!r} is no name for a prompt", "letters, digits, - and _: summarize")
    return name


def question_of(prompt: Prompt, text: str, given: Mapping[str, str]) -> str:
    """Return what is to be asked, with `text` for $input, or behind the prompt where it has none.

    given: parameters. Raises UsageError for one that is missing or that there is not, and where a text is missing.
    """
    values = _values(prompt, prompt.prompt or "", given)
    template = string.Template(prompt.prompt or "")
    wants_text = prompt.prompt is None or INPUT in template.get_identifiers()
    if wants_text and not text.strip():
        raise UsageError(
            f"prompt {prompt.name!r} needs a text", f"llmrun run MODEL --prompt-template {prompt.name} < file.txt"
        )
    filled = template.substitute(values | {INPUT: text})
    return filled if INPUT in template.get_identifiers() else "\n\n".join(part for part in (filled, text) if part)


def system_of(prompt: Prompt, given: Mapping[str, str]) -> str | None:
    """Return the system message with its parameters; raises UsageError as question_of does."""
    if prompt.system is None:
        return None
    return string.Template(prompt.system).substitute(_values(prompt, prompt.system, given))


def _values(prompt: Prompt, text: str, given: Mapping[str, str]) -> dict[str, str]:
    for name in given:
        _check_parameter(prompt, name)
    values = {**prompt.defaults, **given}
    missing = [name for name in string.Template(text).get_identifiers() if name != INPUT and name not in values]
    if missing:
        raise UsageError(f"prompt {prompt.name!r} needs {', '.join(missing)}", f"--param {missing[0]}=…")
    return values


def _check_parameter(prompt: Prompt, name: str) -> None:
    if name == INPUT:
        raise UsageError(f"{INPUT} is what is asked", "it comes as PROMPT, or through a pipe")
    if name not in prompt.parameters:
        there = ", ".join(prompt.parameters) or "none"
        raise UsageError(f"prompt {prompt.name!r} has no parameter {name[:40]!r}", f"its parameters: {there}")


def _check_option(name: str, value: object) -> None:
    if name not in OPTIONS:
        raise UsageError(f"a prompt cannot hold an option {name[:40]!r}", f"it can hold {', '.join(OPTIONS)}")
    if name == "stop":
        is_right = isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)
    else:
        low, high = RANGES[_SAMPLING[name]] if name in _SAMPLING else (1, math.inf)
        kinds = (int,) if name in _WHOLE else (int, float)
        is_right = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
    if not is_right:
        raise UsageError(f"a prompt has {str(value)[:40]!r} for its option {name}, which cannot be")


def parse_prompt(name: str, text: str) -> Prompt:
    """Read a prompt's file; raises UsageError for what is no TOML, or no prompt."""
    import tomllib

    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"prompt {name!r} is no TOML: {error}", _save(name)) from error
    if unknown := sorted(set(content) - {"prompt", "system", "defaults", "options"}):
        raise UsageError(f"prompt {name!r} has {unknown[0][:40]!r}", "it can have prompt, system, defaults, options")
    defaults, options = content.get("defaults", {}), content.get("options", {})
    for key, value, kind in (
        ("prompt", content.get("prompt", ""), str),
        ("system", content.get("system", ""), str),
        ("defaults", defaults, dict),
        ("options", options, dict),
    ):
        if not isinstance(value, kind):
            raise UsageError(f"prompt {name!r} has {str(value)[:40]!r} for its {key}, which cannot be", _save(name))
    if not all(isinstance(value, str) for value in defaults.values()):
        raise UsageError(f"the defaults of prompt {name!r} must all be texts", 'language = "German"')
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return Prompt(name, content.get("prompt"), content.get("system"), defaults, made)


def format_prompt(prompt: Prompt) -> str:
    """Write a prompt so that parse_prompt reads the same, and people can read and change it."""
    import tomli_w

    content: dict[str, object] = {}
    if prompt.system is not None:
        content["system"] = prompt.system
    if prompt.prompt is not None:
        content["prompt"] = prompt.prompt
    if prompt.defaults:
        content["defaults"] = dict(prompt.defaults)
    if prompt.options:
        content["options"] = {key: list(v) if isinstance(v, tuple) else v for key, v in prompt.options.items()}
    # as lines where they come back as they were: a parser may make \n of \r\n
    return tomli_w.dumps(content, multiline_strings="\r" not in (prompt.prompt or "") + (prompt.system or ""))


def _save(name: str) -> str:
    return f"llmrun prompt save {name} 'Summarize: $input'"
