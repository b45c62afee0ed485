"""A plan as the library gives it: how a model would be run on a machine, its main figures by name, and all as text."""

from __future__ import annotations

from dataclasses import dataclass

from llmrun.cli.plan_text import plan_text
from llmrun.gguf.summary import ModelSummary
from llmrun.pipeline import Planned
from llmrun.planning.forecast import Forecast
from llmrun.planning.plan import Plan, Reason
from llmrun.planning.policy import Where
from llmrun.planning.pools import Pool
from llmrun.settings import RunSettings
from llmrun.variant import Variant


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """How a model is run, or would be; `str()` of it is what `llmrun plan` shows.

    model: what it was asked for by. Everything the planner knows is in `planned`; the properties are what most ask for.
    """

    model: str
    planned: Planned

    def __str__(self) -> str:
        return self.explain()

    def explain(self) -> str:
        """Return it as lines of at most 80 columns: what it takes, why it is so, and what else there is."""
        return plan_text(self.model, self.planned.summary, self.planned.plan)

    @property
    def summary(self) -> ModelSummary:
        """What the model's file says of itself."""
        return self.planned.summary

    @property
    def variant(self) -> Variant:
        """The chosen quantization as files."""
        return self.planned.variant

    @property
    def plan(self) -> Plan:
        """Everything that was chosen, and what else would be better or next in line."""
        return self.planned.plan

    @property
    def quant(self) -> str:
        """The chosen quantization: "Q4_K_M"."""
        return self.plan.quant

    @property
    def size(self) -> int:
        """Bytes of the model's files."""
        return self.variant.size

    @property
    def is_here(self) -> bool:
        """Whether nothing of it has to be fetched."""
        return self.variant.is_here

    @property
    def settings(self) -> RunSettings:
        """Every setting of the engine, by llama.cpp's names."""
        return self.plan.settings

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why each setting has its value."""
        return self.plan.reasons

    @property
    def where(self) -> Where:
        """Where its layers are: "devices", "experts" (those alone in RAM), "split" or "host"."""
        return self.plan.where

    @property
    def n_ctx(self) -> int:
        """Tokens of context."""
        return self._forecast.n_ctx_each

    @property
    def memory(self) -> int:
        """Bytes it takes in all, of RAM and of every device."""
        return self._forecast.total

    @property
    def pools(self) -> tuple[Pool, ...]:
        """What it takes of the host's memory and of each device's, beside what is free there."""
        return self._forecast.pools

    @property
    def tokens_per_second(self) -> float | None:
        """Predicted speed of writing; None where nobody knows."""
        return self.plan.decode

    @property
    def _forecast(self) -> Forecast:
        return self.plan.forecast
