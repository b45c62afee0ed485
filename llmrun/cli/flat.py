"""A command's options in groups: what is a dataclass to the command is a row of options to who types them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """Let typer see the fields of the dataclasses that a command takes, in their place.

    A field is declared as a parameter would be: annotated with typer's option, with its default. Two groups of one
    command must not have a field of the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {name: hint for name, hint in hints.items() if _is_group(hint)}
    parameters = list(_flattened(inspect.signature(command), hints))

    @functools.wraps(command)
    def take(**values: Any) -> None:
        made = {name: group(**{f.name: values.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        command(**values, **made)

    take.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    take.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return take


def _flattened(signature: inspect.Signature, hints: dict[str, Any]) -> Iterator[inspect.Parameter]:
    """The parameters by keyword, each group's fields where the group stood."""
    for parameter in signature.parameters.values():
        hint = hints[parameter.name]
        if not _is_group(hint):
            yield parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        inner = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=inner[field.name]
            )


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default
