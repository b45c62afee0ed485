"""The environment that the real program is run in."""

from __future__ import annotations

import os
from pathlib import Path


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a new user with a terminal of 80 columns."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMRUN_", "XDG_"))}
    runtime = home / "runtime"  # else servers that run beside the tests would be used
    return kept | {
        "XDG_RUNTIME_DIR": str(runtime),
        "HOME": str(home),
        "COLUMNS": "80",
        "TERM": "xterm",
        "OMP_WAIT_POLICY": "passive",
        "NO_COLOR": "1",
    }
