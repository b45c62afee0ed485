"""`llmrun rm`: takes a model out of the Hugging Face cache, after telling what goes and asking; empties our own."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from llmrun.catalog import resolve
from llmrun.console import Console, one_line
from llmrun.errors import LLMRunError, NotFoundError, UsageError
from llmrun.hub.cache import CachedRepo, read_repo
from llmrun.hub.removal import Removal, plan_removal, plan_removal_of_all, plan_removal_of_unfinished, remove
from llmrun.inventory import files_of
from llmrun.reference import GuideRef, HubRef, LocalRef, ModelRef, NameRef, ShelfRef, format_reference, parse_reference
from llmrun.shelf.model import TITLES, ShelfModel
from llmrun.shelf.shelves import find
from llmrun.units import format_bytes

_MAX_SHOWN = 20  # names of files


@dataclass(frozen=True, slots=True)
class RemoveWish:
    """Everything the command line said."""

    model: str | None
    unfinished: bool
    cache: bool
    yes: bool
    json: bool
    quiet: bool


def run_remove(wish: RemoveWish) -> None:
    """Remove what was named; raises UsageError where that is not llmrun's, or nobody said yes."""
    console = Console(quiet=wish.quiet)
    if wish.cache:
        _empty_cache(wish, console)
        return
    if wish.model is None:
        raise UsageError("there is no model named", "`llmrun list` shows them; `llmrun rm --cache` empties the cache")
    removal = _plan(wish, wish.model)
    if not wish.json:
        for line in _told(removal):
            console.say(line)
    _confirm(removal, wish)
    remove(removal)
    if wish.json:
        console.data({"model": wish.model, "files": list(removal.names), "freed": removal.frees})
    else:
        console.say(f"removed: {format_bytes(removal.frees)} are free again")


def _hub_ref(ref: ModelRef) -> HubRef:
    """Return the repository that is meant; UsageError for what llmrun does not remove."""
    match ref:
        case HubRef():
            return ref
        case NameRef():
            return _resolve(ref)
        case GuideRef():
            raise UsageError("guide is a part of llmrun", "it goes when llmrun is uninstalled")
        case LocalRef(path):
            raise UsageError(f"llmrun removes only what it fetched, and {path} is your own file", f"rm {path}")
        case ShelfRef():
            raise _not_here(ref)


def _resolve(ref: NameRef) -> HubRef:
    try:
        return resolve(ref, here=True)
    except NotFoundError:
        if find(format_reference(ref)) is None:
            raise
    raise _not_here(ref)


def _not_here(ref: ModelRef) -> LLMRunError:
    """Return the error for what the cache has not: another program may have it."""
    name = format_reference(ref)
    if (model := find(name)) is not None:
        return _not_ours(model)
    return NotFoundError(f"{name} is not in the cache", "`llmrun list` shows what is")


def _not_ours(model: ShelfModel) -> UsageError:
    title = TITLES[model.shelf]
    remedy = f"`ollama rm {model.name}`" if model.shelf == "ollama" else f"remove it in {title}"
    return UsageError(f"llmrun reads {title}'s models and leaves them alone", remedy)


def _empty_cache(wish: RemoveWish, console: Console) -> None:
    """Remove what models had read, and what borrowers sent; nobody is asked, as it only has to be read or sent again.

    A lender that runs goes on: what it looks for and does not find comes again.
    """
    if wish.model is not None or wish.unfinished:
        raise UsageError("--cache stands alone: it is what models have read", "llmrun rm --cache")
    from llmrun.folders import tensors_folder
    from llmrun.lending.cache import TensorCache
    from llmrun.prompt_files import PromptFiles
    from llmrun.states import Vault

    (n_prompts, prompts), (n_states, states) = PromptFiles().clear(), Vault().clear()
    n_tensors, tensors = TensorCache(tensors_folder()).clear()
    freed = prompts + states + tensors
    if wish.json:
        console.data({"prompts": n_prompts, "conversations": n_states, "tensors": n_tensors, "freed": freed})
    elif not n_prompts + n_states + n_tensors + freed:
        console.say("there was nothing to remove")
    else:
        told = f"what models had read of {n_prompts} prompt{'s' * (n_prompts != 1)}"
        told += f" and {n_states} conversation{'s' * (n_states != 1)}"
        if n_tensors:
            told += f", and {n_tensors} tensor{'s' * (n_tensors != 1)} that borrowers sent"
        console.say(f"removed: {told}; {format_bytes(freed)} are free again")


def _plan(wish: RemoveWish, model: str) -> Removal:
    ref = _hub_ref(parse_reference(model))
    if ref.revision is not None:
        everywhere = format_reference(replace(ref, revision=None))
        raise UsageError("a file is removed from all revisions at once", f"llmrun rm {everywhere}")
    repo = read_repo(ref.repo_id)
    if repo is None:
        raise _not_here(parse_reference(model))
    if wish.unfinished:
        return _of_unfinished(repo)
    if ref.quant is None and ref.filename is None:
        return plan_removal_of_all(repo)
    return plan_removal(repo, {file.name for file in files_of(repo, ref)})


def _of_unfinished(repo: CachedRepo) -> Removal:
    if not (repo.partials or repo.unused):
        raise NotFoundError(f"no download of {repo.repo_id} is unfinished", "`llmrun list` shows what is here")
    return plan_removal_of_unfinished(repo)


def _told(removal: Removal) -> list[str]:
    """Return what goes, as lines."""
    names = removal.names
    shown = names if len(names) <= _MAX_SHOWN else (*names[: _MAX_SHOWN - 1], f"and {len(names) - _MAX_SHOWN + 1} more")
    return [f"{removal.repo.repo_id}: {format_bytes(removal.frees)}", *(f"  {one_line(name)}" for name in shown)]


def _confirm(removal: Removal, wish: RemoveWish) -> None:
    """Ask, on stderr; raises UsageError where nobody can answer, or the answer is no."""
    import typer

    if wish.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nothing is removed without asking, and there is no terminal to ask on", "add --yes")
    count = f"{len(removal.names)} file{'s' * (len(removal.names) != 1)}"
    question = f"remove {count} of {removal.repo.repo_id}, which frees {format_bytes(removal.frees)}?"
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was removed")
