"""The command `serve`: models for many clients, by the APIs they know."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from llmrun import pipeline
from llmrun.cli.names import lasting_reference
from llmrun.cli.serve_gate import Gate
from llmrun.cli.serve_models import Kept, Starting
from llmrun.console import Console
from llmrun.planning.plan import PlanWish
from llmrun.server.app import make_app
from llmrun.server.endpoint import Service
from llmrun.server.fleet import Fleet
from llmrun.server.guard import Policy
from llmrun.server.loaded import LoadedNow
from llmrun.server.names import Names
from llmrun.server.origins import is_loopback
from llmrun.server.reach import is_everywhere, reach_lines, read_own_addresses, read_own_names
from llmrun.server.serving import Address, Life, address_of, bind, serve
from llmrun.server.watch import Told
from llmrun.servers.note import ServedName, new_key, note_left, reachable
from llmrun.settings import Constraints


@dataclass(frozen=True, slots=True)
class ServeWish:
    """Everything the command line said."""

    models: tuple[str, ...]
    constraints: Constraints
    plan: PlanWish
    address: Address
    offline: bool
    quiet: bool
    verbose: bool
    kept: Kept
    gate: Gate


@dataclass(frozen=True, slots=True)
class Front:
    """What clients meet: where they come in, who of them may, and where it is told of them."""

    listener: socket.socket
    policy: Policy
    console: Console
    names: tuple[ServedName, ...]


def run_serve(wish: ServeWish) -> None:
    """Serve until Ctrl-C; raises UsageError, and what loading the first model raises. Its names mean something."""
    console = Console(quiet=wish.quiet, verbose=wish.verbose)
    names = Names((*wish.models, *wish.kept.pins), pipeline.hub_address())
    keeping = wish.kept.keeping(names)
    starting = Starting(wish.constraints, wish.plan, wish.offline, console, names.given[0].key)
    with bind(wish.address, open_to_others=wish.gate.has_keys or wish.gate.insecure) as listener:
        policy = wish.gate.policy(wish.address, console.notice)  # tells a new key: only where it can be of use
        for meant in names.given[1:]:
            if not names.paths(meant):
                starting.fetch(meant)
        # in this thread, so that its story is told, and Ctrl-C ends it, as in a chat
        started = starting.first(names.given[0])
        served = tuple(ServedName(meant.name, lasting_reference(meant.reference)) for meant in names.given)
        try:
            fleet = Fleet(names, starting.asked, keeping, tell=console.notice)
            asyncio.run(_serve(wish, fleet, started, Front(listener, policy, console, served)))
        finally:
            started.engine.close()  # nothing, where the fleet has ended it


async def _serve(wish: ServeWish, fleet: Fleet, started: pipeline.Started, front: Front) -> None:
    console = front.console
    with ExitStack() as left:  # the note stays until the fleet has ended, which takes a while
        async with fleet:
            fleet.adopt("", started)
            for pin in wish.kept.pins:
                await fleet.hold(pin)
            address = address_of(front.listener)
            for warning in wish.gate.warnings(address):
                console.notice(warning)
            key = new_key()
            here = reachable(address.host, address.port)
            listens = None if is_loopback(address.host) else str(address)
            note = left.enter_context(note_left(here, key, front.names, console.say, listens=listens))

            def end() -> None:
                note.end()
                if line := ending_line(fleet.loaded()):
                    console.say(line)

            told = Told(console.log, console.notice, wish.gate.log_prompts)
            life = Life(lambda: _begin(console, address, fleet), console.log, wish.gate.grace, on_ending=end)
            await serve(make_app(Service(fleet, control_key=key), front.policy, told), front.listener, life)


def _begin(console: Console, address: Address, fleet: Fleet) -> None:
    """Tell where it is, once clients are answered."""
    others = (*sorted(read_own_names()), *read_own_addresses(address.host)) if is_everywhere(address.host) else ()
    for line in reach_lines(address.host, address.port, fleet.loaded()[0].n_slots, others):
        console.say(line)


def ending_line(models: Sequence[LoadedNow]) -> str | None:
    """Return what a server that is to end does first; None where there is nothing to finish."""
    writing, waiting = sum(model.busy for model in models), sum(model.waiting for model in models)
    if not writing:
        return None
    what = "1 answer is being written" if writing == 1 else f"{writing} answers are being written"
    return f"ending: {what}{f', {waiting} wait' if waiting else ''} (again Ctrl-C ends it now)"
