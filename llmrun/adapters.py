"""LoRA adapters that lie on this machine: from what the user typed to headers that were checked.

Must not know how an adapter is loaded: the engine sees none whose header was not looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from llmrun.errors import GGUFError, UsageError
from llmrun.gguf.adapter import Adapter, check_base, parse_adapter
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.source import read_header
from llmrun.settings import Lora

_PEFT = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")  # what peft saves
_MOST = 16  # adapters at once
_T = TypeVar("_T")


def parse_lora(text: str) -> Lora:
    """Read PATH or PATH:SCALE; the path is made absolute. Raises UsageError for a scale that adds nothing."""
    head, colon, tail = text.rpartition(":")
    scale = _number(tail) if colon and head else None
    path = text if scale is None else head
    if not path:
        raise UsageError("--lora needs the path of an adapter", "--lora style.gguf, or --lora style.gguf:0.5")
    if scale is not None and (scale == 0 or not math.isfinite(scale)):
        raise UsageError(f"an adapter cannot be added {tail} times", "a scale of 1 is all of it; leave out what is 0")
    try:
        absolute = Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"there is no home directory for {path}", "give the whole path") from error
    return Lora(str(absolute), 1.0 if scale is None else scale)


def parse_loras(texts: Sequence[str] | None) -> tuple[Lora, ...]:
    """Read all adapters of a command line; raises UsageError as parse_lora, for too many, and for one given twice."""
    loras = tuple(map(parse_lora, texts or ()))
    paths = [lora.path for lora in loras]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise UsageError(f"the adapter {Path(twice[0]).name} is given twice", "give it once, with the scale you want")
    if len(loras) > _MOST:
        raise UsageError(f"{len(loras)} adapters are too many: at most {_MOST} are run at once")
    return loras


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read_adapters(loras: Sequence[Lora]) -> tuple[Adapter, ...]:
    """Read the headers of adapters; raises NotFoundError, GGUFError or UsageError, which say what a file is."""
    return tuple(_read(Path(lora.path)) for lora in loras)


def _read(path: Path) -> Adapter:
    if path.suffix in (".safetensors", ".bin") or _has_peft(path):
        folder = path if path.is_dir() else path.parent
        raise UsageError(
            f"{path.name} is an adapter as PyTorch keeps it, not a GGUF file",
            f"llama.cpp's `python convert_lora_to_gguf.py {folder}` makes one of it",
        )
    header = read_header(path)
    return _about(path, lambda: parse_adapter(header))


def _has_peft(path: Path) -> bool:
    try:
        return any((path / name).is_file() for name in _PEFT)
    except OSError:  # who reads the header says what is wrong with the path
        return False


def check_adapters(loras: Sequence[Lora], adapters: Sequence[Adapter], base: GGUFHeader) -> None:
    """Raise GGUFError where an adapter was not made for the model of this header."""
    for lora, adapter in zip(loras, adapters, strict=True):
        _check(Path(lora.path), adapter, base)


def _check(path: Path, adapter: Adapter, base: GGUFHeader) -> None:
    _about(path, lambda: check_base(adapter, base))


def _about(path: Path, work: Callable[[], _T]) -> _T:
    try:
        return work()
    except GGUFError as error:
        raise GGUFError(f"{path.name} cannot be used with --lora: {error.message}", error.hint) from error
