"""The command `serve`: models for many clients, by the APIs they know."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from llmrun import pipeline
from llmrun.cli.names import lasting_reference
from llmrun.cli.serve_gate import Gate
from llmrun.cli.serve_models import Kept, Starting
from llmrun.console import Console
from llmrun.models import check_meant
from llmrun.planning.plan import PlanWish
from llmrun.server.app import make_app
from llmrun.server.endpoint import Service
from llmrun.server.fleet import Fleet
from llmrun.server.guard import Policy
from llmrun.server.names import Names
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
    """Serve until Ctrl-C; raises UsageError, and what loading the first model raises."""
    console = Console(quiet=wish.quiet, verbose=wish.verbose)
    names = Names((*wish.models, *wish.kept.pins), pipeline.hub_address())
    for meant in names.given:
        check_meant(meant.reference)
    keeping = wish.kept.keeping(names)
    starting = Starting(wish.constraints, wish.plan, wish.offline, console)
    policy = wish.gate.policy(wish.address, console.notice)
    with bind(wish.address, open_to_others=wish.gate.has_keys or wish.gate.insecure) as listener:
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
    async with fleet:
        fleet.adopt("", started)
        for pin in wish.kept.pins:
            await fleet.hold(pin)
        address = address_of(front.listener)
        for warning in wish.gate.warnings(address):
            console.notice(warning)
        told = Told(console.log, console.notice, wish.gate.log_prompts)
        life = Life(lambda: console.say(f"serving at {address}"), console.log, wish.gate.grace)
        key = new_key()
        app = make_app(Service(fleet, control_key=key), front.policy, told)
        with note_left(reachable(address.host, address.port), key, front.names, console.say):
            await serve(app, front.listener, life)
