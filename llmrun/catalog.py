"""Short names for models: ours, in catalog.json beside this, and the user's own, which go before.

Knows which repository a name stands for; must not ask the Hub whether it is there. Facts are the model cards'; `source`
says in which public file the repository was seen.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.errors import NotFoundError, UsageError
from llmrun.folders import own_names_file
from llmrun.gguf.parse import MAGIC
from llmrun.reference import GUIDE, HubRef, NameRef, parse_reference

OwnNames = Mapping[str, HubRef]

# What other programs put behind a size, and what is the same model here: `llama3.1:8b-instruct`, `qwen3:30b-a3b`
_SAME_MODEL = re.compile(r"-(?:instruct|it|chat|a[0-9.]+b)$")
_MAX_NEAREST = 3
_OTHER_FORMATS = (".safetensors", ".bin", ".pt", ".pth", ".onnx")
_EXAMPLE = 'it looks like this: [models], and below it "my-name" = "owner/repo:Q4_K_M"'


@dataclass(frozen=True, slots=True)
class Entry:
    """A model with a short name.

    name: family:size. aliases: the family alone where this is its usual size. parameters: weights, active_parameters:
    those a token goes through, None where that is all of them or not known. context: tokens it was trained for.
    suggested: whether it is a first choice for somebody who names none: for talking about anything, under a licence
    without conditions on who uses it, and of late (as of 2026-11).
    """

    name: str
    aliases: tuple[str, ...]
    repo_id: str
    source: str
    parameters: int
    active_parameters: int | None
    architecture: str
    license: str
    context: int
    note: str | None
    suggested: bool = False

    @property
    def family(self) -> str:
        """What stands before the size, without a version: qwen3.5:4b is of the family qwen."""
        return re.split(r"[0-9.:-]", self.name, maxsplit=1)[0]


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Return our names, family by family."""
    found = json.loads(Path(__file__).with_name("catalog.json").read_text("utf-8"))
    return tuple(Entry(**{**fields, "aliases": tuple(fields["aliases"])}) for fields in found)


def find(name: str) -> Entry | None:
    """Return the model of a name of ours: in any case, with `:` or `-` before the size; None for any other name."""
    known = _index()
    key = _key(name)
    return known.get(key) or known.get(_SAME_MODEL.sub("", key))


def nearest(name: str, own: OwnNames | None = None) -> tuple[str, ...]:
    """Return the names that are spelled most like one, the nearest first; own: the user's."""
    names = {_key(known): known for entry in entries() for known in (entry.name, *entry.aliases)}
    names |= {_key(known): known for known in (GUIDE, *(own or ()))}
    key = _key(name)
    close = difflib.get_close_matches(key, names, len(names), cutoff=0.7)
    close.sort(key=lambda other: other.split("-")[0] != key.split("-")[0])  # stable: its family, then whatever is near
    return tuple(names[other] for other in close[:_MAX_NEAREST])


def resolve(ref: NameRef, own: OwnNames | None = None, *, here: bool = False) -> HubRef:
    """Return what a name stands for, in the quantization that was asked for.

    own: the user's names, None reads their file. here: what is not on this machine is of no use. Raises NotFoundError
    with the nearest names, UsageError where that file is damaged.
    """
    own = read_own_names() if own is None else own
    found = {_key(name): stands_for for name, stands_for in own.items()}.get(_key(ref.name))
    if found is None:
        entry = find(ref.name)
        if entry is None:
            raise unknown_name(ref.typed or ref.name, own, here=here)
        found = HubRef(entry.repo_id)
    return found if ref.quant is None else replace(found, quant=ref.quant, filename=None)


def unknown_name(typed: str, own: OwnNames | None = None, *, here: bool = False) -> NotFoundError:
    """Return the error for a name that nobody knows, with what may have been meant."""
    name, close = typed.lower(), nearest(typed, own)
    if name.endswith(_OTHER_FORMATS):
        hint = "files for other programs are not read: `llmrun search NAME` finds GGUF versions of a model"
    elif file := _file_called(typed):
        hint = file
    elif close:
        hint = f"did you mean {', '.join(close[:-1])}{' or ' if close[1:] else ''}{close[-1]}?"
    elif name.endswith("-gguf"):
        hint = f"a repository of the Hub is written with its owner: owner/{name}"
    elif here:
        hint = "`llmrun list` shows the models that are here"
    else:
        hint = f"`llmrun search {name}` looks on the Hub; a repository is written owner/repo, a file ./FILE.gguf"
    return NotFoundError(f"{typed!r} is no name that llmrun knows", hint)


def _file_called(typed: str) -> str | None:
    """Return what to type where a file or folder here has that name: as a model it is a path, which has a slash."""
    path = Path(typed)
    try:
        if path.is_dir():
            return f"the folder of that name which is here is written ./{typed}"
        if not path.is_file():
            return None
        with path.open("rb") as file:
            is_model = file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return None
    if is_model:
        return f"the file of that name which is here is written ./{typed}"
    return "the file of that name here is no GGUF file: `llmrun list` shows the models"


def read_own_names(path: Path | None = None) -> dict[str, HubRef]:
    """Return the user's names, none where they have no file; raises UsageError where it says what makes no sense."""
    path = path or own_names_file()
    try:
        return parse_own_names(path.read_text("utf-8"), str(path))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def parse_own_names(text: str, where: str) -> dict[str, HubRef]:
    """Read names from TOML: a table `[models]` of `"name" = "owner/repo:quant"`.

    where: the file's path, for the errors; UsageError names the line, or the entry.
    """
    import tomllib

    try:
        models = tomllib.loads(text).get("models", {})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is damaged: {error}", _EXAMPLE) from error
    if not isinstance(models, dict):
        raise UsageError(f"{where}: models is no table", _EXAMPLE)
    return {name.lower(): _own_entry(name, value, where) for name, value in models.items()}


def _own_entry(name: str, value: object, where: str) -> HubRef:
    try:
        is_name = parse_reference(name) == NameRef(name.lower())
        stands_for = parse_reference(value) if isinstance(value, str) else None
    except UsageError as error:
        raise UsageError(f"{where}: {name!r}: {error.message}", error.hint) from error
    if not is_name:
        raise UsageError(f"{where}: {name!r} cannot be a name: it means something else already", _EXAMPLE)
    if not isinstance(stands_for, HubRef):
        raise UsageError(f"{where}: {name!r} stands for no repository of the Hub but for {value!r}", _EXAMPLE)
    return stands_for


@functools.cache
def _index() -> dict[str, Entry]:
    return {_key(name): entry for entry in entries() for name in (entry.name, *entry.aliases)}


def _key(name: str) -> str:
    return name.lower().replace(":", "-")
