"""What llama.cpp really allocates for a draft beside its model; a process of its own.

    python -m tests.draft_loads MODEL SETTINGS

SETTINGS: a plan's, as JSON, with a draft. Loads both and prints one line of JSON: the memory of the draft.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from llmrun.planning.drafts import draft_settings
from llmrun.settings import RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.draft_model import load_draft
from llmrun.worker.llama import Context, load_model, start_backend
from llmrun.worker.log import engine_log
from llmrun.worker.memory_report import report_memory, sizes_of_log


def main() -> None:
    """Do as the module's docstring says."""
    path, values = Path(sys.argv[1]), json.loads(sys.argv[2])
    settings = RunSettings(**values | {"devices": tuple(values["devices"]), "loras": ()})
    start_backend()
    model = load_model(path, settings, lambda _: True)
    context = Context(model, settings, CancelFlag())
    assert settings.draft is not None
    with engine_log().recording() as log:
        draft = load_draft(Path(settings.draft), settings, model, CancelFlag(), lambda _: True)
    own = draft_settings(settings)
    memory = report_memory(draft.context.pointer, draft.context.model, own, log.lines(), sizes_of_log)
    sys.stdout.write(json.dumps(asdict(memory)) + "\n")
    draft.close()
    context.close()
    model.close()


if __name__ == "__main__":
    main()
