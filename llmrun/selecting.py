"""Which variant of a repository a person means by a quantization or a file name. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from llmrun.errors import NotFoundError
from llmrun.file_name import parse_file_name
from llmrun.grouping import Grouped
from llmrun.quant import parse_label
from llmrun.variant import Variant

_DYNAMIC = "UD-"  # unsloth's mixes: where there is no other Q4_K_XL than UD-Q4_K_XL, people leave it out


def select(grouped: Grouped, quant: str) -> Variant:
    """Return the variant that is meant by a quantization, or by any piece of a file's name that only one has.

    Raises NotFoundError where there is none, or more than one, with those there are, the nearest first.
    """
    wanted = parse_label(quant) or quant
    for found in _steps(grouped, wanted, quant.lower()):
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(variant.quant for variant in found)
            raise NotFoundError(f"{quant} may be any of {names}", f"name one of them: `:{found[0].quant}`")
    raise _not_found(grouped, wanted)


def select_file(grouped: Grouped, filename: str) -> Variant:
    """Return the variant that a file belongs to, of a split model any part; NotFoundError where nothing loads it."""
    for variant in (*grouped.variants, *grouped.others):
        if any(file.name == filename for file in variant.files):
            return variant
    for broken in grouped.unusable:
        if any(file.name == filename for file in broken.files):
            raise NotFoundError(f"{filename} {broken.reason}", _choices(grouped, filename))
    for sidecar in grouped.sidecars:
        if sidecar.file.name == filename:
            raise NotFoundError(f"{filename} is no model: it is one's {sidecar.kind} file", _choices(grouped, filename))
    raise NotFoundError(f"there is no file {filename}", _choices(grouped, filename))


def _steps(grouped: Grouped, wanted: str, typed: str) -> Iterator[list[Variant]]:
    """Give what matches, the strictest sense of the word first: the label, with and without `UD-`, then the files."""
    variants = grouped.variants
    yield [variant for variant in variants if variant.quant.lower() == wanted.lower()]
    yield [variant for variant in variants if variant.label == wanted]
    yield [variant for variant in variants if variant.label == _DYNAMIC + wanted]
    plain = wanted.removeprefix(_DYNAMIC)
    yield [variant for variant in variants if variant.label == plain]
    for place in (variants, grouped.others):
        yield [variant for variant in place if _stem(variant).endswith(typed)]
        yield [variant for variant in place if typed in _stem(variant)]


def _stem(variant: Variant) -> str:
    return parse_file_name(variant.files[0].name).stem.lower()


def _not_found(grouped: Grouped, wanted: str) -> NotFoundError:
    for broken in grouped.unusable:
        if parse_file_name(broken.files[0].name).label == wanted:
            return NotFoundError(f"{wanted}: {broken.files[0].name} {broken.reason}", _choices(grouped, wanted))
    return NotFoundError(f"there is no quantization {wanted}", _choices(grouped, wanted))


def _choices(grouped: Grouped, wanted: str) -> str:
    quants = [variant.quant for variant in grouped.variants]
    if not quants:
        return "no file here is a model: choose another repository"
    quants.sort(key=lambda quant: -difflib.SequenceMatcher(None, quant.lower(), wanted.lower()).ratio())
    return f"there are {', '.join(quants)}" if len(quants) > 1 else f"there is only {quants[0]}"
