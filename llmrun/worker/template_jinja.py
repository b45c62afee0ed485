"""The jinja that chat templates are written in: a sandbox with what transformers and llama.cpp give to templates.

Sources: transformers/utils/chat_template_utils.py (_compile_jinja_template), llama.cpp common/jinja/value.cpp. Knows
nothing of models, conversations or fallbacks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

from jinja2 import ChainableUndefined, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmrun.errors import GGUFError
from llmrun.units import format_bytes
from llmrun.worker.template_limits import RENDER_MEMORY, join_limited, render_limits

if TYPE_CHECKING:
    from jinja2.parser import Parser

Clock = Callable[[], datetime]

# What a template's own code can raise; a template is a program, so this is nearly everything.
TEMPLATE_FAILURES = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class TemplateRefusalError(Exception):
    """A template called raise_exception: str() of it is the template's own sentence."""


class _LenientUndefined(ChainableUndefined):
    """What is not there: as in llama.cpp, its members are not there either, and next to a string it is an empty one."""

    def __add__(self, other: object) -> str:  # type: ignore[override]  # jinja's never returns
        """`undefined + string`, which jinja itself refuses."""
        return other if isinstance(other, str) else self._fail_with_undefined_error()

    __radd__ = __add__  # type: ignore[assignment]


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses at once where jinja's sandbox would go on with an undefined value."""

    def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
        """An attribute that leads out of the sandbox or changes what the template was given."""
        raise SecurityError(f"{attribute!r} of {type(obj).__name__} is not for templates")


class _GenerationTag(Extension):
    """{% generation %} … {% endgeneration %}, which transformers uses to find the answers: here only what is inside."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes between the two tags, unchanged."""
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(source: str, clock: Clock) -> Template:
    """The template, compiled under limits.

    Raises GGUFError past the limits, else one of TEMPLATE_FAILURES; ends the process when it takes too long.
    """
    with _within_limits():
        return _environment(clock).from_string(source)


def render_template(template: Template, variables: Mapping[str, object], input_length: int) -> str:
    """The text that the template makes, under limits.

    Raises GGUFError past the limits, TemplateRefusalError or one of TEMPLATE_FAILURES for what went wrong inside;
    ends the process when it takes too long.
    """
    with _within_limits():
        return join_limited(template.generate(variables), input_length)


@contextmanager
def _within_limits() -> Iterator[None]:
    """The limits, with the memory bomb told from ordinary failures."""
    try:
        with render_limits():
            yield
    except MemoryError as error:
        raise GGUFError(
            f"the model's chat template takes over {format_bytes(RENDER_MEMORY)} of memory",
            "the file is broken or hostile: use another one",
        ) from error


def _environment(clock: Clock) -> _Sandbox:
    def strftime_now(layout: str) -> str:
        return clock().strftime(layout)

    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_LenientUndefined,
        extensions=[_GenerationTag, loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def _raise_exception(message: object) -> None:
    raise TemplateRefusalError(str(message))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without jinja's HTML escaping; arguments in transformers' order."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
