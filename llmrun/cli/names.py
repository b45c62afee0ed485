"""The names of models, as they mean the same in every folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from llmrun.reference import LocalRef, ModelRef, format_reference, parse_reference


def lasting_reference(reference: ModelRef) -> str:
    """Return what a reference means, so that two who mean the same model by the same name write the same."""
    if isinstance(reference, LocalRef):
        return str(Path(os.path.expanduser(reference.path)).absolute())  # noqa: PTH111 - Path's raises without that user
    return format_reference(reference)


def check_names(names: Iterable[str]) -> None:
    """Raise for the first name that means nothing, as far as that is known without a request; see check_meant."""
    from llmrun.hub.settings import hub_address
    from llmrun.models import check_meant

    for name in names:
        check_meant(parse_reference(name, hub_address()))
