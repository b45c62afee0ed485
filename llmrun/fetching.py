"""What was chosen, brought here: a model's files, or the projector and the draft beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.drafts import Draft
from llmrun.errors import UsageError
from llmrun.local import read_variant
from llmrun.models import LocalModel
from llmrun.projectors import Eye
from llmrun.variant import Variant

if TYPE_CHECKING:
    from llmrun.hub.fetch import FetchListener
    from llmrun.hub.repository import Repository
    from llmrun.settling import Wishes


def fetch_variant(
    variant: Variant, repository: Repository | None, listener: FetchListener | None, local_dir: Path | None = None
) -> tuple[Path, ...]:
    """Return where a variant's files lie, fetching what is not here; raises what fetching raises.

    local_dir: where they are to lie, in place of the cache; raises UsageError for files that are here.
    """
    if variant.is_here or repository is None:
        if local_dir is not None:
            raise UsageError(
                f"{variant.files[0].name} is a file of yours already", "copy it: --local-dir is for the Hub's"
            )
        return tuple(file.origin for file in variant.files if isinstance(file.origin, Path))
    from llmrun.hub.fetch import FetchListener, FetchWish, fetch

    wish = FetchWish(revision=repository.revision, local_dir=local_dir)
    return fetch(variant.files, wish, listener or FetchListener())


def fetch_model(variant: Variant, repository: Repository | None, listener: FetchListener | None) -> LocalModel:
    """Fetch a variant, and return it as what is here."""
    paths = fetch_variant(variant, repository, listener)
    here, header = read_variant(paths[0])
    return LocalModel(((replace(here, quant=variant.quant), header),))


def fetch_beside(wishes: Wishes, listener: FetchListener | None) -> Wishes:
    """Return wishes whose projector and draft are here, fetching what is not; raises what fetching raises."""
    eye, draft = wishes.eye, wishes.draft
    return replace(
        wishes,
        eye=None if eye is None else _fetch_eye(eye, listener),
        draft=None if draft is None else _fetch_draft(draft, listener),
    )


def _fetch_eye(eye: Eye, listener: FetchListener | None) -> Eye:
    """Return a projector as a file that is here, fetching it if it is not."""
    if eye.is_here:
        return eye
    from llmrun.hub.fetch import FetchListener, FetchWish, fetch

    (path,) = fetch((eye.file,), FetchWish(), listener or FetchListener())
    return replace(eye, file=replace(eye.file, origin=path))


def _fetch_draft(draft: Draft, listener: FetchListener | None) -> Draft:
    """Return a draft as a file that is here, fetching it if it is not; raises what fetching raises."""
    if draft.is_here:
        return draft
    from llmrun.hub.fetch import FetchListener, FetchWish, fetch

    wish = FetchWish(revision=None if draft.repository is None else draft.repository.revision)
    return draft.fetched(fetch(draft.variant.files, wish, listener or FetchListener()))
