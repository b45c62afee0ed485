"""Why each setting of a choice is as it is: exactly one reason for each. Pure."""

from __future__ import annotations

from dataclasses import fields
from pathlib import PurePath

from llmrun.planning.candidates import BATCHES_DEVICE, LONGEST_SHARED
from llmrun.planning.choose import Choice, Ground
from llmrun.planning.lent import in_words
from llmrun.planning.plan import Cause, PlannedDraft, Reason, Whose
from llmrun.planning.policy import Policy
from llmrun.planning.quality import loss_class
from llmrun.planning.tuning import reasons
from llmrun.settings import MTP, RunSettings
from llmrun.units import format_bytes

_DEFAULTS = {
    "kv_unified": "each conversation has its own cells",
    "n_batch": "more tokens at once are read in several steps",
    "flash_attn": "llama.cpp decides by what its devices can do",
    "swa_full": "layers with a window keep no more than it",
    "offload_kqv": "each layer's cache lies where the layer does",
    "affinity": "the system places threads",
    "load_mode": "weights on the host are pages of the file, shared and read on demand, where devices allow it",
}


def reasons_of(
    choice: Choice,
    ground: Ground,
    policy: Policy,
    threads: str,
    *,
    only_variant: bool,
    adapters: int = 0,
    draft: PlannedDraft | None = None,
    owner: Whose = "own",
) -> tuple[Reason, ...]:
    """Return the reason for the variant, then for every setting. threads: why so many, in words.

    only_variant: whether there is no other, as where the user named one. adapters: bytes of those it is run with.
    draft: the model that guesses for it. owner: whose the devices are.
    """
    told = {
        "variant": _variant(choice, only_variant=only_variant),
        "n_ctx": _of_each(choice, _context(choice, ground, policy)),
        "type_k": _kv_type(choice, ground),
        "n_gpu_layers": _layers(choice, ground),
        "devices": _devices(choice, ground),
        "tensor_split": _split(choice),
        "cpu_experts": _experts(choice),
        "n_ubatch": _batch(choice),
        "repack": _repack(choice),
        "n_seq_max": _parallel(choice, ground),
        "loras": _loras(choice, adapters),
        "projector": ("USER", "so that it sees images")
        if choice.settings.projector
        else ("DEFAULT", "nothing is to be seen"),
        "draft": _draft_model(draft),
    }
    told |= {"type_v": told["type_k"], "n_outputs_max": _outputs(choice), "n_draft_max": _draft(choice, ground)}
    own = ground.constraints.n_threads is not None
    told |= dict.fromkeys(("n_threads", "n_threads_batch"), ("USER", "as you said") if own else ("SPEED", threads))
    told |= {name: ("DEFAULT", note) for name, note in _DEFAULTS.items()}
    tunings = choice.offer.tunings if ground.tuned else ()
    measured = reasons(choice.settings, tunings, ground.constraints)
    told |= {name: ("MEASURED", note) for name, note in measured.items()}
    values = {"variant": choice.offer.quant} | {
        field.name: _text(getattr(choice.settings, field.name)) for field in fields(RunSettings)
    }
    if choice.settings.projector is not None:
        values["projector"] = PurePath(choice.settings.projector).name
    values["draft"] = "none" if draft is None else draft.name
    notes = {name: (cause, in_words(note, owner)) for name, (cause, note) in told.items()}
    return tuple(Reason(name, value, *notes[name]) for name, value in values.items())


Told = tuple[Cause, str]


def _text(value: object) -> str:
    if value is None:
        return "automatic"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _variant(choice: Choice, *, only_variant: bool) -> Told:
    word = loss_class(choice.offer.loss).name
    if only_variant:
        return "USER", f"as you said ({word})"
    return ("SPEED" if choice.step.order == "speed" else "MEMORY"), choice.step.why


def _context(choice: Choice, ground: Ground, policy: Policy) -> Told:
    if ground.constraints.n_ctx is not None:
        return "USER", "as you said"
    n_ctx = (choice.settings.n_ctx or 0) // choice.settings.n_seq_max
    wished = policy.steps[0].up_to(choice.offer.n_ctx_train)[0]
    if n_ctx == choice.offer.n_ctx_train:
        return "MODEL", "all that the model was trained on"
    if choice.step.order == "context":
        return "MEMORY", "the longest that fits"
    if choice.settings.n_seq_max > 1 and ground.constraints.parallel is None and n_ctx == LONGEST_SHARED:
        return "DEFAULT", "a long conversation for each; --parallel 1 leaves room for a longer one"
    if n_ctx < wished:
        return "MEMORY", "the longest that fits without giving up anything preferred to it"
    return "DEFAULT", "a long conversation; --ctx asks for more"


def _of_each(choice: Choice, told: Told) -> Told:
    """Say of a context that is that of several conversations how long each of them may be."""
    n, n_ctx = choice.settings.n_seq_max, choice.settings.n_ctx
    return told if n == 1 or n_ctx is None else (told[0], f"{n} times {n_ctx // n:,}, {told[1]}")


