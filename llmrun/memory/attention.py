"""Which layers of an architecture keep a KV cache, a window of one, or a recurrent state, and how wide.

A restatement of llama.cpp 0c1e57098: `load_hparams` in src/llama-model.cpp, `load_arch_hparams` of each architecture in
src/models/, `create_memory`, and `n_embd_r` and `n_embd_s` in src/llama-hparams.cpp. Knows nothing of settings or bytes
of weights. An architecture that is not listed here raises: it is asked, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmrun.errors import GGUFError, UnknownArchitectureError
from llmrun.gguf.header import GGUFHeader, ValueType

_F32 = 4  # bytes; recurrent states are always kept so (llama-model.cpp, create_memory)


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a layer keeps for each token: elements of K and of V; windowed: only for the last n_swa tokens.

    indexer_width: elements of the keys by which sparse attention chooses tokens, in a cache of their own.
    """

    k_width: int
    v_width: int
    windowed: bool = False
    indexer_width: int = 0


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """What a layer remembers: a cache, None where it has none or reads another layer's; bytes of state a sequence.

    windowed: whether it looks only at a window, in its own cache or another's.
    """

    cache: CacheShape | None
    state: int = 0
    windowed: bool = False


@dataclass(frozen=True, slots=True)
class _Windows:
    """Sliding windows: of `period` layers all but one, unless the file lists them.

    default: the window of a file that names none; None requires one, 0 is no windows at all.
    dense_first: the full layer is the first of a period and not the last.
    fixed: the window is the default, whatever the file says besides 0.
    """

    period: int | None
    default: int | None = None
    dense_first: bool = False
    fixed: bool = False


# every layer has a cache of all tokens: create_memory's last case, and no window in load_arch_hparams
_PLAIN_NAMES = """
    llama qwen2 qwen2vl qwen2moe qwen3 qwen3moe qwen3vl qwen3vlmoe phi2 phi3 phimoe command-r gemma granite granitemoe
    mistral3 olmo olmoe stablelm starcoder2 falcon internlm2 glm4 glm4moe minimax-m2 seed_oss smollm3 exaone nemotron
    deepseek ernie4_5 ernie4_5-moe dots1 hunyuan-moe hunyuan-dense arcee apertus bailingmoe bailingmoe2 gptneox gpt2
    mpt baichuan bloom starcoder refact qwen orion minicpm xverse dbrx openelm arctic chatglm jais grok codeshell
    grovemoe hy_v3
"""
_PLAIN = frozenset(_PLAIN_NAMES.split())
_WINDOWED: Mapping[str, _Windows] = {
    "gemma2": _Windows(2, 4096),
    "gemma3": _Windows(6, 0),
    "gemma3n": _Windows(5),
    "gemma4": _Windows(None),
    "gpt-oss": _Windows(2),
    "cohere2": _Windows(4),
    "olmo2": _Windows(4, 0),
    "laguna": _Windows(4, 0, dense_first=True),
    "granite_swa": _Windows(None),
    "mimo2": _Windows(None),
    "step35": _Windows(None),
    "afmoe": _Windows(4, 0),
    "exaone-moe": _Windows(4),
    "cohere2moe": _Windows(4, dense_first=True),
    "llama4": _Windows(4, 8192, fixed=True),
}
_MLA = frozenset({"deepseek2", "deepseek32", "glm-dsa", "mistral4"})
_RECURRENT = frozenset({"mamba", "mamba2"})
# hybrids whose recurrent layers are those without KV heads
_HYBRID_BY_HEADS = frozenset({"granitehybrid", "jamba", "lfm2", "lfm2moe"})
# hybrids with full attention every so many layers, 4 unless the file says otherwise
_HYBRID_BY_INTERVAL = frozenset({"qwen3next", "qwen35", "qwen35moe", "qwen4exp"})
# attention chooses tokens by keys of their own
_INDEXED = frozenset({"deepseek32", "glm-dsa", "qwen4exp"})
# in these every layer has both, or the feed-forward layers are layers of their own
_HYBRID_OTHER = frozenset({"falcon-h1", "nemotron_h", "nemotron_h_moe"})
KNOWN = frozenset({*_PLAIN, *_WINDOWED, *_MLA, *_RECURRENT, *_HYBRID_BY_HEADS, *_HYBRID_BY_INTERVAL, *_HYBRID_OTHER})


