"""The draft model that guesses for a model: which file it is, where it lies, and what its header says.

Must not know how it is loaded, nor how it guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.errors import GGUFError, NotFoundError, UsageError
from llmrun.folders import headers_folder
from llmrun.gguf.draft import check_draft
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.summary import summarize
from llmrun.hub.headers import HeaderReader
from llmrun.hub.settings import hub_address
from llmrun.local import Found, read_variant
from llmrun.models import LocalModel, Model, Opened, Search, drafts_of, open_model
from llmrun.planning.quality import GOOD, loss_of
from llmrun.reference import HubRef, ModelRef, format_reference, parse_reference
from llmrun.remote import RemoteModel
from llmrun.settings import AUTO
from llmrun.variant import ModelFile, RemoteFile, Variant, quant_in_name

if TYPE_CHECKING:
    from llmrun.hub.repository import Repository

# Parts that are run inside a model, on what its layers made (llama.cpp 0c1e57098, common/speculative.cpp)
_HEADS = frozenset({"eagle3", "dflash", "dspark"})
_MAIN = "main"  # the revision that is meant where none is named
OTHER_DRAFT = "name a small model of the same family: --draft MODEL"


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft as a variant of some model, here or on the Hub, and what its header says.

    asked: what the user called it. why: of this quantization, in words. repository: where it is fetched from.
    """

    asked: str
    variant: Variant
    header: GGUFHeader
    why: str
    repository: Repository | None = None

    @property
    def path(self) -> str:
        """Where it lies; until it is here what fetches it."""
        origin = self.variant.files[0].origin
        if isinstance(origin, RemoteFile):
            revision = _MAIN if self.repository is None else self.repository.revision
            return format_reference(HubRef(origin.repo_id, None if revision == _MAIN else revision, None, origin.path))
        return str(origin)

    @property
    def name(self) -> str:
        """The name of its file."""
        return Path(self.variant.files[0].name).name

    @property
    def is_here(self) -> bool:
        """Whether it need not be fetched."""
        return self.variant.is_here

    def check(self, base: GGUFHeader) -> None:
        """Raise GGUFError where it cannot guess for the model of this header."""
        try:
            check_draft(base, self.header)
        except GGUFError as error:
            raise GGUFError(f"{self.name} cannot guess for the model: {error.message}", error.hint) from error

    def fetched(self, paths: Sequence[Path]) -> Draft:
        """Return it as what lies at these paths."""
        here, header = read_variant(paths[0])
        return replace(self, variant=replace(here, quant=self.variant.quant), header=header)


def open_draft(wish: str, ref: ModelRef, opened: Opened, search: Search) -> Draft:
    """Return the draft that is wished for: a model's name or path, or AUTO for the one that comes with the model.

    ref, opened: the model that it guesses for. Raises UsageError where none comes with it, and as open_model.
    """
    if wish == AUTO:
        model, repository = _beside(ref, opened, search), opened.repository
    else:
        try:
            found = open_model(parse_reference(wish, hub_address()), search)
        except (NotFoundError, GGUFError, UsageError) as error:
            raise type(error)(f"--draft: {error.message}", error.hint) from error
        model, repository = found.model, found.repository
    (variant, _), why = choose_draft(model.found())
    model.read(variant.quant)
    header = next(header for one, header in model.found() if one.quant == variant.quant)
    draft = Draft(wish, variant, header, why, repository)
    if header.architecture in _HEADS:
        kind = header.architecture
        raise GGUFError(f"{draft.name} is no model of its own but a part of one ({kind})", OTHER_DRAFT)
    return draft


def choose_draft(found: Sequence[Found]) -> tuple[Found, str]:
    """Return which variant guesses, and why in words: the smallest that loses little.

    What is guessed wrong costs time and never an answer, and each guess reads all of the draft's weights.
    """
    if len(found) == 1:
        return found[0], "as you said"

    def loss(one: Found) -> float:
        summary = summarize(one[1])
        return loss_of(one[0].label or summary.quant, summary.bpw, one[1].architecture)

    good = [one for one in found if loss(one) <= GOOD.most]
    if good:
        return min(good, key=lambda one: one[0].size), "the smallest that loses little"
    return min(found, key=loss), "the one that loses least"


def _beside(ref: ModelRef, opened: Opened, search: Search) -> Model:
    files = drafts_of(ref, opened, search)
    if not files:
        raise UsageError(f"no draft model comes with {format_reference(ref)}", OTHER_DRAFT)
    if all(isinstance(file.origin, Path) for file in files):
        return LocalModel(tuple(read_variant(Path(str(file.origin))) for file in files))
    variants = [Variant(quant_in_name(file.name) or file.name, (file,)) for file in _once(files)]
    return RemoteModel(variants, HeaderReader(headers_folder(), slow=search.slow), search.room())


def _once(files: Sequence[ModelFile]) -> list[ModelFile]:
    """Return files of which no two have the same label, of such the smallest."""
    by_label: dict[str, ModelFile] = {}
    for file in sorted(files, key=lambda file: (file.size, file.name)):
        by_label.setdefault(quant_in_name(file.name) or file.name, file)
    return list(by_label.values())
