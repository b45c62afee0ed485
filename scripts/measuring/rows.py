"""Load logs of other machines: one JSON object a line, and any of its fields may be missing or nonsense.

Knows how a row is written; must not know what memory a model takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_BUILD = re.compile(r"\bb?(\d{4,6})\b")
_DRAFTS = re.compile(r"rs_seq\W{0,3}(\d{1,3})\b")
_WITHOUT_FLASH = re.compile(r"\bno flash attention|\bflash attention (is )?off|\bno FA\b", re.IGNORECASE)
_AUTO_FLASH = re.compile(r"Flash Attention was auto, set to (enabled|disabled)")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class PrintedCache:
    """One line "size = ..." of a KV cache; sizes in MiB, None is not printed."""

    size: float | None
    k: float | None
    v: float | None
    cells: int | None
    layers: int | None
    seqs: int | None
    streams: int | None
    type_k: str | None
    type_v: str | None


@dataclass(frozen=True, slots=True)
class PrintedState:
    """What is printed of the recurrent state; sizes in MiB. rs_seq: states a sequence has for drafts beside its own."""

    size: float | None
    r: float | None
    s: float | None
    p: float | None
    cells: int | None
    seqs: int | None
    rs_seq: int | None


@dataclass(frozen=True, slots=True)
class LoadLog:
    """One row. facts: the model's sizes, printed ones before those known of the model; lists: those of each layer.

    n_ctx_of_stream: n_ctx was read off a cache, not off the context. offloaded: layers on devices, of how many.
    flash_attn: None is not told. devices, state_devices: the buffers of KV cache and state on each, MiB.
    """

    id: str
    engine: str
    architecture: str | None
    model: str
    family: str | None
    build: int | None
    n_ctx: int | None
    n_ctx_of_stream: bool
    n_batch: int | None
    n_ubatch: int | None
    n_seq_max: int | None
    kv_unified: bool | None
    swa_full: bool
    flash_attn: bool | None
    type_k: str | None
    type_v: str | None
    offloaded: tuple[int, int] | None
    facts: Mapping[str, int]
    lists: Mapping[str, tuple[int, ...]]
    caches: tuple[PrintedCache, ...]
    cells: Mapping[str, int]
    devices: Mapping[str, float]
    devices_complete: bool
    state: PrintedState | None
    state_devices: Mapping[str, float]
    quote: str

    @property
    def old_format(self) -> bool:
        """Whether caches are printed, but none with its cells: so it was before May 2025."""
        return bool(self.caches) and all(cache.cells is None for cache in self.caches)


def read_rows(text: str) -> list[LoadLog | str]:
    """Return every row that can be read, in order, and for the others why not."""
    rows: list[LoadLog | str] = []
    for number, line in enumerate(text.split("\n"), 1):  # a text within a row may have other line ends
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError):
            raw = None
        rows.append(parse_row(raw, f"line {number}") if isinstance(raw, dict) else f"line {number}")
    return rows


def parse_row(raw: Mapping[str, Any], name: str) -> LoadLog:
    """Return a row's fields; what is missing or of the wrong kind is None, or empty."""
    measured = _mapping(raw.get("measured"))
    caches = tuple(_cache(cache) for cache in _list(measured.get("kv_caches")) if isinstance(cache, dict))
    facts = _facts(raw.get("hparams_known")) | _facts(raw.get("hparams"))
    quote, words = _text(raw.get("quote")) or "", f"{_text(raw.get('note')) or ''} {_text(raw.get('model')) or ''}"
    return LoadLog(
        id="".join(c if c.isprintable() else "?" for c in _text(raw.get("id")) or name),
        engine=_text(raw.get("engine")) or "llama.cpp",
        architecture=_architecture(raw.get("arch")),
        model=_text(raw.get("model")) or "",
        family=_text(raw.get("family")),
        build=_build(raw.get("build")),
        n_ctx=_whole(raw.get("n_ctx")),
        n_ctx_of_stream=raw.get("n_ctx_origin") is not None,
        n_batch=_whole(raw.get("n_batch")),
        n_ubatch=_whole(raw.get("n_ubatch")),
        n_seq_max=_whole(raw.get("n_seq_max")) or next((cache.seqs for cache in caches if cache.seqs), None),
        kv_unified=_truth(raw.get("kv_unified")),
        swa_full=_truth(raw.get("swa_full")) or False,
        flash_attn=_flash_attn(raw.get("flash_attn"), words, quote),
        type_k=_text(raw.get("kv_type_k")) or next((cache.type_k for cache in caches if cache.type_k), None),
        type_v=_text(raw.get("kv_type_v")) or next((cache.type_v for cache in caches if cache.type_v), None),
        offloaded=_offloaded(raw.get("offloaded")),
        facts=MappingProxyType(facts),
        lists=MappingProxyType(_layer_lists(raw.get("hparams_known")) | _layer_lists(raw.get("hparams"))),
        caches=caches,
        cells=MappingProxyType(_facts(measured.get("kv_cells_by_cache"))),
        devices=MappingProxyType(_sizes(measured.get("kv_by_device_mib"))),
        devices_complete=not measured.get("kv_by_device_incomplete"),
        state=_state(measured, words),
        state_devices=MappingProxyType(_sizes(measured.get("recurrent_by_device_mib"))),
        quote=quote,
    )