def window_of(header: GGUFHeader) -> int:
    """Return the tokens a windowed layer looks back on, 0 for a model without windows."""
    windows = _WINDOWED.get(header.architecture)
    if windows is None:
        return 0
    found = header.uint_or_none(header.arch("attention.sliding_window"))
    if found is None and windows.default is None:
        return header.uint(header.arch("attention.sliding_window"))
    if found is None or (windows.fixed and found):
        return windows.default or 0
    return found


def n_layer_of(header: GGUFHeader) -> tuple[int, int]:
    """Return the number of layers: all, and those that predict the next token (the others only draft)."""
    n_all = header.uint(header.arch("block_count"))
    n_draft = header.uint_or_none(header.arch("nextn_predict_layers")) or 0
    if not 0 < n_all <= 1024 or n_draft >= n_all:
        raise GGUFError(f"{n_all} layers with {n_draft} of them for drafting make no model")
    return n_all, n_all - n_draft


def remembering(header: GGUFHeader) -> tuple[LayerMemory, ...]:
    """Return what each layer keeps, those for drafting included, which keep nothing.

    Raises UnknownArchitectureError for an architecture that is not listed, GGUFError for keys that are not there.
    """
    if header.architecture not in KNOWN:
        raise UnknownArchitectureError(f"what the architecture {header.architecture!r} remembers is not known")
    n_all, n_layer = n_layer_of(header)
    rules = _Rules(header, n_all, n_layer)
    return tuple(rules.layer(index) for index in range(n_layer)) + (LayerMemory(None),) * (n_all - n_layer)


def remembering_to_draft(header: GGUFHeader) -> tuple[LayerMemory, ...]:
    """Return what each layer keeps in the context of the layers for drafting, where those alone keep anything.

    Raises as `remembering`. Source: llama-model.cpp, create_memory, the filter for LLAMA_CONTEXT_TYPE_MTP.
    """
    if header.architecture not in KNOWN:
        raise UnknownArchitectureError(f"what the architecture {header.architecture!r} remembers is not known")
    n_all, n_layer = n_layer_of(header)
    rules = _Rules(header, n_all, n_layer)
    return (LayerMemory(None),) * n_layer + tuple(rules.layer(index) for index in range(n_layer, n_all))


