"""The command `estimate`: from a parameter count to the memory it means, as text for people and as JSON.

Reads no file and asks no machine: what is free is handed in.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from llmrun.errors import UsageError
from llmrun.memory.rules_of_thumb import (
    PAPER,
    QUANT_BPW,
    Fit,
    FormulaResult,
    FreeMemory,
    GivenShape,
    Inference,
    Precision,
    ShapeGuess,
    estimate_activations,
    estimate_activations_per_layer,
    estimate_fit,
    estimate_inference,
    estimate_weights,
    guess_shape,
    parse_bits,
)
from llmrun.settings import MAX_N_CTX, MAX_SEQUENCES
from llmrun.units import format_bytes, format_count, format_decimal_bytes, parse_count

METHODS = ("all", "weights", "activations", "inference")
DEFAULT_SEQ = 4096

# The most that makes sense: beyond it a slip of the finger is likelier than a model.
MIN_PARAMS, MAX_PARAMS = 10**6, 10**15
MAX_LAYERS = 512  # llama.cpp 0c1e57098, LLAMA_MAX_LAYERS
MAX_HEADS = 4096
MAX_HIDDEN = 1 << 20

_WIDTH = 80
_NAMES = {
    "weights": "weights only",
    "activations": "with activations",
    "activations_per_layer": "  of every layer",
}
# A file of about so many bits, where a whole number of them is what people say
_USUAL_QUANTS = {2: "Q2_K", 3: "Q3_K_M", 4: "Q4_K_M", 5: "Q5_K_M", 6: "Q6_K", 8: "Q8_0"}
_SMALLER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")  # best first


@dataclass(frozen=True, slots=True)
class EstimateWish:
    """What the command line said: params as "7b", bits as "16" or "Q4_K_M", method one of METHODS."""

    params: str
    bits: str = "16"
    seq: int = DEFAULT_SEQ
    batch: int = 1
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    hidden: int | None = None
    method: str = "all"


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer as values."""

    n_params: int
    precision: Precision
    seq: int
    batch: int
    guess: ShapeGuess
    formulas: tuple[FormulaResult, ...]
    inference: Inference
    free: FreeMemory
    fit: Fit


def check_wish(wish: EstimateWish) -> None:
    """Raise UsageError for what makes no sense."""
    estimate(wish, FreeMemory(0, 0))


def estimate(wish: EstimateWish, free: FreeMemory) -> Estimate:
    """Return what a model of so many parameters takes; raises UsageError for what makes no sense."""
    n_params, precision = _parse_params(wish.params), parse_bits(wish.bits)
    _check_ranges(wish)
    guess = guess_shape(n_params, GivenShape(wish.layers, wish.heads, wish.kv_heads, wish.hidden))
    inference = estimate_inference(n_params, precision.bpw, guess.shape, wish.seq, wish.batch)
    return Estimate(
        n_params=n_params,
        precision=precision,
        seq=wish.seq,
        batch=wish.batch,
        guess=guess,
        formulas=_formulas(wish, n_params, precision, guess),
        inference=inference,
        free=free,
        fit=estimate_fit(inference, guess.shape.n_layer, free),
    )


def _formulas(wish: EstimateWish, n_params: int, precision: Precision, guess: ShapeGuess) -> tuple[FormulaResult, ...]:
    weights = (estimate_weights(n_params, precision.bpw),)
    arguments = (n_params, precision.bpw, guess.shape, wish.seq, wish.batch)
    activations = (estimate_activations(*arguments), estimate_activations_per_layer(*arguments))
    return {"weights": weights, "activations": activations, "inference": (), "all": (*weights, *activations)}[
        wish.method
    ]


def _parse_params(text: str) -> int:
    n_params = parse_count(text)
    if not MIN_PARAMS <= n_params <= MAX_PARAMS:
        raise UsageError(
            f"{text.strip()!r} parameters make no language model: from 1M to {format_count(MAX_PARAMS)} they do",
            "llmrun estimate --params 7b",
        )
    return n_params


def _check_ranges(wish: EstimateWish) -> None:
    limits = {
        "seq": MAX_N_CTX,
        "batch": MAX_SEQUENCES,
        "layers": MAX_LAYERS,
        "heads": MAX_HEADS,
        "kv_heads": MAX_HEADS,
        "hidden": MAX_HIDDEN,
    }
    for name, limit in limits.items():
        value = getattr(wish, name)
        if value is not None and not 1 <= value <= limit:
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"{option} {value} is not between 1 and {limit:,}", "llmrun estimate --params 7b --seq 4096"
            )
    if wish.method not in METHODS:
        raise UsageError(f"{wish.method[:40]!r} is no method", f"--method {', '.join(METHODS)}")


