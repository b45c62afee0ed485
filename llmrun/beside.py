"""What a model is to be run with besides itself and its adapters: the projector and the draft that are wished for.

Must not know what becomes of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmrun.drafts import Draft, open_draft
from llmrun.gguf.draft import has_layers
from llmrun.models import Opened, Search, projectors_of
from llmrun.projectors import Eye, open_projector
from llmrun.reference import ModelRef, format_reference
from llmrun.settings import AUTO, MTP
from llmrun.settling import Wishes


def open_beside(ref: ModelRef, wishes: Wishes, opened: Opened, search: Search) -> Wishes:
    """Return wishes with what they are for; ref, opened: the model. Raises as open_projector and open_draft."""
    wishes = _by_itself(wishes, opened)
    return replace(wishes, eye=_eye(ref, wishes, opened, search), draft=_draft(ref, wishes, opened, search))


def _by_itself(wishes: Wishes, opened: Opened) -> Wishes:
    """Return wishes in which the draft that comes with a model is its own layers for that, where it has them."""
    own = wishes.constraints
    if wishes.replay is not None or own.draft != AUTO or not all(has_layers(one) for _, one in opened.model.found()):
        return wishes
    return replace(wishes, constraints=replace(own, draft=MTP))


def _eye(ref: ModelRef, wishes: Wishes, opened: Opened, search: Search) -> Eye | None:
    wish = wishes.constraints.projector
    if wishes.replay is not None and (saved := wishes.replay.settings.projector) is not None:
        wish = saved if Path(saved).is_absolute() else AUTO  # it was not here when the plan was made
    if wish is None:
        return None
    return open_projector(wish, lambda: projectors_of(ref, opened, search), format_reference(ref), search.slow)


def _draft(ref: ModelRef, wishes: Wishes, opened: Opened, search: Search) -> Draft | None:
    wish = wishes.constraints.draft if wishes.replay is None else wishes.replay.settings.draft
    return None if wish is None or wish == MTP else open_draft(wish, ref, opened, search)
