"""Which models `serve` has, how long they stay, and how each is started."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from llmrun.console import Console
    from llmrun.neighbours import Neighbourhood
    from llmrun.pipeline import Started
    from llmrun.planning.plan import PlanWish
    from llmrun.server.keeping import Keeping
    from llmrun.server.names import Meant, Names
    from llmrun.settings import Constraints

_PANEL = "Models"
KeepAlive = Annotated[
    Optional[str],  # noqa: UP045 - typer
    typer.Option(
        metavar="TIME",
        help="How long a model stays after its last answer: 5m, 0, or forever, which is until its memory is needed. "
        "(default: forever for MODEL, 5m for others)",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Pins = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer
    typer.Option(
        "--pin", metavar="MODEL", help="Load it at the start and never unload it; repeatable.", rich_help_panel=_PANEL
    ),
]
Queue = Annotated[
    Optional[int],  # noqa: UP045 - typer
    typer.Option(
        min=0,
        metavar="N",
        help="Requests that may wait for a model; more are refused. (default: 32, or 4 for each slot)",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the command line said about how long models stay, and who may wait for them."""

    keep_alive: KeepAlive = None
    pin: Pins = None
    queue: Queue = None

    @property
    def pins(self) -> tuple[str, ...]:
        """The models that stay."""
        return tuple(self.pin or ())

    def keeping(self, names: Names) -> Keeping:
        """Return what is wished; raises UsageError for a time that is none."""
        from llmrun.server.keeping import Keeping, parse_keep_alive

        seconds = None if self.keep_alive is None else parse_keep_alive(self.keep_alive)
        pinned = frozenset(names.key(pin) for pin in self.pins)
        return Keeping(seconds, pinned, self.queue)


@dataclass(frozen=True, slots=True)
class Starting:
    """How the models of a server are started. drafted: the key of the one that a draft guesses for."""

    constraints: Constraints
    plan: PlanWish
    offline: bool
    console: Console
    drafted: str

    def fixed(self, meant: Meant) -> Constraints:
        """Return what the user fixed about how a model runs."""
        return self.constraints if meant.key == self.drafted else replace(self.constraints, draft=None)

    def _reachable(self, meant: Meant) -> Constraints:
        """Return what the user fixed without lenders that are gone: a server goes on with what still fits."""
        from llmrun.engine.lost import are_there, lenders_of  # here: who serves its first model asks nobody

        fixed = self.fixed(meant)
        lenders = lenders_of(fixed.devices or ())
        gone = [lender for lender, there in zip(lenders, are_there(lenders), strict=True) if not there]
        if gone:
            self.console.say(f"{meant.name}: loading it without {' and '.join(gone)}, which cannot be reached")
        return fixed.without(gone)

    def first(self, meant: Meant) -> Started:
        """Fetch what is lacking of a model, load it, and tell of it as `chat` does; raises as pipeline.start."""
        from llmrun import pipeline
        from llmrun.cli.fetching import FetchScreen, listener_of
        from llmrun.cli.story import Story

        console = self.console
        story = Story(console, meant.name, self.constraints, whole=True)
        story.begin()
        with FetchScreen(console).shown() as screen:
            listener = replace(
                listener_of(console),
                log=console.log if console.verbose else None,
                planned=story.planned,
                fetch=screen,
                progress=story.loading,
                step=console.say,
            )
            try:
                fixed = self.fixed(meant)
                started = pipeline.start(meant.reference, fixed, self.plan, listener, offline=self.offline)
            finally:
                console.clear_status()
        _tell_notice(console, started)
        return started

    def fetch(self, meant: Meant) -> None:
        """Fetch what is lacking of a model, so that a request need not wait for it; raises as pipeline.pull."""
        from llmrun import pipeline
        from llmrun.cli.fetching import FetchScreen, listener_of

        console = self.console
        with FetchScreen(console).shown() as screen:
            listener = replace(listener_of(console), fetch=screen)
            pipeline.pull(meant.reference, self.fixed(meant), self.plan, listener, offline=self.offline)

    def asked(self, meant: Meant, beside: Neighbourhood) -> Started:
        """Load a model that is here, beside others; what is not here is never fetched."""
        from llmrun import pipeline

        console = self.console
        listener = pipeline.Listener(
            log=console.log if console.verbose else None,
            step=lambda line: console.say(f"{meant.name}: {line}"),
        )
        console.log(f"loading {meant.name}")
        fixed = self._reachable(meant)
        started = pipeline.start(meant.reference, fixed, self.plan, listener, offline=True, beside=beside)
        _tell_notice(console, started, f"{meant.name}: ")
        return started


def _tell_notice(console: Console, started: Started, whose: str = "") -> None:
    """Tell what the engine says a user should know of a model, as `run` does."""
    if started.engine.info is not None and started.engine.info.notice:
        console.say(f"note: {whose}{started.engine.info.notice}")
