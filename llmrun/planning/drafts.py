"""How a draft model runs beside the model that it guesses for. Pure."""

from __future__ import annotations

from dataclasses import replace

from llmrun.settings import MTP, RunSettings


def draft_settings(settings: RunSettings) -> RunSettings:
    """Return how the draft of a model with these settings is loaded.

    It reads one conversation, as long as the model's may be, and is on the first device as a whole, or on the host
    where the model has no layer on a device: what guesses must be quick. The model's own layers (MTP) are where the
    model has them.
    """
    if settings.draft == MTP:
        return replace(_for_one(settings), draft=MTP)
    devices = settings.devices[:1] if settings.devices and settings.n_gpu_layers != 0 else ()
    return replace(
        _for_one(settings),
        devices=devices,
        n_gpu_layers=None if devices else 0,
        tensor_split=None,
        cpu_experts=0,
        offload_kqv=True,
    )


def _for_one(settings: RunSettings) -> RunSettings:
    """Return settings for one conversation, of which one token at a time is drawn."""
    return replace(
        settings,
        n_ctx=None if settings.n_ctx is None else settings.n_ctx // settings.n_seq_max,
        n_seq_max=1,
        kv_unified=False,
        n_outputs_max=1,
        n_draft_max=0,
        loras=(),
        projector=None,
        draft=None,
    )