def estimate_json(wish: EstimateWish, free: FreeMemory) -> dict[str, object]:
    """Return the estimate for programs: sizes in bytes."""
    found = estimate(wish, free)
    parts = found.inference
    return {
        "params": found.n_params,
        "bits": {"name": found.precision.name, "bits_per_weight": float(found.precision.bpw)},
        "seq": found.seq,
        "batch": found.batch,
        "shape": _shape_json(found.guess),
        "formulas": [_formula_json(formula) for formula in found.formulas],
        "inference": {
            "bytes": parts.size,
            "parts": [_formula_json(part) for part in (parts.weights, parts.kv_cache, parts.compute)],
        },
        "machine": {
            "host_available": free.host_available,
            "devices": [{"name": name, "free": size} for name, size in free.devices],
            "reserve": free.host_reserve,
            "device_reserve": free.device_reserve,
            "cpu": found.fit.on_cpu,
            "gpu": found.fit.on_gpu,
            "mixed": found.fit.mixed,
            "n_gpu_layers": found.fit.n_gpu_layers,
            "smaller_quant": _smaller_quant(found),
        },
    }


def _shape_json(guess: ShapeGuess) -> dict[str, object]:
    names = ("n_layer", "n_head", "n_head_kv", "head_dim", "n_embd", "n_ff", "n_vocab")
    fields = {name: getattr(guess.shape, name) for name in names}
    return {**fields, "like": guess.like.name, "guessed": list(guess.guessed)}


def _formula_json(result: FormulaResult) -> dict[str, object]:
    return {"name": result.name, "bytes": result.size, "formula": result.formula, "source": result.source}


