"""Models as Ollama's API describes them, by what their files say. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llmrun.engine.protocol import ModelInfo
from llmrun.gguf.header import Entry, GGUFHeader, SkippedArray
from llmrun.gguf.summary import summarize
from llmrun.sampling import GGUF_KEYS
from llmrun.server.loaded import LoadedNow
from llmrun.server.ollama.answer import written_time
from llmrun.units import format_count

_MOST = 5  # elements of an array that is told of without being asked: Ollama's (server/routes.go, getModelData)
_TEMPLATE = "tokenizer.chat_template"
_WIDTH = 30  # of a parameter's name
_FOREVER = timedelta(days=36500)

# What gives a tokenizer away that can fill gaps (gguf.md; llama-vocab.cpp, LLM_KV_TOKENIZER_FIM_* and their elders)
_INFILL = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
_THINKING = ("enable_thinking", "reasoning_effort", "</think>", "</thinking>", "[/THINK]")


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """A model as it lies here. size: bytes of all files. quant: as people know it. digest: see digest_of."""

    name: str
    header: GGUFHeader
    quant: str
    size: int
    modified: datetime
    digest: str


def shown_name(name: str) -> str:
    """Return a name with a tag, as Ollama's clients expect every name to have one."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def digest_of(files: Iterable[tuple[str, int, float]]) -> str:
    """Return the sha256 of a list of files: name, bytes, and when it was changed in seconds since 1970.

    As Ollama's digest is that of a list which names the files, and not of what is in them: it tells one model from
    another, and the same from what it was before.
    """
    text = "".join(f"{name}\0{size}\0{changed}\n" for name, size, changed in files)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def details_of(header: GGUFHeader, quant: str) -> dict[str, Any]:
    """Return what is told of a model wherever it is named."""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": header.architecture,
        "families": [header.architecture],
        "parameter_size": format_count(header.n_elements),
        "quantization_level": quant,
    }


def tag_of(model: ModelOnDisk) -> dict[str, Any]:
    """Return a model as it stands in the list of all."""
    name = shown_name(model.name)
    return {
        "name": name,
        "model": name,
        "modified_at": written_time(model.modified),
        "size": model.size,
        "digest": model.digest,
        "details": details_of(model.header, model.quant),
    }


def show_of(model: ModelOnDisk, info: ModelInfo | None, *, verbose: bool) -> dict[str, Any]:
    """Return all that is told of a model. info: where it is loaded. verbose: with long arrays, if kept."""
    summary = summarize(model.header)
    return {
        "modelfile": f"# `llmrun show {model.name}` tells more\nFROM {model.name}\n",
        "parameters": parameters_of(info),
        "template": summary.chat_template or "",
        "license": summary.license or "",
        "details": details_of(model.header, model.quant),
        "model_info": info_of(model.header, verbose=verbose),
        "capabilities": capabilities_of(model.header, info),
        "modified_at": written_time(model.modified),
    }


def parameters_of(info: ModelInfo | None) -> str:
    """Return what a model is run with, a line each: the context of a loaded one, and its file's own sampling."""
    if info is None:
        return ""
    lines = [("num_ctx", f"{info.n_ctx}")]
    lines += [(name, f"{info.sampling[key]:g}") for name, key in GGUF_KEYS.items() if key in info.sampling]
    return "\n".join(f"{name:<{_WIDTH}} {value}" for name, value in lines)


def capabilities_of(header: GGUFHeader, info: ModelInfo | None) -> list[str]:
    """Return what a model can do. A loaded one has shown it; of others it is what their files speak of."""
    template = header.metadata.get(_TEMPLATE)
    text = template.value if template is not None and isinstance(template.value, str) else ""
    able = ["completion"]
    if info.vision if info is not None else False:
        able.append("vision")
    if info.tools is not None if info is not None else "tools" in text:
        able.append("tools")
    if info.infill if info is not None else any(key in header.metadata for key in _INFILL):
        able.append("insert")
    if info.thinking.can_think if info is not None else any(mark in text for mark in _THINKING):
        able.append("thinking")
    return able


def info_of(header: GGUFHeader, *, verbose: bool) -> dict[str, Any]:
    """Return a file's metadata; long arrays are null where nobody asked for them, and where they were not kept."""
    told = {key: _told(entry, verbose=verbose) for key, entry in header.metadata.items() if key != _TEMPLATE}
    return {_as_text(key): value for key, value in told.items()} | {"general.parameter_count": header.n_elements}


def _told(entry: Entry, *, verbose: bool) -> Any:
    value = entry.value
    if isinstance(value, SkippedArray):
        return None
    if isinstance(value, tuple):
        return [_plain(item) for item in value] if verbose or len(value) <= _MOST else None
    return _plain(value)


def _plain(value: float | str) -> Any:
    """Return a value as JSON can have it: no text with bytes that are none, no number without an end."""
    if isinstance(value, str):
        return _as_text(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def running_of(model: ModelOnDisk, loaded: LoadedNow, now: datetime) -> dict[str, Any]:
    """Return a loaded model. One that stays until its memory is needed is said to for a century, as Ollama does."""
    name = shown_name(model.name)
    stays = _FOREVER if loaded.expires_in is None else timedelta(seconds=loaded.expires_in)
    return {
        "name": name,
        "model": name,
        "size": loaded.bytes,
        "digest": model.digest,
        "details": details_of(model.header, model.quant),
        "expires_at": written_time(now + stays),
        "size_vram": sum(size for pool, size in loaded.pools.items() if pool != "host"),
        "context_length": loaded.n_ctx,
    }
