"""What a reference means: a model that lies here, whoever fetched it, or else one on the Hub.

What is here is taken without a request; the Hub is asked only for what is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from llmrun.catalog import resolve
from llmrun.errors import GGUFError, NotFoundError
from llmrun.folders import headers_folder
from llmrun.gguf.header import GGUFHeader
from llmrun.grouping import Grouped, Sidecar, group_files
from llmrun.hub.cache import cached_snapshots
from llmrun.hub.client import is_offline
from llmrun.hub.failure import offline
from llmrun.hub.headers import HeaderReader
from llmrun.hub.repository import Repository, list_repository
from llmrun.local import check_here, drafts_beside, read_variant, read_writing_model, variants_of
from llmrun.projectors import projectors_beside
from llmrun.reference import GuideRef, HubRef, LocalRef, ModelRef, NameRef, ShelfRef, format_reference
from llmrun.remote import RemoteModel
from llmrun.selecting import select, select_file
from llmrun.shelf.model import TITLES, ShelfModel
from llmrun.shelf.shelves import find_all
from llmrun.units import format_bytes
from llmrun.variant import ModelFile, Variant

Found = tuple[Variant, GGUFHeader]

_KINDS = {
    "mmproj": "for images or sound",
    "imatrix": "importance matrix",
    "draft": "drafts for the model",
    "vocab": "vocabulary",
    "lora": "LoRA adapter",
}


class Model(Protocol):
    """Variants of one model, each with a header: its own, or the likeness of another's."""

    def found(self) -> tuple[Found, ...]:
        """Return all variants with their headers."""

    def is_read(self, quant: str) -> bool:
        """Return whether a variant's header is its own."""

    def read(self, quant: str) -> None:
        """Read a variant's own header."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that is here, all headers read."""

    variants: tuple[Found, ...]

    def found(self) -> tuple[Found, ...]:
        """Return all variants with their headers."""
        return self.variants

    def is_read(self, quant: str) -> bool:
        """Return that it is, whichever."""
        return any(variant.quant == quant for variant, _ in self.variants)

    def read(self, quant: str) -> None:
        """Do nothing: every header is read."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A model, and what is to be said of it.

    repository: None where the Hub was not asked. sidecars, unusable: what else is there, in words. beside: files of the
    repository that are of use to the model, as projectors for images and drafts.
    """

    model: Model
    repository: Repository | None = None
    sidecars: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    beside: tuple[Sidecar, ...] = ()


def _no_room() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Search:
    """Where to look. offline: not on the Hub. fresh: on the Hub, whatever is here.

    room: bytes a model may take here, asked only where the Hub is. slow: told a host that takes long to answer.
    """

    offline: bool = False
    fresh: bool = False
    room: Callable[[], int] = _no_room
    slow: Callable[[str], None] = field(default=lambda _: None)


def open_model(ref: ModelRef, search: Search = Search()) -> Opened:
    """Find a model: here, with other programs, on the Hub, in this order.

    Raises NotFoundError for what there is not, GGUFError for what cannot be run, UnreachableError where the Hub would
    have to be asked and cannot or may not be, HubError for what else goes wrong with it.
    """
    if isinstance(ref, GuideRef | LocalRef):
        return Opened(LocalModel(variants_of(ref)))
    hub_ref, unknown = _in_catalog(ref)
    if not search.fresh and hub_ref is not None and (variants := cached_variants(hub_ref)):
        return _of_cache(variants)
    if (not search.fresh or hub_ref is None) and (shelved := _shelved(ref, hub_ref)):
        return _of_shelf(shelved)
    if hub_ref is None:
        raise unknown
    return _on_the_hub(hub_ref, search)


def _shelved(ref: ModelRef, hub_ref: HubRef | None) -> Sequence[ShelfModel]:
    """Return what other programs have under the name that was given, or that of the repository it stands for."""
    return find_all(format_reference(ref)) or (find_all(format_reference(hub_ref)) if hub_ref is not None else ())


def check_meant(ref: ModelRef) -> None:
    """Raise NotFoundError or GGUFError where it is known without a request that a reference means nothing."""
    if isinstance(ref, GuideRef | LocalRef):
        check_here(ref)
        return
    hub_ref, unknown = _in_catalog(ref)
    if hub_ref is None and not find_all(format_reference(ref)):
        raise unknown


def _in_catalog(ref: HubRef | NameRef | ShelfRef) -> tuple[HubRef | None, NotFoundError]:
    """Return the repository a reference stands for; None where it stands for none, with what to say of that."""
    told = format_reference(ref)
    unknown = NotFoundError(f"no other program here has {told}", "`llmrun list` shows what is here")
    if isinstance(ref, NameRef):
        try:
            return resolve(ref), unknown
        except NotFoundError as error:
            return None, error
    return (ref if isinstance(ref, HubRef) else None), unknown


def cached_variants(ref: HubRef) -> tuple[Variant, ...]:
    """Return the variants of a repository that are here, whole, and are meant; costs no request."""
    found: dict[str, Variant] = {}
    for snapshot in cached_snapshots(ref.repo_id, ref.revision):
        with contextlib.suppress(NotFoundError):
            for variant in _meant(group_files(snapshot.files, ref.repo_id), ref):
                found.setdefault(variant.quant, variant)
    return tuple(found.values())


def cached_files_of(ref: HubRef | NameRef | ShelfRef) -> tuple[Path, ...]:
    """Return the files of the cache that a reference may mean; none where the cache has none, or it is another's."""
    hub_ref, _ = _in_catalog(ref)
    variants = () if hub_ref is None else cached_variants(hub_ref)
    return tuple(Path(str(file.origin)) for variant in variants for file in variant.files)


