"""The options a server is started with, as values: some of them have another value wherever it is to run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """An option as it is typed: `--ctx 4096`, or a switch, whose value is None."""

    name: str
    value: str | None = None


def with_value(options: Iterable[Option], name: str, value: str) -> tuple[Option, ...]:
    """Return options among which this one has this value, once and as the last one."""
    return (*(option for option in options if option.name != name), Option(name, value))


def without(options: Iterable[Option], name: str) -> tuple[Option, ...]:
    """Return options among which this one is not."""
    return tuple(option for option in options if option.name != name)


def serve_words(models: Iterable[str], options: Iterable[Option]) -> tuple[str, ...]:
    """Return the command's arguments, from `serve` on."""
    return ("serve", *models, *_words(options))


def _words(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        yield option.name
        if option.value is not None:
            yield option.value
