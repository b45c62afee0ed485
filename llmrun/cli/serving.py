"""The command `serve`: models for many clients, by the APIs they know."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from llmrun import pipeline
from llmrun.cli.serve_models import Kept, Starting
from llmrun.console import Console
from llmrun.models import check_meant
from llmrun.planning.plan import PlanWish
from llmrun.server.app import make_app
from llmrun.server.endpoint import Service
from llmrun.server.fleet import Fleet
from llmrun.server.names import Names
from llmrun.server.serving import Address, address_of, bind, serve
from llmrun.settings import Constraints

_PATIENCE = 30.0  # seconds that answers have to finish when the server is asked to end


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


def run_serve(wish: ServeWish) -> None:
    """Serve until Ctrl-C; raises UsageError, and what loading the first model raises."""
    console = Console(quiet=wish.quiet, verbose=wish.verbose)
    names = Names((*wish.models, *wish.kept.pins), pipeline.hub_address())
    for meant in names.given:
        check_meant(meant.reference)
    keeping = wish.kept.keeping(names)
    starting = Starting(wish.constraints, wish.plan, wish.offline, console)
    with bind(wish.address) as listener:
        for meant in names.given[1:]:
            if not names.paths(meant):
                starting.fetch(meant)
        # in this thread, so that its story is told, and Ctrl-C ends it, as in a chat
        started = starting.first(names.given[0])
        try:
            asyncio.run(_serve(wish, Fleet(names, starting.asked, keeping, tell=console.notice), started, listener))
        finally:
            started.engine.close()  # nothing, where the fleet has ended it


async def _serve(wish: ServeWish, fleet: Fleet, started: pipeline.Started, listener: socket.socket) -> None:
    console = Console(quiet=wish.quiet, verbose=wish.verbose)
    async with fleet:
        fleet.adopt("", started)
        for pin in wish.kept.pins:
            await fleet.hold(pin)
        address = address_of(listener)
        await serve(make_app(Service(fleet)), listener, lambda: console.say(f"serving at {address}"), _PATIENCE)
