"""`llmrun stop`: takes a model out of a server's memory, or ends the server."""

from __future__ import annotations

import time
from dataclasses import dataclass

from llmrun.cli.names import lasting_reference
from llmrun.console import Console
from llmrun.errors import EngineError, NotFoundError, UsageError
from llmrun.hub.settings import hub_address
from llmrun.reference import parse_reference
from llmrun.servers.client import ServerClient
from llmrun.servers.control import RELEASE, STOP, Done, ModelWish
from llmrun.servers.finding import PATIENCE, Seen, list_servers
from llmrun.servers.note import Note, is_running

_LONGEST = 60.0  # seconds that a server may take to end; answers have half of it to finish
_STEP = 0.05  # seconds between two looks


@dataclass(frozen=True, slots=True)
class StopWish:
    """Everything the command line said. port: of the server that is meant, None is whichever."""

    models: tuple[str, ...]
    port: int | None
    every: bool
    quiet: bool


def run_stop(wish: StopWish) -> None:
    """Unload what was named, else end the server; raises UsageError, NotFoundError or ServerGoneError."""
    console = Console(quiet=wish.quiet)
    if wish.models and wish.every:
        raise UsageError("--all ends servers, with all their models", "leave the models out, or --all")
    servers = [seen for seen in list_servers() if wish.port in (None, _port(seen.note))]
    if not servers:
        where = "" if wish.port is None else f" at port {wish.port}"
        hint = "`llmrun serve` starts one" if wish.port is None else "`llmrun ps` shows those that are"
        raise NotFoundError(f"no server is running{where}", hint)
    if wish.models:
        for name in wish.models:
            _unload(name, servers, console)
        return
    if len(servers) > 1 and not wish.every:
        ports = ", ".join(str(_port(seen.note)) for seen in servers)
        raise UsageError(
            f"{len(servers)} servers are running, at the ports {ports}", "--port names one, --all ends all"
        )
    for seen in servers:
        _end(seen.note, console)


def _port(note: Note) -> int:
    return int(note.address.rpartition(":")[2])


def _unload(name: str, servers: list[Seen], console: Console) -> None:
    """Take a model out of every server that has it loaded."""
    lasting = _lasting(name)
    found = False
    for seen in servers:
        names = {name, lasting} | {served.name for served in seen.note.models if served.lasting == lasting}
        for model in seen.loaded:
            if names & {model.name, *model.names}:
                client = ServerClient(seen.note)
                client.ask(RELEASE, Done, ModelWish(model.name))
                console.say(f"{model.name} is unloaded from {client.where}")
                found = True
    if not found:
        raise NotFoundError(f"{name} is not loaded in any server", "`llmrun ps` shows what is")


def _lasting(name: str) -> str | None:
    """Return what a name means in every folder; None for one that means nothing but to a server that has it."""
    try:
        return lasting_reference(parse_reference(name, hub_address()))
    except UsageError:
        return None


def _end(note: Note, console: Console) -> None:
    """Ask a server to end, and wait until it has."""
    client = ServerClient(note)
    if not note.ending:
        client.ask(STOP, Done, {}, PATIENCE)
    console.status(f"{client.where} ends; answers may finish")
    deadline = time.monotonic() + _LONGEST
    while is_running(note):
        if time.monotonic() > deadline:
            raise EngineError(f"{client.where} does not end", f"its process is {note.pid}: kill {note.pid}")
        time.sleep(_STEP)
    console.clear_status()
    console.say(f"{client.where} has ended")
