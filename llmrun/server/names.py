"""Which models a client may ask for: those the server was started with, and those that `llmrun list` shows.

Knows what a name means and where its files lie; nothing is loaded or fetched here, and no name is ever a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import LLMRunError, NotFoundError, UnreachableError, UsageError
from llmrun.inventory import Holding, read_inventory
from llmrun.local import locate
from llmrun.models import Search, open_model
from llmrun.reference import GuideRef, LocalRef, ModelRef, format_reference, parse_reference
from llmrun.variant import ModelFile

_LATEST = ":latest"  # what Ollama's clients write behind a name that has no tag
_SHOWN = 100  # characters of a name that is told back
_LISTED = "GET /v1/models lists those that are here"


@dataclass(frozen=True, slots=True)
class Meant:
    """What a name means. name: what it is called; key: the same for all spellings; given: at the start."""

    name: str
    key: str
    reference: ModelRef
    given: bool = False


@dataclass(frozen=True, slots=True)
class Offered:
    """A model that may be asked for, with its files where it is here.

    last_used: seconds since 1970, None unknown. also: other names by which the same files may be asked for.
    """

    name: str
    files: tuple[ModelFile, ...] = ()
    quant: str | None = None
    given: bool = False
    last_used: float | None = None
    also: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


class Names:
    """The names of the models that were given to the server, and what any other means.

    A file is called by its name without ending. Raises UsageError where two of those given are called alike.
    """

    def __init__(self, given: Sequence[str], hub: str | None = None) -> None:
        """given: as typed, at least one; the first is for who names none. hub: see parse_reference."""
        self._hub = hub
        self._given: dict[str, Meant] = {}
        for typed in given:
            reference = parse_reference(typed, hub)
            meant = Meant(_called(typed, reference), format_reference(reference), reference, given=True)
            other = self._given.setdefault(meant.name, meant)
            if other.key != meant.key:
                raise UsageError(
                    f"{other.key} and {meant.key} would both be served as {meant.name}", "give one file another name"
                )
        self._by_key = {meant.key: meant for meant in self._given.values()}

    @property
    def given(self) -> tuple[Meant, ...]:
        """Those that were given, in their order."""
        return tuple(self._given.values())

    def key(self, typed: str) -> str:
        """Return the key of one that was given, as it was typed."""
        return format_reference(parse_reference(typed, self._hub))

    def meant(self, name: str) -> Meant:
        """Return what a name means, which need not be here; "" is the first one given. Costs no look at the disk.

        Raises NotFoundError for what is no name.
        """
        if not name:
            return self.given[0]
        plain = name[: -len(_LATEST)] if name.lower().endswith(_LATEST) else name
        if found := self._given.get(name) or self._given.get(plain):
            return found
        try:
            reference = parse_reference(plain, self._hub)
        except UsageError as error:
            raise NotFoundError(f"no model is called {_shown(name)}", _LISTED) from error
        if isinstance(reference, LocalRef):
            raise NotFoundError(f"no model is called {_shown(name)}: they are asked for by name, not by path", _LISTED)
        key = format_reference(reference)
        return self._by_key.get(key) or Meant(plain, key, reference)

    def paths(self, meant: Meant) -> frozenset[Path]:
        """Return the files that a model may be loaded from, of each quantization the first; none where it is to come.

        Raises NotFoundError for one that was not given and is not here, GGUFError for one that cannot be run.
        """
        try:
            model = open_model(meant.reference, Search(offline=True)).model
        except UnreachableError as error:
            if meant.given:
                return frozenset()
            name = format_reference(meant.reference)
            raise NotFoundError(
                f"the model {_shown(name)} is not here, and a request fetches none",
                f"`llmrun pull {name}` on the server's machine does; {_LISTED}",
            ) from error
        except NotFoundError as error:
            if meant.given:
                raise
            raise NotFoundError(f"no model is called {_shown(meant.name)}", _LISTED) from error
        return frozenset(variant.path.resolve() for variant, _ in model.found())

    def offered(self) -> tuple[Offered, ...]:
        """Return what may be asked for, as it is now: those given, then what `llmrun list` shows. Reads the disk.

        Where one that was given is known to be files that are listed too, that is one model with two names.
        """
        holdings = [held for held in read_inventory().holdings if held.kind == "model" and held.problem is None]
        mine = [_offered(meant, holdings) for meant in self.given]
        known = {one.name for one in mine} | {name for one in mine for name in one.also}
        others = (
            Offered(held.reference, held.files, held.quant, last_used=held.last_used)
            for held in holdings
            if held.reference not in known and held.reference not in self._by_key
        )
        return (*mine, *_once(others))


def _called(typed: str, reference: ModelRef) -> str:
    if isinstance(reference, LocalRef):
        name = reference.path.name
        return reference.path.stem if name.lower().endswith(".gguf") else name
    return typed.strip().removesuffix("/")


def _offered(meant: Meant, holdings: Iterable[Holding]) -> Offered:
    """Return a model that was given; its files are those of the one quantization that is here, if it is one."""
    if isinstance(meant.reference, LocalRef):
        try:
            path = locate(meant.reference)
            files: tuple[ModelFile, ...] = (ModelFile(path.name, path.stat().st_size, path),)
        except (LLMRunError, OSError):  # a folder of several, or gone: who asks for it is told
            files = ()
        return Offered(meant.name, files, given=True, also=_same(meant, files, holdings))
    found = [held for held in holdings if meant.key in (held.model, held.reference)]
    if not found:
        return Offered(meant.name, given=True)
    first = found[0]
    # of several quantizations the plan chooses; of guide's the first is the default
    is_known = len(found) == 1 or isinstance(meant.reference, GuideRef)
    also = _same(meant, first.files, holdings) if is_known else ()
    return Offered(meant.name, first.files, first.quant, True, first.last_used, also)


def _same(meant: Meant, files: Sequence[ModelFile], holdings: Iterable[Holding]) -> tuple[str, ...]:
    """Return the names of what is listed with the same files, but not what a model was given as."""
    wanted = _places(files)
    same = (held.reference for held in holdings if wanted and _places(held.files) == wanted)
    return tuple(dict.fromkeys(name for name in same if name != meant.name))


def _places(files: Iterable[ModelFile]) -> frozenset[object]:
    """Return where files lie, links resolved."""
    return frozenset(file.origin.resolve() if isinstance(file.origin, Path) else file.origin for file in files)


def _once(offered: Iterable[Offered]) -> Iterator[Offered]:
    seen: set[str] = set()
    for one in offered:
        if one.name not in seen:
            seen.add(one.name)
            yield one


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")
