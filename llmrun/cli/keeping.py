"""The options about conversations that are kept, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from llmrun.history.record import Saved
    from llmrun.history.store import Store

_KEEPING = "What is kept"


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the command line said about kept conversations."""

    resume: Annotated[
        bool, typer.Option("--continue", help="Go on with the last conversation.", rich_help_panel=_KEEPING)
    ] = False
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="NAME",
            help="Go on with this one, by its name or id; `llmrun history` lists them.",
            rich_help_panel=_KEEPING,
        ),
    ] = None
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Leave no trace of this chat.", rich_help_panel=_KEEPING)
    ] = False

    def check(self) -> None:
        """Raise UsageError for what cannot be meant together."""
        if self.resume and self.session is not None:
            raise UsageError("--continue and --session exclude each other", "--continue is the last conversation")
        if self.no_history and self.goes_on:
            raise UsageError("--no-history looks at nothing that is kept", "leave it out to go on with a conversation")

    @property
    def goes_on(self) -> bool:
        """Whether a kept conversation is to be taken up."""
        return self.resume or self.session is not None

    def find(self, store: Store) -> Saved | None:
        """Return the conversation to go on with, None for a new one; raises NotFoundError where it is not there."""
        if self.session is not None:
            return store.find(self.session)
        if not self.resume:
            return None
        latest = store.latest()
        if latest is None:
            raise NotFoundError("there is no conversation to continue", "`llmrun chat` begins one")
        return latest
