"""A draft model by its header: whether it can guess tokens for another model; whether a model's own layers can. Pure.

What is asked is what llama.cpp asks (common/speculative.cpp, common_speculative_are_compatible), as far as headers say
it: the tokens' own texts are compared when both are loaded (worker.draft_model).
"""

from __future__ import annotations

from llmrun.errors import GGUFError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.purpose import check_writes_text

MOST_APART = 128  # tokens that one vocabulary may have more: SPEC_VOCAB_MAX_SIZE_DIFFERENCE
_HINT = "take a smaller model of the same family, such as its 0.5B or 1B"
_PLAIN_HINT = "leave --draft away"
_LAYERS_HINT = "leave --draft mtp out: guesses come from the conversation then"
# Whose graphs for these layers were seen to run (models/*.cpp, graph_mtp), and of them those that take several
WITH_LAYERS = frozenset({"glm4moe", "hy_v3"})
_SEVERAL = frozenset({"hy_v3"})

# llama-arch.cpp, llm_arch_is_recurrent and llm_arch_is_hybrid: what these remember has no tail that could be dropped
_NAMES = """
    mamba mamba2 rwkv6 rwkv6qwen2 rwkv7 arwkv7 jamba falcon-h1 plamo2 granitehybrid lfm2 lfm2moe nemotron_h
    nemotron_h_moe qwen3next kimi-linear bailingmoe3 kimi-k3 glm5-next qwen35 qwen35moe qwen4exp deepseek4 minimax-01
"""
_KEEPS_ALL = frozenset(_NAMES.split())


def check_draft(base: GGUFHeader, draft: GGUFHeader) -> None:
    """Raise GGUFError, saying why, where a draft cannot guess for the model of the header `base`.

    What only one of them states is not compared: llama.cpp has its own defaults for that, by tokenizer.
    """
    check_writes_text(draft)
    if base.architecture in _KEEPS_ALL:
        raise GGUFError(
            f"a draft brings nothing to a model of the architecture {base.architecture}: it cannot forget a wrong"
            " guess alone",
            _PLAIN_HINT,
        )
    if draft.architecture in _KEEPS_ALL:
        raise GGUFError(
            f"it is of the architecture {draft.architecture}, which cannot forget a wrong guess alone", _HINT
        )
    _check_tokenizer(base, draft)
    _check_size(base, draft)
    for name in ("bos", "eos"):
        _check_token(base, draft, name)


def check_layers(header: GGUFHeader) -> None:
    """Raise GGUFError, saying why, where a model has no layers for multi-token prediction that can guess for it."""
    n_layers = header.uint_or_none(header.arch("nextn_predict_layers")) or 0
    if not n_layers:
        raise GGUFError("this model has no layers for multi-token prediction (MTP)", _LAYERS_HINT)
    if header.architecture not in WITH_LAYERS:
        raise GGUFError(
            f"the MTP layers of the architecture {header.architecture} cannot be used here: those of"
            f" {', '.join(sorted(WITH_LAYERS))} can",
            _LAYERS_HINT,
        )
    first = (header.uint_or_none(header.arch("block_count")) or 0) - n_layers
    there = {tensor.name for tensor in header.tensors}
    if any(f"blk.{first}.nextn.{name}.weight" not in there for name in ("eh_proj", "enorm", "hnorm")):
        raise GGUFError("the model's MTP layers are not in this file: it was made without them", _LAYERS_HINT)
    if n_layers > 1 and header.architecture not in _SEVERAL:
        raise GGUFError(f"the model has {n_layers} MTP layers, and the engine runs only one", _LAYERS_HINT)


def has_layers(header: GGUFHeader) -> bool:
    """Whether a model has layers for multi-token prediction that can guess for it."""
    try:
        check_layers(header)
    except GGUFError:
        return False
    return True


def _check_tokenizer(base: GGUFHeader, draft: GGUFHeader) -> None:
    wanted, found = (header.string("tokenizer.ggml.model") for header in (base, draft))
    if found != wanted:
        raise GGUFError(f"its tokenizer is {found!r}, and the model's is {wanted!r}: tokens differ", _HINT)


def _check_size(base: GGUFHeader, draft: GGUFHeader) -> None:
    wanted, found = (header.array_length_or_none("tokenizer.ggml.tokens") or 0 for header in (base, draft))
    if abs(found - wanted) > MOST_APART:
        raise GGUFError(f"it knows {found:,} tokens, and the model {wanted:,}: they are not the same ones", _HINT)


def _check_token(base: GGUFHeader, draft: GGUFHeader, name: str) -> None:
    """Compare whether a token is put at an end of each text and, where it is, which."""
    wanted, found = (header.bool_or_none(f"tokenizer.ggml.add_{name}_token") for header in (base, draft))
    if wanted is not None and found is not None and wanted is not found:
        end = "before" if name == "bos" else "after"
        who, other = ("it", "the model") if found else ("the model", "it")
        raise GGUFError(f"{who} has a token {name} {end} each text, which {other} has not", _HINT)
    if not (wanted or found):
        return
    token, guessed = (header.uint_or_none(f"tokenizer.ggml.{name}_token_id") for header in (base, draft))
    if token is not None and guessed is not None and token != guessed:
        raise GGUFError(f"its {name} is token {guessed:,}, and the model's is {token:,}", _HINT)
