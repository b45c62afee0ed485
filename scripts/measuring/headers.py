"""A row of a load log to the header its model's file would have: metadata alone, under the keys a real file carries.

Knows which facts of a row are which keys; must not know how memory follows from them. What a row does not tell is not
made up: `Unjudged` says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmrun.gguf.encode import build_header
from llmrun.gguf.header import Entry, GGUFHeader, ValueType
from scripts.measuring.rows import LoadLog

# What is not printed of models whose row names no architecture (their files on the Hub).
_ARCHITECTURES = {"glm-5": "glm-dsa", "flash-next": "qwen4exp"}
_INDEXER_WIDTH = {"qwen4exp": 128}
_MAX_LAYERS = 1024  # beyond llama.cpp's own limit; keys are made for each of them
_GLM_5_2_CONTEXT = 1 << 20  # from here on only some of its layers have an indexer
# One architecture for all that are alike to the arithmetic, given what a row says of layers, heads and windows.
_FAMILIES = {
    **dict.fromkeys(("gqa", "mha", "mqa", "moe"), "llama"),
    **dict.fromkeys(("iswa", "iswa-legacy-full"), "gemma4"),
    **dict.fromkeys(("mla", "mla-legacy-mha"), "deepseek2"),
    "hybrid": "qwen35",
    "recurrent": "mamba",
}
_MLA = frozenset({"deepseek2", "deepseek32", "glm-dsa", "mistral4"})
_LISTS_WINDOWS = frozenset({"gemma4", "granite_swa", "mimo2", "step35"})
_RECURRENT = frozenset({"mamba", "mamba2"})
_BY_HEADS = frozenset({"granitehybrid", "jamba", "lfm2", "lfm2moe"})
_BY_INTERVAL = frozenset({"qwen3next", "qwen35", "qwen35moe", "qwen4exp"})
_STATE_KEYS = {
    "ssm_d_conv": "ssm.conv_kernel",
    "ssm_d_inner": "ssm.inner_size",
    "ssm_d_state": "ssm.state_size",
    "ssm_n_group": "ssm.group_count",
    "ssm_dt_rank": "ssm.time_step_rank",
    "shortconv_l_cache": "shortconv.l_cache",
}
_Keys = dict[str, int | tuple[int, ...]]


class Unjudged(Exception):  # noqa: N818  it is no error: the row does not say enough
    """Why a row, or a part of it, cannot be judged; the same words for the same reason."""


def architecture_of(log: LoadLog) -> str:
    """Return the architecture a row names, or whose model it names, or one that is alike to it."""
    if log.architecture:
        return log.architecture
    for part, name in _ARCHITECTURES.items():
        if part in log.model.lower():
            return name
    if log.family not in _FAMILIES:
        raise Unjudged("architecture not printed")
    if log.family == "hybrid" and "shortconv_l_cache" in log.facts:
        return "lfm2"
    if log.family == "hybrid" and log.facts.get("attn_layers") == log.facts.get("n_layer"):
        return "falcon-h1"
    return _FAMILIES[log.family]


def header_of(log: LoadLog) -> GGUFHeader:
    """Return the header of the row's model; raises Unjudged, and GGUFError for what no file can say."""
    name, facts = architecture_of(log), log.facts
    n_all, n_draft = _layers(log, name)
    keys: _Keys = {"block_count": n_all, "context_length": facts.get("n_ctx_train") or log.n_ctx or 1}
    keys["vocab_size"] = facts.get("n_vocab", 1)
    if n_draft:
        keys["nextn_predict_layers"] = n_draft
    keys |= {key: facts[fact] for fact, key in _STATE_KEYS.items() if fact in facts}
    keys |= _indexer_keys(log, name)
    keys |= {"attention.head_count": 0} if name in _RECURRENT else _attention_keys(log, name, n_all)
    keys |= _layer_kinds(log, name, n_all - n_draft)
    keys.setdefault("embedding_length", _embedding_length(log, name, keys))
    metadata = {f"{name}.{key}": _entry(value) for key, value in keys.items()}
    metadata["general.architecture"] = Entry(ValueType.STRING, name)
    try:
        return build_header(3, metadata, ())
    except ValueError as error:
        raise Unjudged("sizes that no file can have") from error


