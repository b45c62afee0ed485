"""`llmrun serve --emit`: a systemd unit, a Containerfile or a Compose file that serves as the command line says."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmrun import pipeline
from llmrun.cli.deployed import Deployed, limits_of
from llmrun.cli.emit_container import container_notes, container_of
from llmrun.cli.emit_unit import unit_notes, unit_of
from llmrun.cli.fetching import listener_of
from llmrun.cli.serve_models import Starting
from llmrun.console import Console
from llmrun.deployment.compose import compose_text
from llmrun.deployment.containerfile import containerfile_text
from llmrun.deployment.options import Option, without
from llmrun.deployment.unit import unit_text
from llmrun.errors import UsageError
from llmrun.models import check_meant
from llmrun.server.names import Names
from llmrun.server.origins import is_loopback

if TYPE_CHECKING:
    from llmrun.cli.serving import ServeWish
    from llmrun.pipeline import Planned

FORMATS = ("systemd", "containerfile", "compose")


def run_emit(form: str, options: tuple[Option, ...], wish: ServeWish) -> None:
    """Print one of FORMATS for what would be served; on stderr what to do with it.

    options: as they were given. Raises UsageError for what `serve` would refuse or no file can hold, and what planning
    raises.
    """
    if form not in FORMATS:
        raise UsageError(f"--emit knows {', '.join(FORMATS)}, not {form!r}")
    console = Console(quiet=wish.quiet, verbose=wish.verbose)
    names = Names((*wish.models, *wish.kept.pins), pipeline.hub_address())
    _check(form, wish, names)
    references = [meant.reference for meant in names.given]
    starting = Starting(wish.constraints, wish.plan, wish.offline, console, names.given[0].key)
    planned = tuple(
        pipeline.plan(
            meant.reference, starting.fixed(meant), wish.plan, None, listener_of(console), offline=wish.offline
        )
        for meant in names.given
    )
    deployed = Deployed(wish, without(options, "--emit"), planned, limits_of(planned, wish.plan.reserve_host))
    if form == "systemd":
        text, notes = unit_text(unit_of(deployed)), ("its first lines say how to enable it", *unit_notes())
    else:
        container = container_of(deployed, references)
        text = containerfile_text(container) if form == "containerfile" else compose_text(container)
        notes = tuple(container_notes(form, container, deployed))
    console.show(text.removesuffix("\n"))
    for note in (*notes, *_fetch_notes(names, planned)):
        console.say(f"note: {note}")


def _check(form: str, wish: ServeWish, names: Names) -> None:
    """Raise UsageError for what would be refused once it runs, where nobody sees it."""
    if wish.gate.api_key is not None:
        raise UsageError(
            "an API key does not belong into a file that others can read",
            "--api-key-file FILE takes keys, one a line as `name: key`; unset LLMRUN_API_KEY",
        )
    for meant in names.given:
        check_meant(meant.reference)
    wish.kept.keeping(names)
    wish.gate.policy(wish.address, lambda _: None)
    if form == "systemd":
        if sys.platform != "linux":
            raise UsageError("systemd is there on Linux alone", "--emit compose is for every system")
        if not (is_loopback(wish.address.host) or wish.gate.has_keys or wish.gate.insecure):
            raise UsageError(
                f"{wish.address.host} can be reached from other machines, and no API key is asked for",
                "--api-key-file FILE takes keys, one a line as `name: key`",
            )
    elif wish.address.port == 0:
        raise UsageError("--port 0 is any port, and a container's must be known", "--port 8080 is usual")


def _fetch_notes(names: Names, planned: Sequence[Planned]) -> Iterator[str]:
    for meant, one in zip(names.given, planned, strict=True):
        if not one.variant.is_here:
            yield f"{meant.name} is fetched when it starts; `llmrun pull {meant.name}` does now"
