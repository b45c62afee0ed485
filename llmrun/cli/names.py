"""The names of models, as they mean the same in every folder."""

from __future__ import annotations

import os
from pathlib import Path

from llmrun.reference import LocalRef, ModelRef, format_reference


def lasting_reference(reference: ModelRef) -> str:
    """Return what a reference means, so that two who mean the same model by the same name write the same."""
    if isinstance(reference, LocalRef):
        return str(Path(os.path.expanduser(reference.path)).absolute())  # noqa: PTH111 - Path's raises without that user
    return format_reference(reference)
