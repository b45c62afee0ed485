"""What the name of a file in a repository says of it: a model, part of one, or something beside it. Pure.

Names follow no rule that all obey; this is how those who publish many models write them. ggml's own (docs/gguf.md):
`[mmproj-|mtp-]Name-Size-Finetune-Version-Label[-00001-of-00003].gguf`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from llmrun.quant import FoundLabel, find_label

Kind = Literal["model", "mmproj", "imatrix", "draft", "vocab", "lora", "piece", "other"]

_PART = re.compile(r"(?P<stem>.+)-(?P<no>[0-9]{5})-of-(?P<count>[0-9]{5})", re.DOTALL)
# A file above what the Hub took in one (50 GB), cut by bytes: x.gguf.part1of2, x.gguf-split-a, x.gguf.part_aa
_PIECE = re.compile(
    r"(?P<whole>.+\.gguf)[-._](?:(?:part|split)[-._]?)?(?:[0-9]+(?:[-_]?of[-_]?[0-9]+)?|[a-z]{1,2})"
    r"|(?P<chunks>.+)-chunk-[0-9]+-of-[0-9]+\.gguf",
    re.IGNORECASE,
)
# "imatrix_unsloth.gguf_file" is one that the Hub is not to list as a model
_MATRIX = re.compile(r".*imatrix.*\.(?:gguf|gguf_file|dat|imatrix)|.+\.imatrix", re.IGNORECASE | re.DOTALL)
# Sure: nothing else is called so. The others are also words in the names of models: "…-MTP", "…-LoRA-merged", and
# "…-imatrix" where a model was quantized with one.
_SURE: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("mmproj", re.compile(r"mm[-_]?proj", re.IGNORECASE)),
    ("draft", re.compile(r"^(?:mtp|eagle3?|dflash|dspark)[-_.]|[-_.](?:dflash|eagle3)(?:[-_.]|$)", re.IGNORECASE)),
    ("vocab", re.compile(r"^ggml-vocab-", re.IGNORECASE)),
)
_LIKELY: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("imatrix", re.compile(r"(?:^|[-_.])imatrix(?:[-_.]|$)", re.IGNORECASE)),
    ("draft", re.compile(r"(?:^|[-_.])(?:assistant|draft|mtp)(?:[-_.]|$)", re.IGNORECASE)),
    ("vocab", re.compile(r"(?:^|[-_.])vocab(?:[-_.]|$)", re.IGNORECASE)),
    ("lora", re.compile(r"(?:^|[-_.])lora(?:[-_.]|$)", re.IGNORECASE)),
)
# Folders that hold what lies beside a model, or whole models that can do it too: the size decides
_FOLDERS: dict[str, Kind] = {
    "mmproj": "mmproj",
    "mtp": "draft",
    "eagle3": "draft",
    "dflash": "draft",
    "dspark": "draft",
    "lora": "lora",
}
# How it was made, and that it is GGUF: neither is the model's name. Nor is "i1-" a part of the label: it says that the
# weights' importance was measured, not what the types are, and whole repositories have it in every name.
_MADE = re.compile(r"[-._ ](?:i1|imat|imatrix|gguf|g[0-9]{2,3}|[0-9]+(?:\.[0-9]+)?bpw)(?=[-._ ]|$)", re.IGNORECASE)
# Where recipes of several types begin that are no label: "…-IQ2XXS-w2Q2K-AProjQ8", "…-Q4KExperts-F16HC"
_RECIPE = re.compile(r"[-._][A-Za-z0-9]*I?Q[1-8](?:_?[KX0]|[A-Z]|[-._]|$)")
_SEPARATORS = re.compile(r"[-_. ]+")


@dataclass(frozen=True, slots=True)
class FileName:
    """What a name says.

    kind: "piece" of a file that was cut by bytes; "other" is no GGUF file. is_sure: whether nothing else is called so;
    where not, its size decides. stem: the path without part and ending, of a piece the whole file's path. label: None
    where the name tells no quantization. base: the model's name in lower case; base_ends: whether the name tells where
    it ends, at a label or a recipe. no, count: which part of how many.
    """

    kind: Kind
    is_sure: bool
    stem: str
    label: str | None
    base: str = ""
    base_ends: bool = True
    no: int = 1
    count: int = 1


def parse_file_name(path: str) -> FileName:
    """Read the path of a file in its repository."""
    folder, slash, name = path.rpartition("/")
    if match := _PIECE.fullmatch(name):
        return FileName("piece", True, f"{folder}{slash}{match['whole'] or match['chunks']}", None)
    if _MATRIX.fullmatch(name) and not name.lower().endswith(".gguf"):
        return FileName("imatrix", True, f"{folder}{slash}{name}", None)
    if not name[1:].lower().endswith(".gguf"):
        return FileName("other", True, path, None)
    stem, no, count = _split_part(name[: -len(".gguf")])
    kind, is_sure = _kind(folder, stem)
    found = find_label(stem)
    label = found or find_label(folder)
    base, base_ends = _base(stem, found)
    path_stem = f"{folder}{slash}{stem}"
    return FileName(kind, is_sure, path_stem, label.label if label else None, base, base_ends, no, count)


def base_of_repo(repo_id: str) -> str:
    """Return the model's name as a repository's name has it: "bartowski/Qwen_Qwen3-8B-GGUF" is "qwen-qwen3-8b"."""
    name = repo_id.rpartition("/")[2]
    return _base(name, find_label(name))[0]


def _split_part(stem: str) -> tuple[str, int, int]:
    match = _PART.fullmatch(stem)
    if match is None or not 1 <= int(match["no"]) <= int(match["count"]):
        return stem, 1, 1
    return match["stem"], int(match["no"]), int(match["count"])


def _kind(folder: str, stem: str) -> tuple[Kind, bool]:
    """Return what the name says it is; a folder of that name says so too, for what is small: "dspark/Q8_0.gguf"."""
    for kind, pattern in _SURE:
        if pattern.search(stem):
            return kind, True
    for kind, pattern in _LIKELY:
        if pattern.search(stem):
            return kind, False
    kind = _FOLDERS.get(folder.rpartition("/")[2].lower(), "model")
    return kind, kind == "model"


def _base(stem: str, label: FoundLabel | None) -> tuple[str, bool]:
    """Return the model's name in a file's, and whether the file's tells where that ends."""
    recipe = None if label else _RECIPE.search(stem)
    if label is not None:
        stem = stem[: label.start] + stem[label.end :]
    elif recipe is not None:
        stem = stem[: recipe.start()]
    name = _SEPARATORS.sub("-", _MADE.sub("", f"-{stem}")).strip("-").lower()
    return name, label is not None or recipe is not None