def has_state_sizes(log: LoadLog) -> bool:
    """Whether the row tells what a recurrent state is made of."""
    mamba = {"ssm_d_conv", "ssm_d_inner", "ssm_d_state", "ssm_n_group"}
    return mamba <= log.facts.keys() or {"shortconv_l_cache", "n_embd"} <= log.facts.keys()


def _entry(value: int | tuple[int, ...]) -> Entry:
    if isinstance(value, tuple):
        return Entry(ValueType.ARRAY, value, ValueType.UINT32)
    return Entry(ValueType.UINT32, value)


def _layers(log: LoadLog, name: str) -> tuple[int, int]:
    """All layers, and how many of them are for drafting."""
    facts = log.facts
    n_layer = facts.get("n_layer")
    if not n_layer:
        raise Unjudged("number of layers not known")
    if max(n_layer, facts.get("attn_layers", 0) + facts.get("recr_layers", 0)) > _MAX_LAYERS:
        raise Unjudged("more layers than a model can have")
    told = facts.get("n_layer_nextn", facts.get("nextn_predict_layers"))
    if told is not None:
        return n_layer, told
    kept = facts.get("kv_layers", n_layer)
    if name in _BY_INTERVAL:
        kept = facts.get("attn_layers", n_layer) + facts.get("recr_layers", 0)
    if 0 < kept < n_layer:
        return n_layer, n_layer - kept
    counted = log.offloaded[1] - 1 if log.offloaded else n_layer  # the output is counted with them
    return max(counted, n_layer), max(counted - n_layer, 0)


def _indexer_keys(log: LoadLog, name: str) -> _Keys:
    width = log.facts.get("indexer_head", _INDEXER_WIDTH.get(name))
    if width is None or name not in {"glm-dsa", "deepseek32", "qwen4exp"}:
        return {}
    keys: _Keys = {"attention.indexer.key_length": width}
    some = log.facts.get("indexer_layers", 0) < log.facts.get("n_layer", 0)
    if name == "glm-dsa" and some and "n_ctx_train" not in log.facts:
        keys["context_length"] = _GLM_5_2_CONTEXT
    return keys


def _attention_keys(log: LoadLog, name: str, n_all: int) -> _Keys:
    facts = log.facts
    if name in _MLA and _is_latent(log):
        rank, width = facts.get("n_lora_kv"), _latent_width(log)
        if rank is None or width is None:
            raise Unjudged("width of the latent not known")
        return {
            "attention.head_count": facts.get("n_head", 1),
            "attention.head_count_kv": 1,
            "attention.key_length": width,
            "attention.value_length": rank,
            "attention.key_length_mla": facts.get("n_embd_head_k_mla", 192),
            "attention.value_length_mla": facts.get("n_embd_head_v_mla", 128),
            "attention.kv_lora_rank": rank,
        }
    heads, k, v = _full_heads(log)
    heads_swa, k_swa, v_swa = _window_heads(log, heads, k, v)
    keys: _Keys = {"attention.head_count": facts.get("n_head") or heads, "attention.head_count_kv": heads}
    keys |= {"attention.key_length": k, "attention.value_length": v}
    if (k_swa, v_swa) != (k, v):
        keys |= {"attention.key_length_swa": k_swa, "attention.value_length_swa": v_swa}
    if "n_swa" in facts:
        keys["attention.sliding_window"] = facts["n_swa"]
    if "shared_kv_layers" in facts:
        keys["attention.shared_kv_layers"] = facts["shared_kv_layers"]
    if name in _LISTS_WINDOWS or heads_swa != heads:
        full = _spread(log, n_all)
        keys["attention.sliding_window_pattern"] = tuple(int(not whole) for whole in full)
        keys["attention.head_count_kv"] = tuple(heads if whole else heads_swa for whole in full)
    if len(log.lists.get("n_head_kv", ())) >= n_all:
        keys["attention.head_count_kv"] = log.lists["n_head_kv"]
    return keys


def _is_latent(log: LoadLog) -> bool:
    """Whether the file has the *_mla keys, by which a latent is kept; without them every head's K and V are."""
    facts = log.facts
    if log.family and log.family.startswith("mla"):
        return log.family == "mla"
    if "n_embd_head_k_mla" in facts:  # printed for every file, and of one without the key it is a head's width
        return facts.get("n_embd_head_k") != facts["n_embd_head_k_mla"]
    width = _latent_width(log)
    return width is not None and facts.get("n_embd_head_k", width) == width


