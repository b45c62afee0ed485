"""Models that lie on this machine: the files a reference means, as variants.

A folder of GGUF files is one model in several quantizations, if that is what they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmrun.embedded import embedded_file
from llmrun.errors import GGUFError, NotFoundError, UsageError
from llmrun.file_name import parse_file_name
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.purpose import check_writes_text
from llmrun.gguf.source import check_file, read_model_header, split_paths
from llmrun.gguf.summary import summarize
from llmrun.reference import GUIDE_QUANTS, GuideRef, LocalRef, hub_spelling
from llmrun.variant import ModelFile, Variant, quant_in_name

Found = tuple[Variant, GGUFHeader]
HereRef = LocalRef | GuideRef


def locate(ref: HereRef) -> Path:
    """Return the file of a reference; raises NotFoundError or GGUFError if it cannot be a model."""
    path = embedded_file(ref.quant or GUIDE_QUANTS[0]) if isinstance(ref, GuideRef) else _expand(ref.path)
    try:
        check_file(path)
    except NotFoundError as error:
        if meant := hub_spelling(path):
            raise NotFoundError(error.message, f"if it is one of the Hub: `{meant}`") from error
        raise
    return path


def check_here(ref: HereRef) -> None:
    """Raise NotFoundError or GGUFError where a reference means nothing that could be run."""
    if not (isinstance(ref, LocalRef) and _files_in(_expand(ref.path))):
        locate(ref)


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise NotFoundError(f"there is no home directory for {path}", "give the whole path") from error


def variants_of(ref: HereRef) -> tuple[Found, ...]:
    """Return the variants a reference leaves open, each with its header.

    Raises NotFoundError or GGUFError for what cannot be run, UsageError for a folder of several models.
    """
    if isinstance(ref, GuideRef):
        quants = GUIDE_QUANTS if ref.quant is None else (ref.quant,)
        return tuple(read_variant(embedded_file(quant)) for quant in quants)
    folder = _expand(ref.path)
    if files := _files_in(folder):
        return _variants_in(folder, files)
    path = locate(ref)
    return (read_variant(path),)


def read_writing_model(path: Path) -> GGUFHeader:
    """Return the header of a file, all parts of it; raises GGUFError where it is no model that writes text."""
    header = read_model_header(path)
    try:
        check_writes_text(header)
    except GGUFError as error:
        raise GGUFError(f"{path} cannot chat: {error.message}", error.hint) from error
    return header


def read_variant(path: Path) -> Found:
    """Return a file as a variant, with all parts of its model; raises GGUFError for no model that writes text."""
    return _variant(path, read_writing_model(path))


def _variant(path: Path, header: GGUFHeader) -> Found:
    summary = summarize(header)
    label = quant_in_name(path.stem) or summary.quant or summary.mix[0].type
    files = tuple(ModelFile(part.name, part.stat().st_size, part) for part in split_paths(path))
    return Variant(label, files), header


def drafts_beside(path: Path) -> tuple[ModelFile, ...]:
    """Return the files in a model's folder that are drafts by their names, the model's own left out."""
    own = set(split_paths(path))
    drafts = (one for one in _files_in(path.parent) if one not in own and parse_file_name(one.name).kind == "draft")
    return tuple(ModelFile(one.name, one.stat().st_size, one.absolute()) for one in drafts)


def _files_in(folder: Path) -> tuple[Path, ...]:
    """Return a folder's GGUF files in order, of those in several parts the first; nothing for what is no folder."""
    try:
        files = [path for path in sorted(folder.glob("*.gguf")) if path.is_file()] if folder.is_dir() else []
    except OSError:  # a name the system will not take, a folder that may not be read: who opens it says so
        return ()
    return tuple(path for path in files if split_paths(path)[0] == path)


def _variants_in(folder: Path, files: Sequence[Path]) -> tuple[Found, ...]:
    """Return a folder's variants; files that write no text, as projectors for images, are passed over."""
    found: list[Found] = []
    for path in files:
        header = read_model_header(path)
        try:
            check_writes_text(header)
        except GGUFError:
            continue
        found.append(_variant(path, header))
    if not found:
        raise GGUFError(f"no file in {folder} is a model that writes text", "name a file that is")
    if others := sorted({_kind(header) for _, header in found} - {_kind(found[0][1])}):
        names = f"{found[0][0].path.name} and {next(v.path.name for v, h in found if _kind(h) == others[0])}"
        raise UsageError(f"{folder} holds several models: {names} are no variants of one", "name one file")
    return _told_apart(found)


def _kind(header: GGUFHeader) -> tuple[str, int, int]:
    return (header.architecture, header.uint(header.arch("block_count")), header.uint(header.arch("embedding_length")))


def _told_apart(found: Sequence[Found]) -> tuple[Found, ...]:
    """Return the variants with labels that are each there once: of several with one label the files' names."""
    counts = Counter(variant.quant for variant, _ in found)
    return tuple(
        (variant if counts[variant.quant] == 1 else replace(variant, quant=variant.path.stem), header)
        for variant, header in found
    )
