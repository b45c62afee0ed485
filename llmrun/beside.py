"""What a model is to be run with besides itself and its adapters: the projector and the draft that are wished for.

Must not know what becomes of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmrun.drafts import Draft, open_draft
from llmrun.models import Opened, Search, projectors_of
from llmrun.projectors import AUTO, Eye, open_projector
from llmrun.reference import ModelRef, format_reference
from llmrun.settling import Wishes


def open_beside(ref: ModelRef, wishes: Wishes, opened: Opened, search: Search) -> Wishes:
    """Return wishes with what they are for; ref, opened: the model. Raises as open_projector and open_draft."""
    return replace(wishes, eye=_eye(ref, wishes, opened, search), draft=_draft(ref, wishes, opened, search))


def _eye(ref: ModelRef, wishes: Wishes, opened: Opened, search: Search) -> Eye | None:
    wish = wishes.constraints.projector
    if wishes.replay is not None and (saved := wishes.replay.settings.projector) is not None:
        wish = saved if Path(saved).is_absolute() else AUTO  # it was not here when the plan was made
    if wish is None:
        return None
    return open_projector(wish, lambda: projectors_of(ref, opened, search), format_reference(ref), search.slow)


def _draft(ref: ModelRef, wishes: Wishes, opened: Opened, search: Search) -> Draft | None:
    wish = wishes.constraints.draft if wishes.replay is None else wishes.replay.settings.draft
    return None if wish is None else open_draft(wish, ref, opened, search)