def _latent_width(log: LoadLog) -> int | None:
    facts = log.facts
    if "n_lora_kv" in facts and "n_rot" in facts:
        return facts.get("mla_k_width", facts["n_lora_kv"] + facts["n_rot"])
    return facts.get("mla_k_width")


def _full_heads(log: LoadLog) -> tuple[int, int, int]:
    """KV heads, and the widths of their K and V, of the layers that see everything."""
    facts = log.facts
    heads = facts.get("n_head_kv_full", facts.get("n_head_kv"))
    if heads is None and log.lists.get("n_head_kv"):
        heads = max(log.lists["n_head_kv"])
    k = facts.get("n_embd_head_k_full", facts.get("n_embd_head_k"))
    if (heads is None or k is None) and "kv_width_full" in facts:
        return 1, facts["kv_width_full"], facts["kv_width_full"]
    if heads is None:
        raise Unjudged("number of KV heads not known")
    if k is None and facts.get("n_embd") and facts.get("n_head"):
        k = facts["n_embd"] // facts["n_head"]
    if k is None:
        raise Unjudged("size of a head not known")
    return heads, k, facts.get("n_embd_head_v_full", facts.get("n_embd_head_v", k))


def _window_heads(log: LoadLog, heads: int, k: int, v: int) -> tuple[int, int, int]:
    """The same of the layers with a window."""
    facts = log.facts
    k_swa = facts.get("n_embd_head_k_swa", k)
    v_swa = facts.get("n_embd_head_v_swa", k_swa if k == v else v)
    if "n_head_kv_swa" in facts:
        return facts["n_head_kv_swa"], k_swa, v_swa
    width = facts.get("kv_width_swa", heads * k_swa)
    if width != heads * k_swa:
        return 1, width, width
    return heads, k_swa, v_swa


def _spread(log: LoadLog, n_all: int) -> list[bool]:
    """Which layers see everything: as many of those with a cache of their own as are known, the last of each period."""
    facts = log.facts
    n_full, n_windowed = facts.get("full_layers"), facts.get("swa_layers")
    if "swa_period" in facts and n_full is None:
        n_full, n_windowed = 1, facts["swa_period"] - 1
    if n_full is None or n_windowed is None or n_full + n_windowed <= 0:
        raise Unjudged("which layers have a window is not known")
    n_own = n_full + n_windowed
    return [(i + 1) * n_full // n_own > i * n_full // n_own for i in range(n_all)]


def _layer_kinds(log: LoadLog, name: str, n_layer: int) -> _Keys:
    """Which layers of a hybrid are attention, where the file does not list KV heads for each."""
    n_attention = log.facts.get("attn_layers")
    if n_attention is None or "n_head_kv" in log.lists:
        return {"feed_forward_length": log.lists["n_ff"]} if "n_ff" in log.lists else {}
    heads = log.facts.get("n_head_kv", 0)
    if name in _BY_INTERVAL and n_attention and n_layer % n_attention == 0:
        return {"full_attention_interval": n_layer // n_attention}
    last = [(i + 1) * n_attention // n_layer > i * n_attention // n_layer for i in range(n_layer)]
    if name in _BY_INTERVAL:
        return {"attention.recurrent_layers": tuple(int(not whole) for whole in last)}
    if name in _BY_HEADS:
        return {"attention.head_count_kv": tuple(heads if whole else 0 for whole in last)}
    if name.startswith("nemotron_h"):
        n_other = n_layer - n_attention - log.facts.get("recr_layers", 0)
        n_ff = (0,) * (n_layer - n_other) + (1,) * n_other
        return {
            "attention.head_count_kv": (heads,) * n_attention + (0,) * (n_layer - n_attention),
            "feed_forward_length": n_ff,
        }
    return {}


def _embedding_length(log: LoadLog, name: str, keys: Mapping[str, object]) -> int:
    """The row's; where it does not name one, and heads have sizes of their own, none of the cache depends on it."""
    known = log.facts.get("n_embd")
    if known is None and ("attention.key_length" in keys or name in _RECURRENT):
        return 1
    if known is None:
        raise Unjudged("embedding length not known")
    return known