def estimate_text(wish: EstimateWish, free: FreeMemory) -> str:
    """Return the estimate for people: the answer, the formulas, why they differ, and this machine. 80 columns."""
    found = estimate(wish, free)
    blocks = [_answer(found), _rules(found), _reasons(found), _on_this_machine(found)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _answer(found: Estimate) -> list[str]:
    parts, lines = found.inference, []
    if len({formula.name for formula in found.formulas} & {"weights", "activations"}) == 1:  # one was asked for by name
        asked = found.formulas[0]
        lines = _wrap(f'{_both(asked.size)} by the rule of thumb "{_NAMES[asked.name]}".')
    lines += _wrap(
        f"Running a model of {format_count(found.n_params)} parameters at {_bits(found.precision)} takes "
        f"{_both(parts.size)}, in GPU memory, in RAM, or in both together."
    )
    sequences = f", {found.batch} at a time" if found.batch > 1 else ""
    rows = [
        ("weights", parts.weights.size, ""),
        ("KV cache", parts.kv_cache.size, f"{found.seq:,} tokens{sequences}, 16 bits"),
        ("compute", parts.compute.size, "scratch space of one step"),
    ]
    return [*lines, "", *_table(rows), "", *_wrap(_shape_text(found))]


def _bits(precision: Precision) -> str:
    bpw = float(precision.bpw)
    return f"{precision.name} ({bpw:.4g} bits per weight)" if precision.name in QUANT_BPW else f"{bpw:g} bits"


def _shape_text(found: Estimate) -> str:
    guess, shape = found.guess, found.guess.shape
    text = (
        f"Shape: {shape.n_layer} layers, {shape.n_head} heads, {shape.n_head_kv} KV heads of {shape.head_dim}, "
        f"hidden {shape.n_embd}"
    )
    options = {"n_layer": "--layers", "n_head": "--heads", "n_head_kv": "--kv-heads", "n_embd": "--hidden"}
    as_many = "n_head_kv" in guess.guessed and shape.n_head != guess.like.n_head
    taken = [options[name] for name in guess.guessed if not (as_many and name == "n_head_kv")]
    far = not 0.5 <= found.n_params / guess.like.n_params <= 2
    like = f"{guess.like.name} ({format_count(guess.like.n_params)}{', the nearest known, but far away' * far})"
    sentences = [
        text,
        f"What you did not give ({', '.join(taken)}) is as in {like}" if taken else f"Vocabulary as in {like}",
        *(["Without --kv-heads there are as many as heads"] if as_many else []),
    ]
    return ". ".join(sentences) + "."


def _rules(found: Estimate) -> list[str]:
    if not found.formulas:
        return []
    ours = ("llama.cpp", found.inference.size, "")
    rows = [*((_NAMES[formula.name], formula.size, "") for formula in found.formulas), ours]
    lines = ["Rules of thumb, side by side", "", *_table(rows), ""]
    for formula in found.formulas:
        lines += _wrap(f"{_NAMES[formula.name].strip()}: {formula.formula}", indent=2)
    lines += _wrap("llama.cpp: weights + KV cache + compute", indent=2)
    if any(formula.name == "activations" for formula in found.formulas):
        lines += _wrap("(l layers, a heads, b batch, s tokens, h hidden)", indent=2)
    return lines


def _reasons(found: Estimate) -> list[str]:
    names = {formula.name for formula in found.formulas}
    paragraphs = []
    if "weights" in names:
        extra = found.inference.size - found.inference.weights.size
        paragraphs.append(f"Weights only leaves out the KV cache and compute: {_both(extra)} more here.")
    if "activations" in names:
        paragraphs += _activation_reasons(found)
    if usual := _usual_quant(found.precision):
        size = estimate_weights(found.n_params, QUANT_BPW[usual]).size
        paragraphs.append(
            f"Files of {found.precision.name} bits are larger, since each block has its scale: {usual} is "
            f"{float(QUANT_BPW[usual]):.2f} bits per weight, {_both(size)}."
        )
    if not paragraphs:
        return []
    return ["Why they differ" if names else "Note", "", *(line for text in paragraphs for line in _bullet(text))]


def _activation_reasons(found: Estimate) -> list[str]:
    whole = next(formula for formula in found.formulas if formula.name == "activations_per_layer")
    popular = next(formula for formula in found.formulas if formula.name == "activations")
    return [
        "The activations are those of training, which keeps every layer's for the way back, and of each head a score "
        "for every pair of tokens. Running a model keeps K and V of each token (the KV cache) and one step's scratch "
        "space; flash attention never stores the scores. So this formula is far too high for running a model.",
        f"It goes around with the layers on its first term only: {_both(popular.size)}. The paper ({PAPER}) has, "
        f"in bytes of one layer at 16 bits, s·b·h·(34 + 5·a·s/h); over all layers that is {_both(whole.size)}.",
        "Texts that quote it often say GB and mean GiB. It gives activations the bits of the weights; llama.cpp "
        "computes in 32 bits and keeps K and V in 16, whatever the weights are.",
    ]


def _usual_quant(precision: Precision) -> str | None:
    if precision.name in QUANT_BPW or precision.bpw.denominator != 1:
        return None
    return _USUAL_QUANTS.get(precision.bpw.numerator)


def _on_this_machine(found: Estimate) -> list[str]:
    fit = found.fit
    smaller = _smaller_quant(found)
    lines = [
        f"On this machine, with {_reserves(found.free)} left free",
        "",
        *_hanging("CPU", f"{_yes(fit.on_cpu)}: {_need(found)}, {format_bytes(found.free.host_available)} available"),
        *_hanging("GPU", _gpu_text(found)),
        *_hanging("both", _mixed_text(found)),
    ]
    if smaller:
        lines += _hanging("smaller", f"{smaller} runs here: --bits {smaller}")
    elif not fit.anywhere:
        lines += _hanging("smaller", "no usual quantization below it fits: try fewer parameters or a shorter --seq")
    closing = (
        "A model runs on the CPU alone where RAM suffices, only slower: each token reads all weights, and a GPU reads "
        "its memory faster. In mixed mode as many layers as fit are on the GPU (--gpu-layers), the rest on the CPU."
    )
    return [*lines, "", *_wrap(closing)]


def _reserves(free: FreeMemory) -> str:
    host = format_bytes(free.host_reserve)
    return f"{host} of RAM and {format_bytes(free.device_reserve)} of each GPU" if free.devices else host


def _need(found: Estimate) -> str:
    return f"{format_bytes(found.inference.size)} needed"


def _gpu_text(found: Estimate) -> str:
    if not found.free.devices:
        return "no: there is no GPU that llama.cpp can use"
    free = format_bytes(sum(free for _, free in found.free.devices))
    return f"{_yes(found.fit.on_gpu)}: {_need(found)}, {free} free on {_device_names(found)}"


def _mixed_text(found: Estimate) -> str:
    fit, total = found.fit, found.guess.shape.n_layer + 1
    if not found.free.devices:
        return "no: it takes a GPU"
    if fit.on_gpu:
        return "not needed: all of it fits on the GPU"
    if fit.n_gpu_layers == 0:
        return "no: not one layer fits on the GPU"
    return (
        f"{_yes(fit.mixed)}: {fit.n_gpu_layers} of {total} layers on {_device_names(found)}, "
        f"{format_bytes(fit.host_bytes)} in RAM"
    )


def _device_names(found: Estimate) -> str:
    devices = found.free.devices
    return devices[0][0] if len(devices) == 1 else f"{len(devices)} GPUs"


def _smaller_quant(found: Estimate) -> str | None:
    """The best usual quantization that runs here, where what was asked for does not; so it is smaller."""
    if found.fit.anywhere:
        return None
    for name in _SMALLER:
        smaller = estimate_inference(found.n_params, QUANT_BPW[name], found.guess.shape, found.seq, found.batch)
        if estimate_fit(smaller, found.guess.shape.n_layer, found.free).anywhere:
            return name
    return None


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def _both(size: int) -> str:
    return f"{format_decimal_bytes(size)} ({format_bytes(size)})"


def _table(rows: list[tuple[str, int, str]]) -> list[str]:
    """Rows of a name, a size in decimal and in binary units, and a note; aligned."""
    decimal = [format_decimal_bytes(size) for _, size, _ in rows]
    binary = [format_bytes(size) for _, size, _ in rows]
    widths = [max(map(len, column)) for column in ([name for name, _, _ in rows], decimal, binary)]
    return [
        f"  {name:<{widths[0]}}  {gb:>{widths[1]}}  {gib:>{widths[2]}}  {note}".rstrip()
        for (name, _, note), gb, gib in zip(rows, decimal, binary, strict=True)
    ]


def _wrap(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2 * bool(indent)))


def _bullet(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="- ", subsequent_indent="  ")


def _hanging(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {name:<9}", subsequent_indent=" " * 11)
