"""Which options were given on a command's line, as options to be given again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmrun.deployment.options import Option

if TYPE_CHECKING:
    import typer

_GIVEN = ("COMMANDLINE", "ENVIRONMENT")


def given_options(context: typer.Context) -> tuple[Option, ...]:
    """Return the options that were given, by their long names, with the values they were understood as."""
    return tuple(_options(context))


def _options(context: typer.Context) -> Iterator[Option]:
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.param_type_name == "option" and source is not None and source.name in _GIVEN:
            name = max((opt for opt in parameter.opts if opt.startswith("--")), key=len)
            value = context.params.get(parameter.name or "")
            for one in value if isinstance(value, list | tuple) else (value,):
                yield from _option(name, one)


def _option(name: str, value: Any) -> Iterator[Option]:
    if value is True:
        yield Option(name)
    elif value is not False and value is not None:
        yield Option(name, f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value))
