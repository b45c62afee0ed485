"""Which servers of this user run, and which of them has a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrun.errors import LLMRunError
from llmrun.servers.note import Note, read_notes

if TYPE_CHECKING:  # here and in the functions: mostly there is no server to be asked
    from llmrun.servers.client import ServerClient
    from llmrun.servers.control import LoadedModel

ENDING = "it is ending: it takes no new requests, answers may finish"
PATIENCE = 3.0  # seconds in which a server that is well says what it has loaded


@dataclass(frozen=True, slots=True)
class Seen:
    """A server that runs, and what it has loaded; trouble: why that is not known."""

    note: Note
    loaded: tuple[LoadedModel, ...] = ()
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A server that has a model, by the name the model has there, loaded or to be loaded when it is asked."""

    client: ServerClient
    name: str
    is_loaded: bool


def list_servers() -> Iterator[Seen]:
    """Yield the servers of this user, the youngest first."""
    for note in read_notes():
        if note.ending:
            yield Seen(note, trouble=ENDING)
            continue
        from llmrun.servers.client import ServerClient
        from llmrun.servers.control import STATUS, Status

        try:
            yield Seen(note, ServerClient(note).ask(STATUS, Status, patience=PATIENCE).loaded)
        except LLMRunError as error:
            yield Seen(note, trouble=error.message)


def is_noted(lasting: str) -> bool:
    """Whether a server that runs began with a model, without asking it; lasting: what the model's name means."""
    return any(served.lasting == lasting for note in read_notes() if not note.ending for served in note.models)


def find_model(lasting: str) -> Found | None:
    """Return the server that has a model, one that has it loaded before one that would load it; None where none does.

    lasting: what the model's name means, see ServedName; a model that was not named when a server began has that name.
    """
    found = [one for seen in list_servers() if (one := _in_it(seen, lasting)) is not None]
    return min(found, key=lambda one: not one.is_loaded, default=None)


def _in_it(seen: Seen, lasting: str) -> Found | None:
    if seen.trouble is not None:
        return None
    loaded = {name: model for model in seen.loaded for name in (model.name, *model.names)}
    names = [
        served.name
        for served in seen.note.models
        # what was named without a quantization is loaded in one, which may be the one that is asked for
        if served.lasting == lasting
        or ((model := loaded.get(served.name)) and f"{served.lasting}:{model.quant}".lower() == lasting.lower())
    ]
    names += [lasting] if lasting in loaded else []
    names.sort(key=lambda name: name not in loaded)
    from llmrun.servers.client import ServerClient

    return Found(ServerClient(seen.note), names[0], names[0] in loaded) if names else None