def _cache(raw: Mapping[str, Any]) -> PrintedCache:
    return PrintedCache(
        size=_size(raw.get("size_mib")),
        k=_size(raw.get("k_mib")),
        v=_size(raw.get("v_mib")),
        cells=_whole(raw.get("cells")),
        layers=_whole(raw.get("layers")),
        seqs=_whole(raw.get("seqs")),
        streams=_whole(raw.get("streams")),
        type_k=_text(raw.get("type_k")),
        type_v=_text(raw.get("type_v")),
    )


def _state(measured: Mapping[str, Any], words: str) -> PrintedState | None:
    raw = _mapping(measured.get("recurrent"))
    size = _size(raw.get("size_mib"))
    size = _size(measured.get("recurrent_mib")) if size is None else size
    if size is None and not raw:
        return None
    told, drafts = _whole(raw.get("rs_seq")), _DRAFTS.search(words)
    return PrintedState(
        size=size,
        r=_size(raw.get("r_mib")),
        s=_size(raw.get("s_mib")),
        p=_size(raw.get("p_mib")),
        cells=_whole(raw.get("cells")),
        seqs=_whole(raw.get("seqs")),
        rs_seq=int(drafts[1]) if told is None and drafts else told,
    )


def _flash_attn(raw: object, words: str, quote: str) -> bool | None:
    """Whether flash attention was on in the end: "0", "1", "on", "auto", "auto -> enabled" and so on."""
    resolved = _AUTO_FLASH.search(quote)
    said = [resolved[1]] if resolved else str(raw).lower().rpartition("->")[2].split()
    if said and said[0] in {"1", "true", "on", "enabled", "yes"}:
        return True
    if said and said[0] in {"0", "false", "off", "disabled", "no"}:
        return False
    return False if _WITHOUT_FLASH.search(words) else None


def _architecture(raw: object) -> str | None:
    """A name as llama.cpp has them, not a remark such as "not printed"."""
    name = (_text(raw) or "").strip()
    return name if _ARCHITECTURE.fullmatch(name) and name not in {"unknown", "none"} else None


def _build(raw: object) -> int | None:
    found = _BUILD.search(str(raw)) if raw is not None else None
    return int(found[1]) if found else None


def _offloaded(raw: object) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", _text(raw) or "")
    return (int(found[1]), int(found[2])) if found else None


def _facts(raw: object) -> dict[str, int]:
    found = {key: _whole(value) for key, value in _mapping(raw).items()}
    return {key: value for key, value in found.items() if value is not None}


def _layer_lists(raw: object) -> dict[str, tuple[int, ...]]:
    """What is printed as one number a layer: [0, 0, 8, 0]."""
    found = {key: [_whole(item) for item in _list(value)] for key, value in _mapping(raw).items()}
    return {
        key: tuple(i for i in items if i is not None) for key, items in found.items() if items and None not in items
    }


def _sizes(raw: object) -> dict[str, float]:
    found = {key: _size(value) for key, value in _mapping(raw).items()}
    return {key: value for key, value in found.items() if value is not None}


def _mapping(raw: object) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _list(raw: object) -> list[Any]:
    return raw if isinstance(raw, list) else []


def _text(raw: object) -> str | None:
    return raw if isinstance(raw, str) and raw else None


def _truth(raw: object) -> bool | None:
    return raw if isinstance(raw, bool) else None


def _size(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return None
    return float(raw) if 0 <= raw < 1e12 else None  # what is no number is not in this range either


def _whole(raw: object) -> int | None:
    size = _size(raw)
    return int(size) if size is not None and size == int(size) and size < 1 << 40 else None
