"""The command `serve`: models for many clients, by the APIs they know."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmrun import pipeline
from llmrun.cli.serve_gate import Gate
from llmrun.console import Console
from llmrun.models import check_meant
from llmrun.planning.plan import PlanWish
from llmrun.reference import parse_reference
from llmrun.server.app import make_app
from llmrun.server.endpoint import Service
from llmrun.server.fleet import Fleet
from llmrun.server.serving import Address, Life, address_of, bind, serve
from llmrun.server.watch import Told
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
    gate: Gate


def run_serve(wish: ServeWish) -> None:
    """Serve until Ctrl-C; raises UsageError, and what loading the first model raises."""
    console = Console(quiet=wish.quiet, verbose=wish.verbose)
    for name in wish.models:
        check_meant(parse_reference(name, pipeline.hub_address()))
    asyncio.run(_serve(wish, console))


async def _serve(wish: ServeWish, console: Console) -> None:
    fleet = Fleet(wish.models, lambda name: _load(name, wish, console))
    policy = wish.gate.policy(wish.address, console.notice)
    with bind(wish.address, open_to_others=wish.gate.has_keys or wish.gate.insecure) as listener:
        try:
            async with fleet.borrow(wish.models[0]):
                pass
            address = address_of(listener)
            for warning in wish.gate.warnings(address):
                console.notice(warning)
            told = Told(console.log, console.notice, wish.gate.log_prompts)
            life = Life(lambda: console.say(f"serving at {address}"), console.log, wish.gate.grace)
            await serve(make_app(Service(fleet), policy, told), listener, life)
        finally:
            await fleet.close()


def _load(name: str, wish: ServeWish, console: Console) -> pipeline.Started:
    reference = parse_reference(name, pipeline.hub_address())
    listener = pipeline.Listener(log=console.log if wish.verbose else None, note=console.notice, step=console.say)
    return pipeline.start(reference, wish.constraints, wish.plan, listener, offline=wish.offline)
