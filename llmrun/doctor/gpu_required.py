"""What --require-gpu does: an error that says why there is none, in the place of an answer at a CPU's pace."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmrun.doctor.checks import check
from llmrun.doctor.facts import Facts
from llmrun.errors import EngineError
from llmrun.hardware.device import Device


def require_gpu(devices: Sequence[Device], facts: Callable[[], Facts]) -> None:
    """Raise EngineError unless there is a device that layers can be given to.

    devices: those the engine would use. facts: reads what explains the lack; called only then, since it takes a second.
    """
    if devices:
        return
    problems = [finding for finding in check(facts()) if finding.level == "problem" and finding.engine]
    if not problems:
        raise EngineError("a GPU is required, and none was found", "without --require-gpu it runs on the CPU")
    cause = next((finding for finding in problems if finding.check == "gpu"), problems[0])
    raise EngineError(f"a GPU is required: {cause.text}", "`llmrun doctor` says what to do")
