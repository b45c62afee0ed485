"""The command `serve`: models for many clients, by the APIs they know."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmrun import pipeline
from llmrun.cli.names import lasting_reference
from llmrun.console import Console
from llmrun.models import check_meant
from llmrun.planning.plan import PlanWish
from llmrun.reference import parse_reference
from llmrun.server.app import make_app
from llmrun.server.endpoint import Service
from llmrun.server.fleet import Fleet
from llmrun.server.serving import Address, address_of, bind, serve
from llmrun.servers.note import ServedName, new_key, note_left, reachable
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


def run_serve(wish: ServeWish) -> None:
    """Serve until Ctrl-C; raises UsageError, and what loading the first model raises."""
    console = Console(quiet=wish.quiet, verbose=wish.verbose)
    for name in wish.models:
        check_meant(parse_reference(name, pipeline.hub_address()))
    asyncio.run(_serve(wish, console))


async def _serve(wish: ServeWish, console: Console) -> None:
    fleet = Fleet(wish.models, lambda name: _load(name, wish, console))
    with bind(wish.address) as listener:
        try:
            async with fleet.borrow(wish.models[0]):
                pass
            address, key = address_of(listener), new_key()
            with note_left(reachable(address.host, address.port), key, _served_names(wish.models), console.say):
                app = make_app(Service(fleet, key))
                await serve(app, listener, lambda: console.say(f"serving at {address}"), _PATIENCE)
        finally:
            await fleet.close()


def _served_names(names: tuple[str, ...]) -> tuple[ServedName, ...]:
    """Return how the models are asked for, and found by llmruns in other folders."""
    return tuple(ServedName(name, lasting_reference(parse_reference(name, pipeline.hub_address()))) for name in names)


def _load(name: str, wish: ServeWish, console: Console) -> pipeline.Started:
    reference = parse_reference(name, pipeline.hub_address())
    listener = pipeline.Listener(log=console.log if wish.verbose else None, note=console.notice, step=console.say)
    return pipeline.start(reference, wish.constraints, wish.plan, listener, offline=wish.offline)
