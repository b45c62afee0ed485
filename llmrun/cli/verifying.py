"""`llmrun verify`: hashes what is here against what it should be; nobody is asked for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.catalog import resolve
from llmrun.console import Console, one_line
from llmrun.embedded import embedded_file
from llmrun.errors import ChecksumError, NotFoundError
from llmrun.gguf.source import split_paths
from llmrun.hub.cache import read_repo
from llmrun.inventory import files_of
from llmrun.local import locate
from llmrun.reference import (
    GUIDE_QUANTS,
    GuideRef,
    HubRef,
    LocalRef,
    ModelRef,
    NameRef,
    ShelfRef,
    format_reference,
    parse_reference,
)
from llmrun.shelf.model import TITLES
from llmrun.shelf.shelves import find_all
from llmrun.units import format_bytes
from llmrun.variant import ModelFile
from llmrun.verification import Verdict, verify

_PAUSE = 0.1  # seconds between two lines of progress


@dataclass(frozen=True, slots=True)
class Checked:
    """The files to look at, and what to type where one is damaged; repo_id: of the cache they lie in, if they do."""

    files: tuple[ModelFile, ...]
    remedy: str = ""
    repo_id: str | None = None


def run_verify(model: str, *, as_json: bool, quiet: bool) -> None:
    """Verify the files of a model; raises ChecksumError where one is damaged."""
    console = Console(quiet=quiet)
    checked = _find(parse_reference(model))
    verdicts = [verify(file, _progress(file, console)) for file in checked.files]
    console.clear_status()
    if as_json:
        console.data(verdict_figures(model, verdicts))
    elif text := verdict_text(verdicts):
        console.show(text)
    _raise_for(verdicts, checked)


def _find(ref: ModelRef) -> Checked:
    match ref:
        case GuideRef(quant):
            paths = [embedded_file(name) for name in ((quant,) if quant else GUIDE_QUANTS)]
            return Checked(tuple(map(_plain, paths)), "reinstall llmrun")
        case LocalRef(path):
            return Checked(tuple(map(_plain, _own_files(path))), "fetch it again from where it came")
        case HubRef() | NameRef():
            return _kept(ref)
        case ShelfRef():
            return _on_shelves(ref)


def _own_files(path: Path) -> Sequence[Path]:
    """Return the files of a path: the parts of a model, or all models of a folder."""
    if not path.expanduser().is_dir():
        return split_paths(locate(LocalRef(path)))
    found = sorted(path.expanduser().glob("*.gguf"))
    if not found:
        raise NotFoundError(f"{path} has no GGUF file in it", "name a file, or a folder of them")
    return found


def _plain(path: Path) -> ModelFile:
    return ModelFile(path.name, path.stat().st_size, path)


def _in_cache(ref: HubRef) -> Checked | None:
    repo = read_repo(ref.repo_id)
    return Checked(files_of(repo, ref), repo_id=repo.repo_id) if repo and repo.files else None


def _kept(ref: HubRef | NameRef) -> Checked:
    """Return what the cache has, else what another program has under that name."""
    try:
        found = _in_cache(resolve(ref, here=True) if isinstance(ref, NameRef) else ref)
    except NotFoundError:  # no name of ours, or not in this quantization
        if not find_all(format_reference(ref)):
            raise
        found = None
    return found or _on_shelves(ref)


def _on_shelves(ref: ModelRef) -> Checked:
    name = format_reference(ref)
    models = find_all(name)
    if not models:
        raise NotFoundError(f"{name} is not on this machine", "`llmrun list` shows what is")
    files = {file.origin: file for model in models for file in (*model.files, *model.beside)}
    first = models[0]
    if not files:
        raise NotFoundError(f"{first.reference} cannot be verified: {first.problem}", "`llmrun list` shows what can")
    is_ollamas = first.shelf == "ollama"
    remedy = (
        f"`ollama pull {first.name}` fetches it again" if is_ollamas else f"fetch it again in {TITLES[first.shelf]}"
    )
    return Checked(tuple(files.values()), remedy)


def _progress(file: ModelFile, console: Console) -> Callable[[int], None]:
    """Return what shows how far the hashing is, a few times a second."""
    shown = 0.0

    def show(n_read: int) -> None:
        nonlocal shown
        if time.monotonic() - shown >= _PAUSE:
            shown = time.monotonic()
            part = f"{n_read / file.size:.0%} of {format_bytes(file.size)}" if file.size else ""
            console.status(f"checking {one_line(file.name)}: {part}")

    return show


def verdict_figures(model: str, verdicts: Sequence[Verdict]) -> dict[str, object]:
    """Return the verdicts as plain values; sizes are bytes."""
    return {
        "model": model,
        "sound": all(verdict.outcome != "damaged" for verdict in verdicts),
        "files": [
            {
                "name": verdict.file.name,
                "path": str(verdict.file.origin),
                "size": verdict.file.size,
                "sha256": verdict.file.sha256,
                "outcome": verdict.outcome,
                "reason": verdict.reason,
            }
            for verdict in verdicts
        ],
    }


def verdict_text(verdicts: Sequence[Verdict]) -> str:
    """Return what is damaged, a line each, and what that makes of all."""
    lines = [
        f"damaged: {one_line(verdict.file.name)}: {one_line(verdict.reason or '')}"
        for verdict in verdicts
        if verdict.outcome == "damaged"
    ]
    if (n_sound := sum(verdict.outcome == "sound" for verdict in verdicts)) and not lines:
        lines.append(f"{_count(n_sound, len(verdicts))} as {'it' if n_sound == 1 else 'they'} should be")
    if n_plausible := sum(verdict.outcome == "plausible" for verdict in verdicts):
        lines.append(f"{_count(n_plausible, len(verdicts))} judged by header and size alone: no checksum is known here")
    return "\n".join(lines)


def _count(n: int, total: int) -> str:
    if n == 1:
        return "the file is" if total == 1 else f"1 of {total} files is"
    return f"all {n} files are" if n == total else f"{n} of {total} files are"


def _raise_for(verdicts: Sequence[Verdict], checked: Checked) -> None:
    damaged = [verdict.file.name for verdict in verdicts if verdict.outcome == "damaged"]
    if not damaged:
        return
    remedy = checked.remedy
    if checked.repo_id is not None:  # a file that is there is not fetched again
        named = f"{checked.repo_id}:{damaged[0]}"
        remedy = f"`llmrun rm {named}`, then `llmrun pull {named}` fetches it again"
    raise ChecksumError(f"{_count(len(damaged), len(verdicts))} damaged: {', '.join(damaged)}", remedy)
