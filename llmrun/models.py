"""What a reference means: a model that lies here, whoever fetched it, or else one on the Hub.

What is here is taken without a request; the Hub is asked only for what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from llmrun.catalog import nearest_names, resolve
from llmrun.errors import GGUFError, NotFoundError
from llmrun.folders import headers_folder
from llmrun.gguf.header import GGUFHeader
from llmrun.hub.cache import cached_files
from llmrun.hub.client import is_offline
from llmrun.hub.failure import offline
from llmrun.hub.headers import HeaderReader
from llmrun.hub.repository import Repository, list_repository
from llmrun.local import read_variant, variants_of
from llmrun.reference import GuideRef, HubRef, LocalRef, ModelRef, NameRef, format_reference
from llmrun.remote import RemoteModel
from llmrun.shelf.model import TITLES, ShelfModel
from llmrun.shelf.shelves import find_all
from llmrun.variant import Grouped, ModelFile, Variant, group_files, select

Found = tuple[Variant, GGUFHeader]


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

    repository: None where the Hub was not asked. sidecars, unusable: what else is there, in words.
    """

    model: Model
    repository: Repository | None = None
    sidecars: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
    hub_ref = _hub_ref(ref)
    if not search.fresh:
        if hub_ref is not None and (variants := cached_variants(hub_ref)):
            return Opened(LocalModel(tuple(map(_with_header, variants))))
        if shelved := find_all(format_reference(ref)):
            return _of_shelf(shelved)
    if hub_ref is None:
        raise NotFoundError(f"no other program here has {format_reference(ref)}", "`llmrun list` shows what they have")
    return _on_the_hub(hub_ref, search)