class _Rules:
    """The keys of one file, read once; answers for each layer."""

    def __init__(self, header: GGUFHeader, n_all: int, n_layer: int) -> None:
        self._header = header
        self._name = header.architecture
        self._n_layer = n_layer
        self._n_head = per_layer(header, "attention.head_count", n_all, 0)
        self._n_head_kv = per_layer(header, "attention.head_count_kv", n_all, None) or self._n_head
        self._n_ff = per_layer(header, "feed_forward_length", n_all, 0) or (0,) * n_all
        default = header.uint(header.arch("embedding_length")) // self._n_head[0] if self._n_head[0] else 0
        self._k = self._uint("attention.key_length", default)
        self._v = self._uint("attention.value_length", default)
        self._k_swa = self._uint("attention.key_length_swa", self._k)
        self._v_swa = self._uint("attention.value_length_swa", self._v)
        self._windowed = _windowed_layers(header, n_layer)
        self._recurrent = self._recurrent_layers()
        self._indexed = self._indexed_layers()
        self._state = self._state_bytes()
        self._indexer = self._uint("attention.indexer.key_length", 0)
        self._n_own_cache = self._layers_with_own_cache(n_all)

    def layer(self, index: int) -> LayerMemory:
        recurrent = index in self._recurrent
        cache = self._cache(index) if self._attends(index) and index < self._n_own_cache else None
        state = self._state + self._ngram_bytes(index) if recurrent else 0
        return LayerMemory(cache, state, index in self._windowed)

    def _cache(self, index: int) -> CacheShape:
        windowed, heads = index in self._windowed, self._n_head_kv[index]
        k, v = (self._k_swa, self._v_swa) if windowed else (self._k, self._v)
        if self._name in _MLA and self._uint("attention.key_length_mla", 0):
            v = 0  # the latent is K and V at once
        return CacheShape(k * heads, v * heads, windowed, self._indexer if index in self._indexed else 0)

    def _attends(self, index: int) -> bool:
        if self._name == "falcon-h1":
            return True
        if self._name.startswith("nemotron_h"):
            return index not in self._recurrent and self._n_ff[index] == 0
        return index not in self._recurrent

    def _recurrent_layers(self) -> frozenset[int]:
        layers = range(self._n_layer)
        if self._name in _RECURRENT or self._name == "falcon-h1":
            return frozenset(layers)
        if self._name in _HYBRID_BY_HEADS:
            return frozenset(i for i in layers if self._n_head_kv[i] == 0)
        if self._name.startswith("nemotron_h"):
            return frozenset(i for i in layers if self._n_head_kv[i] == 0 and self._n_ff[i] == 0)
        if self._name in _HYBRID_BY_INTERVAL:
            listed = per_layer(self._header, "attention.recurrent_layers", self._n_layer, None)
            if listed:
                return frozenset(i for i in layers if listed[i])
            interval = self._uint("full_attention_interval", 4)
            return frozenset(i for i in layers if (i + 1) % interval)
        return frozenset()

    def _state_bytes(self) -> int:
        """Bytes of a layer's convolution and state, for one sequence (llama-hparams.cpp, n_embd_r and n_embd_s)."""
        if (cached := self._uint("shortconv.l_cache", 0)) > 0:
            return _F32 * self._header.uint(self._header.arch("embedding_length")) * (cached - 1)
        conv, inner = self._uint("ssm.conv_kernel", 0), self._uint("ssm.inner_size", 0)
        state, groups = self._uint("ssm.state_size", 0), self._uint("ssm.group_count", 0)
        return _F32 * (max(conv - 1, 0) * (inner + 2 * groups * state) + state * inner)

    def _indexed_layers(self) -> frozenset[int]:
        """The layers with an indexer of their own (llama-model.cpp, create_memory: filter_lid and filter_idx)."""
        layers = range(self._n_layer)
        if self._name not in _INDEXED:
            return frozenset()
        if self._name != "glm-dsa":
            return frozenset(layers)
        listed = per_layer(self._header, "attention.indexer.types", self._n_layer, None)
        if listed:
            return frozenset(i for i in layers if listed[i])
        if self._uint("context_length", 0) < 1 << 20:
            return frozenset(layers)  # GLM 5 and 5.1
        return frozenset(i for i in layers if i < 2 or i % 4 == 2)  # models/glm-dsa.cpp: 5.2's, where none are listed

    def _ngram_bytes(self, index: int) -> int:
        """Bytes of the convolution over n-gram embeddings, for one sequence (llama-hparams.cpp, ple_conv_state)."""
        listed = self._header.uints_or_none(self._header.arch("ple.layers")) if self._name == "qwen4exp" else None
        if not listed or index not in listed:
            return 0
        size = self._header.uint(self._header.arch("embedding_length")) * self._uint("hyper_connection.count", 0)
        return _F32 * max(self._uint("ple.conv_kernel", 0) - 1, 0) * self._uint("ple.ngram_size", 0) * size

    def _layers_with_own_cache(self, n_all: int) -> int:
        if self._name == "gemma3n":
            return 20  # models/gemma3n.cpp: n_layer_kv_from_start
        if self._name == "gemma4":
            return n_all - self._uint("attention.shared_kv_layers", 0)
        return n_all

    def _uint(self, key: str, default: int) -> int:
        found = self._header.uint_or_none(self._header.arch(key))
        return default if found is None else found


def per_layer(header: GGUFHeader, key: str, n_all: int, default: int | None) -> tuple[int, ...]:
    """Return a key's value for every layer, whether the file gives one for all or one for each; () for no default."""
    name = header.arch(key)
    if not _is_array(header, name):
        single = header.uint_or_none(name)
        single = default if single is None else single
        return () if single is None else (single,) * n_all
    values = header.uints_or_none(name) or ()
    if len(values) < n_all:
        raise GGUFError(f"{name} has {len(values)} values for {n_all} layers")
    return values[:n_all]


def _is_array(header: GGUFHeader, name: str) -> bool:
    entry = header.metadata.get(name)
    return entry is not None and entry.type is ValueType.ARRAY


def _windowed_layers(header: GGUFHeader, n_layer: int) -> frozenset[int]:
    windows = _WINDOWED.get(header.architecture)
    if windows is None or window_of(header) == 0:
        return frozenset()
    key = header.arch("attention.sliding_window_pattern")
    if _is_array(header, key):
        listed = per_layer(header, "attention.sliding_window_pattern", n_layer, None)
        return frozenset(i for i in range(n_layer) if listed[i])
    period = header.uint_or_none(key) or windows.period
    if period is None:
        raise GGUFError(f"{key} is missing")
    full = 0 if windows.dense_first else period - 1
    return frozenset(i for i in range(n_layer) if i % period != full)
