"""What is said where a model runs on the CPU, and a GPU of this machine lies idle."""

from __future__ import annotations

from llmrun.console import Console, one_line
from llmrun.settings import Constraints
from llmrun.site import Site


def tell_idle_gpu(site: Site, constraints: Constraints, console: Console) -> None:
    """Say that there is a GPU which the engine does not use, unless the user wants none."""
    if site.devices or not site.here or constraints.devices is not None or constraints.n_gpu_layers == 0:
        return
    from llmrun.hardware.idle import idle_note  # here: a machine whose devices are used needs nothing of it

    if (note := idle_note()) is not None:
        console.say(f"note: {one_line(note)}")
