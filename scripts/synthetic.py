"""GGUF files with real shapes and random weights: what a model costs depends on its shape, not on what it learned.

The tokenizer is byte-level with ChatML's control tokens; the rest of the vocabulary is filler that is never produced
from text. Weights are random bits with harmless scales, so that nothing becomes infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIRST_FILLER = 260  # before it: control tokens, bytes, and one merged token
LETTERS = range(3 + ord("a"), 3 + ord("z") + 1)  # tokens that are also what the tokenizer makes of their text
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model of llama.cpp's architectures "llama", "qwen3", "gemma3" (sliding windows), "mamba" (a state) or
    "hy_v3" (layers for multi-token prediction).

    n_swa: the window, tokens. n_mtp: so many of the layers, the last ones, are for multi-token prediction. A
    mamba model's inner size is n_ff, its state has 16 numbers for each of those.
    """

    architecture: str = "llama"
    n_layer: int = 2
    n_embd: int = 256
    n_ff: int = 512
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 64
    n_vocab: int = 512
    n_ctx_train: int = 2048
    tied: bool = True
    n_swa: int = 0
    n_mtp: int = 0


TINY = Shape()
SMALL = Shape(n_layer=6, n_embd=256, n_ff=768, n_head=4, n_head_kv=4, n_vocab=2048)
SLIDING = Shape("gemma3", n_layer=6, n_swa=64)
RECURRENT = Shape("mamba")
QWEN3_0_6B = Shape("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960)
LLAMA_1_2B = Shape("llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072)  # as Llama 3.2 1B: 1.24 billion weights


def write_model(
    path: Path,
    shape: Shape = TINY,
    *,
    mix: str = "F16",
    template: str | None = CHATML,
    metadata: dict[str, Any] | None = None,
    pieces: dict[int, str] | None = None,
    with_tensors: bool = True,
    writes: range | None = None,
    chain: Mapping[int, int] | None = None,
    controls: Mapping[int, str] | None = None,
    foresees: bool = True,
    seed: int = 0,
) -> Path:
    """Write a model; `mix` is F16, Q8_0, Q4_K_M, Q4_0 or IQ4_XS.

    `pieces` replaces texts of tokens, `metadata` adds string keys.
    `metadata` may hold "general.architecture" to name an architecture other than the shape's. `controls` are more
    control tokens. With an untied shape, greedy decoding writes only the tokens of `writes`, and so never ends by
    itself if no end is among them; or after each token of `chain` the one that it names (untied shapes, F16 or Q4_K_M).
    foresees: whether layers for multi-token prediction guess what `chain` says; else what it says of the token before.
    """
    extra = dict(metadata or {})
    writer = gguf.GGUFWriter(path, extra.pop("general.architecture", shape.architecture))
    _add_hyperparameters(writer, shape)
    _add_tokenizer(writer, shape.n_vocab, pieces or {}, controls or {})
    if template is not None:
        writer.add_chat_template(template)
    for key, value in extra.items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)
    rng = np.random.default_rng(seed)
    embeddings = None
    for name, dims in tensors(shape) if with_tensors else ():
        kind = tensor_type(name, mix, shape)
        data = random_tensor(rng, dims, kind)
        if chain is not None:  # layers add nothing, so that what follows a token depends on that token alone
            if name == "token_embd.weight":
                embeddings = gguf.quants.dequantize(data, kind)
            data = _chained(name, data, kind, embeddings, chain)
            if name.endswith("nextn.eh_proj.weight"):
                half = np.eye(shape.n_embd, dtype=data.dtype)
                data = np.hstack([half, 0 * half] if foresees else [0 * half, half])
        if name == "output.weight" and writes is not None:
            data[: writes.start] = data[writes.stop :] = 0  # logits of 0: among many random ones the largest is above
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _chained(name: str, data: Any, kind: Q, embeddings: Any, chain: Mapping[int, int]) -> Any:
    """Return a tensor of a model that knows one thing: random vectors hardly point the same way, but to themselves."""
    if name.endswith(("attn_output.weight", "ffn_down.weight")):
        return np.zeros_like(data)
    if name == "output.weight":
        data = np.zeros_like(data)
        for following in set(chain.values()):
            row = sum(embeddings[token] for token, then in chain.items() if then == following)
            data[following] = _q6_k(row).reshape(-1) if kind == Q.Q6_K else row
    return data


def _q6_k(row: Any) -> Any:
    """Return a row in blocks of Q6_K, whose 16 scales are all 1 (ggml-quants.c, dequantize_row_q6_K)."""
    values = row.reshape(-1, 256)
    scale = np.abs(values).max(axis=1, keepdims=True) / 31
    quants = (np.rint(values / scale) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = quants & 15, quants >> 4
    blocks = np.ones((len(values), 210), np.uint8)
    blocks[:, :128] = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(-1, 128)
    blocks[:, 128:192] = (high << np.array([0, 2, 4, 6], np.uint8)[:, None]).sum(axis=2, dtype=np.uint8).reshape(-1, 64)
    blocks[:, 208:] = scale.astype(np.float16).view(np.uint8)
    return blocks


def _add_hyperparameters(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(shape.n_vocab)
    if shape.n_mtp:
        writer.add_nextn_predict_layers(shape.n_mtp)
    if shape.architecture == "hy_v3":
        writer.add_expert_feed_forward_length(shape.n_ff)  # has no experts, and is asked for
    if shape.n_swa:
        writer.add_sliding_window(shape.n_swa)
    if shape.architecture == "mamba":
        writer.add_ssm_conv_kernel(_CONVOLUTION)
        writer.add_ssm_inner_size(shape.n_ff)
        writer.add_ssm_state_size(_STATE)
        writer.add_ssm_time_step_rank(_RANK)


def byte_texts() -> list[str]:
    """Return GPT-2's printable stand-ins for the 256 bytes, in the order of the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def _add_tokenizer(
    writer: gguf.GGUFWriter, n_vocab: int, pieces: Mapping[int, str], controls: Mapping[int, str]
) -> None:
    texts = [*SPECIALS, *byte_texts(), "ĠĠ"]  # one merge, so that text can be tokenized in two ways
    texts += [f"~{index}" for index in range(len(texts), n_vocab)]
    for index, text in (*pieces.items(), *controls.items()):
        texts[index] = text
    control = {*range(len(SPECIALS)), *controls}
    kinds = [int(gguf.TokenType.CONTROL if t in control else gguf.TokenType.NORMAL) for t in range(n_vocab)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(texts[:n_vocab])
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


_CONVOLUTION, _STATE, _RANK = 4, 16, 32  # a mamba model's d_conv, d_state, dt_rank


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes (rows first, as numpy has them) of all tensors."""
    yield "token_embd.weight", (shape.n_vocab, shape.n_embd)
    block = _mamba_block if shape.architecture == "mamba" else _attention_block
    for layer in range(shape.n_layer):
        for name, dims in block(shape):
            yield f"blk.{layer}.{name}", dims
        if layer >= shape.n_layer - shape.n_mtp:
            yield f"blk.{layer}.nextn.eh_proj.weight", (shape.n_embd, 2 * shape.n_embd)
            for name in ("enorm", "hnorm", "shared_head_norm"):
                yield f"blk.{layer}.nextn.{name}.weight", (shape.n_embd,)
    yield "output_norm.weight", (shape.n_embd,)
    if not shape.tied:
        yield "output.weight", (shape.n_vocab, shape.n_embd)


def _mamba_block(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    e, inner = shape.n_embd, shape.n_ff
    yield "attn_norm.weight", (e,)
    yield "ssm_in.weight", (2 * inner, e)
    yield "ssm_conv1d.weight", (inner, _CONVOLUTION)
    yield "ssm_conv1d.bias", (inner,)
    yield "ssm_x.weight", (_RANK + 2 * _STATE, inner)
    yield "ssm_dt.weight", (inner, _RANK)
    yield "ssm_dt.bias", (inner,)
    yield "ssm_a", (inner, _STATE)
    yield "ssm_d", (inner,)
    yield "ssm_out.weight", (e, inner)


def _attention_block(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    e, q, kv = shape.n_embd, shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    yield "attn_norm.weight", (e,)
    yield "attn_q.weight", (q, e)
    yield "attn_k.weight", (kv, e)
    yield "attn_v.weight", (kv, e)
    yield "attn_output.weight", (e, q)
    if shape.architecture in ("qwen3", "gemma3", "hy_v3"):
        yield "attn_q_norm.weight", (shape.head_dim,)
        yield "attn_k_norm.weight", (shape.head_dim,)
    if shape.architecture == "gemma3":
        yield "post_attention_norm.weight", (e,)
        yield "post_ffw_norm.weight", (e,)
    yield "ffn_norm.weight", (e,)
    yield "ffn_gate.weight", (shape.n_ff, e)
    yield "ffn_up.weight", (shape.n_ff, e)
    yield "ffn_down.weight", (e, shape.n_ff)


def tensor_type(name: str, mix: str, shape: Shape) -> Q:
    """Return the GGML type llama.cpp's quantizer gives a tensor in this mix (llama-quant.cpp, dense models)."""
    if name.endswith(("norm.weight", ".bias", "ssm_a", "ssm_d", "ssm_conv1d.weight")):
        return Q.F32
    if mix in ("Q4_0", "IQ4_XS") and name == ("token_embd.weight" if shape.tied else "output.weight"):
        return Q.Q6_K
    if mix != "Q4_K_M":
        return Q[mix.upper()]
    if name in ("token_embd.weight", "output.weight"):
        return Q.Q6_K if shape.tied or name == "output.weight" else Q.Q4_K
    if name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, n = int(name.split(".")[1]), shape.n_layer
        if layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2:
            return Q.Q6_K
    return Q.Q4_K


def random_tensor(rng: np.random.Generator, dims: tuple[int, ...], kind: Q) -> Any:
    """Return the tensor's data as the writer wants it: floats, or rows of quantized blocks as bytes."""
    if kind == Q.F32:
        return np.ones(dims, np.float32) if len(dims) == 1 else -rng.random(dims, np.float32)
    if kind == Q.F16:
        return (rng.standard_normal(dims, np.float32) * 0.03).astype(np.float16)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, blocks = dims[0], dims[1] // block
    data = rng.integers(0, 256, (rows, blocks, size), np.uint8)
    _SCALES[kind](data)
    return data.reshape(rows, blocks * size)


def _put_half(data: Any, offset: int, value: float) -> None:
    data[:, :, offset : offset + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


def _scale_q8_0(data: Any) -> None:  # f16 d, 32 x int8
    _put_half(data, 0, 0.0004)


def _scale_q4_k(data: Any) -> None:  # f16 d, f16 dmin, 12 bytes of scales, 128 bytes of quants
    _put_half(data, 0, 0.0002)
    _put_half(data, 2, 0.0015)


def _scale_q6_k(data: Any) -> None:  # 128 low bits, 64 high bits, 16 x int8 scales, f16 d
    _put_half(data, 208, 0.00002)


def _scale_q4_0(data: Any) -> None:  # f16 d, 16 bytes of quants
    _put_half(data, 0, 0.004)


def _scale_iq4_xs(data: Any) -> None:  # f16 d, 6 bytes of scales of 6 bits, 128 bytes of quants
    _put_half(data, 0, 0.00002)


_SCALES: dict[Q, Callable[[Any], None]] = {
    Q.Q8_0: _scale_q8_0,
    Q.Q4_K: _scale_q4_k,
    Q.Q6_K: _scale_q6_k,
    Q.Q4_0: _scale_q4_0,
    Q.IQ4_XS: _scale_iq4_xs,
}
