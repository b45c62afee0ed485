"""A model that a server of this user's has already: used in the place of one that would be loaded again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrun.console import Console
from llmrun.engine.spawn import discard
from llmrun.errors import LLMRunError
from llmrun.planning.plan import PlanWish
from llmrun.servers.finding import find_model
from llmrun.settings import Constraints

if TYPE_CHECKING:
    from llmrun.engine.remote import RemoteEngine


def attach(
    lasting: str, constraints: Constraints, wish: PlanWish, console: Console, enough: int | None = None
) -> RemoteEngine | None:
    """Return a running server's model, None where it is to be loaded here; which way it went is told.

    lasting: what the model's name means. enough: tokens of context that the conversation needs.
    """
    found = find_model(lasting)
    if found is None:
        return None
    from llmrun.engine.remote import RemoteEngine
    from llmrun.servers.agreement import disagreement, fixes_something

    address = found.client.note.address
    if fixes_something(constraints, wish) and not found.is_loaded:
        console.say(f"loading it here: it is not loaded at {address}, and its plan was asked for")
        return None
    if not found.is_loaded:
        console.status(f"{found.client.where} loads {found.name}")
    try:
        engine = RemoteEngine(found.client, found.name)
    except LLMRunError as error:
        console.say(f"loading it here: {found.client.where} could not: {error.message}")
        return None
    console.clear_status()
    plan = engine.served.plan
    option = disagreement(constraints, wish, plan)
    if option is None and enough is not None and plan.forecast.n_ctx_each < enough:
        option = f"the conversation's context of {enough:,} tokens"
    if option is not None:
        console.say(f"loading it here: {option} is not how {found.client.where} runs it")
        return None
    console.say(f"using {found.client.where}")
    discard()  # the worker that was begun in case no server had it
    return engine