def _meant(grouped: Grouped, ref: HubRef) -> tuple[Variant, ...]:
    """Return the variants that a reference leaves open; raises NotFoundError where it names one there is not."""
    if ref.filename is not None:
        return (select_file(grouped, ref.filename),)
    return grouped.variants if ref.quant is None else (select(grouped, ref.quant),)


def _of_cache(variants: Sequence[Variant]) -> Opened:
    """Return what is whole of a cached model, with a note of what is not; raises GGUFError where nothing is."""
    found: list[Found] = []
    damaged: list[GGUFError] = []
    for variant in variants:
        try:
            found.append((variant, read_writing_model(variant.path)))
        except GGUFError as error:
            damaged.append(error)
    if not found:
        raise damaged[0]
    return Opened(LocalModel(tuple(found)), notes=tuple(f"passed over: {error.message}" for error in damaged))


def _of_shelf(shelved: Sequence[ShelfModel]) -> Opened:
    """Return a model of another program, in all quantizations there are."""
    first, title = shelved[0], TITLES[shelved[0].shelf]
    if first.problem is not None:
        hint = f"`llmrun pull` fetches another file of it; {title} keeps its own"
        raise GGUFError(f"{first.reference} of {title} cannot be used here: {first.problem}", hint)
    usable = [model for model in shelved if model.problem is None and model.shelf == first.shelf]
    found = tuple(_shelf_variant(model) for model in usable)
    note = f"{title} has {first.name} already: its files are used, and left as they are"
    return Opened(LocalModel(found), notes=(note,))


def _shelf_variant(model: ShelfModel) -> Found:
    variant, header = read_variant(model.paths[0])
    return replace(variant, quant=model.quant or variant.quant, files=model.files), header


def _on_the_hub(ref: HubRef, search: Search) -> Opened:
    if search.offline or is_offline():
        raise offline(format_reference(ref))
    repository = list_repository(ref.repo_id, ref.revision, search.slow)
    grouped = group_files(repository.files)
    variants = _meant(grouped, ref)
    if not variants:
        raise _nothing_usable(repository, grouped)
    model = RemoteModel(variants, HeaderReader(headers_folder(), slow=search.slow), search.room())
    notes = tuple(_notes(ref, repository))
    return Opened(model, repository, tuple(_beside(grouped)), tuple(_unusable(grouped)), notes, grouped.sidecars)


def _of_kind(sidecars: Iterable[Sidecar], kind: str) -> tuple[ModelFile, ...]:
    return tuple(sidecar.file for sidecar in sidecars if sidecar.kind == kind)


def projectors_of(ref: ModelRef, opened: Opened, search: Search) -> tuple[ModelFile, ...]:
    """Return the projectors of a model that was opened: beside its files, in the cache, or on the Hub.

    Raises UnreachableError or HubError where the Hub has to be asked and does not answer.
    """
    return _sidecars_of(ref, opened, search, "mmproj", projectors_beside)


def drafts_of(ref: ModelRef, opened: Opened, search: Search) -> tuple[ModelFile, ...]:
    """Return the draft models of a model that was opened, from where projectors_of looks; raises as that does."""
    return _sidecars_of(ref, opened, search, "draft", drafts_beside)


def _sidecars_of(
    ref: ModelRef,
    opened: Opened,
    search: Search,
    kind: Literal["mmproj", "draft"],
    in_folder_of: Callable[[Path], Sequence[ModelFile]],
) -> tuple[ModelFile, ...]:
    """Return what lies beside a model; in_folder_of: returns it for a file of the model that is here."""
    if opened.repository is not None or isinstance(ref, GuideRef):
        return _of_kind(opened.beside, kind)
    paths = [file.origin for variant, _ in opened.model.found() for file in variant.files]
    folders = {path.parent: path for path in paths if isinstance(path, Path)}
    beside = [file for path in folders.values() for file in in_folder_of(path)]
    hub_ref = None if isinstance(ref, LocalRef) else _in_catalog(ref)[0]
    if beside or hub_ref is None:
        return tuple(beside)
    for snapshot in cached_snapshots(hub_ref.repo_id, hub_ref.revision):
        if found := _of_kind(group_files(snapshot.files, hub_ref.repo_id).sidecars, kind):
            return found
    if search.offline or is_offline():
        raise offline(f"the {kind} file of {format_reference(hub_ref)}")
    repository = list_repository(hub_ref.repo_id, hub_ref.revision, search.slow)
    return _of_kind(group_files(repository.files).sidecars, kind)


def _nothing_usable(repository: Repository, grouped: Grouped) -> GGUFError:
    """Return why nothing of a repository can be run."""
    name = repository.repo_id
    if reasons := list(_unusable(grouped)):
        return GGUFError(f"nothing in {name} can be run: {reasons[0]}", "look for another repository of the model")
    words = name.rpartition("/")[2].removesuffix("-GGUF").removesuffix("-gguf")
    return GGUFError(f"{name} has no GGUF files", f"`llmrun search {words}` finds GGUF versions of it")


def _beside(grouped: Grouped) -> Iterator[str]:
    for sidecar in grouped.sidecars:
        yield f"{sidecar.file.name} ({_KINDS[sidecar.kind]}), {format_bytes(sidecar.file.size)}"
    for other in grouped.others:
        yield f"{other.files[0].name} (another model), {format_bytes(other.size)}"


def _unusable(grouped: Grouped) -> Iterator[str]:
    for broken in grouped.unusable:
        yield f"{broken.files[0].name} {broken.reason}"


def _notes(ref: HubRef, repository: Repository) -> Iterator[str]:
    if repository.repo_id.lower() != ref.repo_id.lower():
        yield f"{ref.repo_id} is called {repository.repo_id} now"
