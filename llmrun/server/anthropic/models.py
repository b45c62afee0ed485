"""The models that are served, as Anthropic lists them: for who says that it speaks this API. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Both APIs list models at one path; only Anthropic's clients send this, and always
_HEADER = "anthropic-version"
_UNKNOWN_DATE = "1970-01-01T00:00:00Z"  # as Anthropic does where it does not know


def speaks_anthropic(headers: Mapping[str, str]) -> bool:
    """Tell whether a client wants a list of Anthropic's kind."""
    return _HEADER in headers


def model_of(name: str) -> dict[str, Any]:
    """Return one model."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": _UNKNOWN_DATE,
        "lifecycle": "active",
    }


def list_of(names: Sequence[str]) -> dict[str, Any]:
    """Return all models, on one page."""
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return {"data": [model_of(name) for name in names], "has_more": False} | ends
