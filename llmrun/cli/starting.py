"""A model loaded by the command itself: planned, fetched, and told about. Heavy to import: only who loads needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmrun import pipeline
from llmrun.chat.kept_model import KeptModel
from llmrun.chat.memory_watch import MemoryWatch
from llmrun.cli.fetching import FetchScreen, listener_of
from llmrun.cli.story import Story
from llmrun.console import Console
from llmrun.errors import LLMRunError
from llmrun.prompt_cache import prompt_key
from llmrun.reference import ModelRef

if TYPE_CHECKING:
    from llmrun.cli.running import Wish


def start_here(
    reference: ModelRef, wish: Wish, console: Console, story: Story, *, hasty: bool = False
) -> pipeline.Started:
    """Plan and load a model, telling about it; the engine is the caller's to close. hasty: as of pipeline.start."""
    story.begin()
    with FetchScreen(console).shown() as screen:
        listener = replace(
            listener_of(console),
            log=console.log if wish.verbose else None,
            planned=story.planned,
            fetch=screen,
            progress=story.loading,
            step=console.say,
        )
        try:
            started = pipeline.start(
                *(reference, wish.constraints, wish.plan, listener, wish.replay), offline=wish.offline, hasty=hasty
            )
        except KeyboardInterrupt:
            console.break_off()
            raise
        except LLMRunError:
            console.clear_status()  # whoever tells of it knows nothing of the line it would stand in
            raise
    console.clear_status()
    if started.engine.info is not None and started.engine.info.notice:
        console.say(f"note: {started.engine.info.notice}")
    return started


def kept_model(name: str, started: pipeline.Started) -> KeptModel:
    """Return what a kept conversation needs to know of it; name: one that means the same in every folder."""
    from llmrun.states import state_key

    settings = started.plan.settings
    key = state_key(started.files, settings)
    return KeptModel(name, started.plan.quant, key, settings.n_ctx, settings.type_k)


def cache_key(started: pipeline.Started) -> str | None:
    """Return what the states of its prompts can be used with."""
    return prompt_key(started.files, started.plan.settings)


def memory_watch(started: pipeline.Started) -> MemoryWatch:
    """Return who sees whether the machine runs short of memory."""
    return MemoryWatch(started.plan.forecast.pools[0].reserve, pipeline.available_memory)
