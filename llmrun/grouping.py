"""The files of a repository as the quantizations of a model, what lies beside it, and what nobody can load. Pure.

Knows names and sizes; must not know what is in a file: a variant may still turn out to be no model to talk with.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llmrun.file_name import FileName, base_of_repo, parse_file_name
from llmrun.quant import find_label, why_not_loadable
from llmrun.repo_path import why_unsafe
from llmrun.variant import ModelFile, RemoteFile, Variant

# What a name only suggests ("imatrix", "mtp", "lora") is beside the model where it is this small against the largest
# file; whole models with such a word in their names are not: the fewest bits are 1.6 of 32.
_SMALL = 0.05
_MAX_PARTS_NAMED = 5
_WORD = re.compile(r"(?:[^-._ /]|(?<=[0-9])\.(?=[0-9]))+")  # 3.25bpw is one


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A file beside a model: what it is, by its name."""

    kind: Literal["mmproj", "imatrix", "draft", "vocab", "lora"]
    file: ModelFile


@dataclass(frozen=True, slots=True)
class Unusable:
    """Files that cannot be loaded, and why, in words that follow their names."""

    files: tuple[ModelFile, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Grouped:
    """The files of a repository.

    variants: the quantizations of its model, the smallest first, no `quant` twice. others: those of other models in it,
    which are had by the names of their files only.
    """

    variants: tuple[Variant, ...]
    others: tuple[Variant, ...] = ()
    sidecars: tuple[Sidecar, ...] = ()
    unusable: tuple[Unusable, ...] = ()


@dataclass(frozen=True, slots=True)
class _Named:
    file: ModelFile
    name: FileName


def group_files(files: Sequence[ModelFile], repo_id: str | None = None) -> Grouped:
    """Group the files of one repository, or of one folder; those that are no GGUF files are left out.

    repo_id: of files that are here, where the folder they lie in does not tell it.
    """
    safe, unusable = _check_paths(files)
    named = [one for one in (_Named(file, parse_file_name(file.name)) for file in safe) if one.name.kind != "other"]
    unusable += _pieces(named)
    sidecars = list(_sidecars(named))
    beside = {sidecar.file.name for sidecar in sidecars}
    models = [one for one in named if one.name.kind != "piece" and one.file.name not in beside]
    found, broken = _variants(models)
    once = {_stem(variant): variant for variant in sorted(found, key=lambda variant: -len(variant.files))}
    main, others = _main_model(list(once.values()), base_of_repo(repo_id) if repo_id else _repo_base(files))
    again = [variant for variant in found if variant is not once[_stem(variant)]]  # whole and in parts: whole is taken
    return Grouped(_told_apart(main), (*_told_apart(others), *again), tuple(sidecars), tuple(unusable + broken))


def _check_paths(files: Sequence[ModelFile]) -> tuple[list[ModelFile], list[Unusable]]:
    """Return the files that may be written to this machine, and those that may not; what is here already may stay."""
    safe: list[ModelFile] = []
    unusable: list[Unusable] = []
    for file in files:
        reason = why_unsafe(file.origin.path) if isinstance(file.origin, RemoteFile) else None
        if reason is None:
            safe.append(file)
        else:
            unusable.append(Unusable((file,), reason))
    return safe, unusable


def _pieces(named: Sequence[_Named]) -> list[Unusable]:
    wholes: dict[str, list[ModelFile]] = defaultdict(list)
    for one in named:
        if one.name.kind == "piece":
            wholes[one.name.stem].append(one.file)
    reason = "was cut into pieces by bytes, which nothing loads before they are joined"
    return [Unusable(tuple(files), reason) for files in wholes.values()]


def _sidecars(named: Sequence[_Named]) -> Iterator[Sidecar]:
    largest = max((one.file.size for one in named if one.name.kind != "piece"), default=0)
    for one in named:
        kind = one.name.kind
        if kind == "model" or kind == "piece" or kind == "other":
            continue
        if one.name.is_sure or (one.file.size < _SMALL * largest and one.name.count == 1):
            yield Sidecar(kind, one.file)


def _variants(models: Sequence[_Named]) -> tuple[list[Variant], list[Unusable]]:
    """Return what is whole, with its label or "" as the quantization, and what is not."""
    sets: dict[tuple[str, int], list[_Named]] = defaultdict(list)
    for one in models:
        sets[one.name.stem, one.name.count].append(one)
    found: list[Variant] = []
    unusable: list[Unusable] = []
    for parts in sets.values():
        parts.sort(key=lambda one: one.name.no)
        files = tuple(one.file for one in parts)
        name = parts[0].name
        reason = _missing(parts) or (why_not_loadable(name.label) if name.label else None)
        if reason is None:
            found.append(Variant(name.label or "", files, name.base))
        else:
            unusable.append(Unusable(files, reason))
    return found, unusable


def _missing(parts: Sequence[_Named]) -> str | None:
    count = parts[0].name.count
    absent = sorted(set(range(1, count + 1)) - {one.name.no for one in parts})
    if not absent:
        return None
    if len(absent) > _MAX_PARTS_NAMED:
        return f"{len(absent)} of {count} parts are missing"
    if len(absent) == 1:
        return f"part {absent[0]} of {count} is missing"
    return f"parts {', '.join(map(str, absent[:-1]))} and {absent[-1]} of {count} are missing"


def _repo_base(files: Sequence[ModelFile]) -> str:
    """Return the model's name as its repository has it, or the folder it lies in."""
    origin = files[0].origin if files else Path()
    return base_of_repo(origin.repo_id if isinstance(origin, RemoteFile) else origin.parent.name)


def _main_model(found: Sequence[Variant], repo: str) -> tuple[list[Variant], list[Variant]]:
    """Return the variants of the model that the repository is named after, else of that with the most, and the rest."""
    models: dict[str, list[Variant]] = defaultdict(list)
    ended = {variant.base for variant in found if _name(variant).base_ends}
    for variant in found:
        known = ended if _name(variant).base_ends else ended | {repo}
        base = variant.base if variant.quant else _nearest_base(variant.base, known)
        models[base].append(replace(variant, base=base))
    if not models:
        return [], []

    def fit(base: str) -> tuple[bool, bool, int, int]:
        is_near = base.startswith(repo) or repo.startswith(base)
        return base == repo, is_near, len(models[base]), sum(variant.size for variant in models[base])

    chosen = max(models, key=fit)
    return models[chosen], [variant for base in models if base != chosen for variant in models[base]]


def _nearest_base(base: str, known: Iterable[str]) -> str:
    """Return the shortest known name that this one goes on from: what follows it says how the file was made."""
    return min((other for other in known if other and f"{base}-".startswith(f"{other}-")), key=len, default=base)


def _told_apart(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return the variants, the smallest first, with a quantization each that no other of its model has."""
    same: dict[tuple[str, str], list[Variant]] = defaultdict(list)
    for variant in variants:
        same[variant.base, variant.quant].append(variant)
    named = [
        replace(variant, quant=quant)
        for alike in same.values()
        for variant, quant in zip(alike, _quants(alike), strict=True)
    ]
    taken: set[tuple[str, str]] = set()
    unique = []
    for variant in named:  # what differs in one label's names may be what another is called
        key = (variant.base, variant.quant)
        unique.append(replace(variant, quant=_stem(variant)) if key in taken else variant)
        taken.add(key)
    return tuple(sorted(unique, key=lambda variant: (variant.base, variant.size, variant.quant)))


def _quants(alike: Sequence[Variant]) -> list[str]:
    """Return a quantization for each of several with one label: with what differs in their names beside the label."""
    stems = [_stem(variant) for variant in alike]
    if len(stems) == 1:
        return [alike[0].quant or _after_base(stems[0], alike[0].base)]
    for names in ([stem.rpartition("/")[2] for stem in stems], stems):
        differing = _differing(names)
        quants = [_decorated(alike[0].quant, name, part) for name, part in zip(names, differing, strict=True)]
        if len(set(quants)) == len(quants) and all(quants) and not any(map(_has_label, differing)):
            return quants
    return stems


def _decorated(label: str, stem: str, part: str) -> str:
    """Return a label with a part of the name on the side of it where the name has it."""
    found = find_label(stem)
    is_behind = found is not None and part != "" and stem.rindex(part) > found.start
    return "-".join(filter(None, (label, part) if is_behind else (part, label)))


def _has_label(part: str) -> bool:
    """Return whether a label was cut to pieces, or would stand there twice; so many bits per weight are none here."""
    found = find_label(part)
    return found is not None and not found.label.endswith("bpw")


def _differing(stems: Sequence[str]) -> list[str]:
    """Return of each name what it does not share with the others at its beginning and its end, in whole words."""
    words = [list(_WORD.finditer(stem)) for stem in stems]
    shortest = min(map(len, words))
    head = 0
    while head < shortest and len({stem[head].group().lower() for stem in words}) == 1:
        head += 1
    tail = 0
    while tail < shortest - head and len({stem[-1 - tail].group().lower() for stem in words}) == 1:
        tail += 1
    spans = [stem[head : len(stem) - tail] for stem in words]
    return [stem[span[0].start() : span[-1].end()] if span else "" for stem, span in zip(stems, spans, strict=True)]


def _after_base(stem: str, base: str) -> str:
    """Return a name without the model's in front of it, or all of it where nothing would be left."""
    name = stem.rpartition("/")[2]
    words = list(re.finditer(r"[^-_. ]+", name))  # as many as the base has between its dashes
    rest = words[len(base.split("-")) :]
    return name[rest[0].start() :] if rest else name


def _stem(variant: Variant) -> str:
    return _name(variant).stem


def _name(variant: Variant) -> FileName:
    return parse_file_name(variant.files[0].name)
