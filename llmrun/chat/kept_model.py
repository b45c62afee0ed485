"""The model that answers, as a kept conversation needs to know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeptModel:
    """The model that answers. name: as the user said it; resolved: what that was; state_key: see `states.state_key`.

    n_ctx: tokens; type_kv: of the KV cache.
    """

    name: str
    resolved: str | None = None
    state_key: str | None = None
    n_ctx: int | None = None
    type_kv: str | None = None
