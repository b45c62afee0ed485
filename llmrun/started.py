"""A model as it is planned, and as it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Usage
from llmrun.planning.plan import Plan

if TYPE_CHECKING:  # who starts a model again needs none of what plans
    from llmrun.gguf.summary import ModelSummary
    from llmrun.site import Site
    from llmrun.variant import Variant


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, what the model's file says of itself, the files it lies in, and the machine that was planned for."""

    summary: ModelSummary
    variant: Variant
    plan: Plan
    site: Site


@dataclass(frozen=True, slots=True)
class Started:
    """A loaded model, what its file says, and the plan it was loaded by; the engine is the caller's to close.

    record: remembers how fast an answer was beside what was predicted for it. most_threads: see engine.protocol.Load.
    """

    engine: Engine
    planned: Planned
    record: Callable[[Usage], None]
    most_threads: tuple[int, int] | None = None

    @property
    def summary(self) -> ModelSummary:
        """What its file says."""
        return self.planned.summary

    @property
    def plan(self) -> Plan:
        """How it is run."""
        return self.planned.plan

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that what it has in memory depends on, but for the projector's."""
        loaded = [file.origin for file in self.planned.variant.files if isinstance(file.origin, Path)]
        return (*loaded, *(Path(lora.path) for lora in self.plan.settings.loras))

    def again(self) -> Started:
        """Load it once more as it was, where its worker died: what that took is free. Raises what loading raises."""
        engine = Engine()
        try:
            engine.load(self.planned.variant.path, self.plan.settings, most_threads=self.most_threads)
        except BaseException:
            engine.close()
            raise
        return replace(self, engine=engine)