def _kv_type(choice: Choice, ground: Ground) -> Told:
    if ground.constraints.type_kv is not None:
        return "USER", "as you said"
    if choice.settings.type_k == "f16":
        return "DEFAULT", "nothing is lost"
    return "MEMORY", "with f16 less would fit"


def _layers(choice: Choice, ground: Ground) -> Told:
    if not ground.names:
        note = "the engine sees no GPU"
        return ("USER", f"no effect: {note}") if ground.constraints.n_gpu_layers else ("DEFAULT", note)
    if ground.constraints.n_gpu_layers is not None:
        return "USER", "as you said"
    n_all, n = choice.offer.sizes.n_layer + 1, choice.settings.n_gpu_layers or 0
    if n == n_all:
        return "SPEED", f"all {n_all}, the output included"
    return "MEMORY", f"as many of {n_all} as fit" if n else "none fits on a device"


def _devices(choice: Choice, ground: Ground) -> Told:
    if ground.constraints.devices is not None:
        return "USER", "as you said"
    used = choice.settings.devices or ()
    if used == ground.names:
        return "DEFAULT", "all that the engine sees" if used else "the engine sees no GPU"
    return "MEMORY", "the fewest that suffice" if used else "nothing fits there"


def _split(choice: Choice) -> Told:
    if choice.settings.tensor_split is None:
        return "DEFAULT", "there is nothing to split"
    return "MEMORY", "layers by device: the earlier ones as full as they may be"


def _experts(choice: Choice) -> Told:
    count = choice.settings.cpu_experts
    if count:
        return "MEMORY", f"the experts of {count} layers stay in RAM, so that the rest is on the GPU"
    return "DEFAULT", "none are kept apart" if any(choice.offer.sizes.experts) else "the model has none"


def _batch(choice: Choice) -> Told:
    if not choice.settings.n_gpu_layers:
        return "SPEED", "as fast as more on a CPU, with less memory to compute in"
    full = choice.settings.n_ubatch == BATCHES_DEVICE[0]
    return ("SPEED", "a GPU reads prompts faster in large steps") if full else ("MEMORY", "larger steps do not fit")


def _repack(choice: Choice) -> Told:
    together = choice.settings.n_seq_max > 1 and choice.offer.repacks_together
    if choice.settings.repack and together and not choice.offer.repacks:
        return "SPEED", "the CPU's own layout is faster for conversations that are written at once"
    if choice.settings.repack:
        return "SPEED", "the CPU's own layout is faster for these weights"
    if choice.settings.n_gpu_layers:
        return "SPEED", "weights in RAM are sent to the GPU for long prompts, as they are"
    if choice.offer.repacks or together:
        return "MEMORY", "copies of the weights do not fit"
    return "SPEED", "it does not pay here"


def _loras(choice: Choice, size: int) -> Told:
    if not choice.settings.loras:
        return "DEFAULT", "the model as it is"
    return "USER", f"as you said; {format_bytes(size)}, counted with the weights"


def _draft(choice: Choice, ground: Ground) -> Told:
    if ground.constraints.n_draft_max is not None:
        return "USER", "as you said"
    if choice.settings.n_draft_max and choice.settings.draft is not None:
        return "DEFAULT", "so many tokens at once are guessed, while that is faster"
    if choice.settings.n_draft_max:
        return "DEFAULT", "so many tokens at once are guessed from the conversation, while that is faster"
    return "MODEL", "what it remembers cannot be taken back, where a guess was wrong"


def _draft_model(draft: PlannedDraft | None) -> Told:
    if draft is None:
        return "DEFAULT", "guesses come from the conversation alone"
    if draft.asked == MTP:
        return "USER", f"the model's own layers guess for it, and take {format_bytes(draft.total)}"
    return "USER", f"it guesses for the model; {draft.quant}, {draft.why}, and takes {format_bytes(draft.total)}"


def _outputs(choice: Choice) -> Told:
    if choice.settings.n_outputs_max == 1 + choice.settings.n_draft_max > choice.settings.n_seq_max:
        return "DEFAULT", "a token and the guesses at the next ones, verified at once"
    if choice.settings.n_outputs_max > choice.settings.n_seq_max:
        return "DEFAULT", "so many tokens of a text at once become part of its vector"
    return "DEFAULT", "each conversation draws one token at a time"


def _parallel(choice: Choice, ground: Ground) -> Told:
    if ground.constraints.parallel is not None:
        return "USER", "as you said"
    if ground.slots == (1,):
        return "DEFAULT", "one conversation"
    if choice.settings.n_seq_max == ground.slots[0]:
        return "DEFAULT", "so many clients at once; --parallel asks for more"
    return "MEMORY", "more conversations at once do not fit"
