"""What `import llmrun` is for: a model loaded to talk with, a plan, this machine.

Prints nothing, and asks nobody: what there is to tell goes to the functions that are handed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmrun import pipeline
from llmrun.engine.client import Engine
from llmrun.errors import EngineError
from llmrun.library.chat import Chat
from llmrun.library.model_plan import ModelPlan
from llmrun.library.options import (
    AnswerOptions,
    AnswerWish,
    LoadOptions,
    RunOptions,
    check_names,
    constraints_of,
    plan_wish_of,
)
from llmrun.models import check_meant
from llmrun.reference import LocalRef, ModelRef, parse_reference
from llmrun.variant import ModelFile

if TYPE_CHECKING:
    from typing import Unpack

    from llmrun.hardware.hardware import Hardware
    from llmrun.hub.fetch import FetchListener

Model = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a model has come. part: 0 to 1; file: the one that is fetched, None while it is loaded."""

    stage: Literal["fetch", "load"]
    part: float
    file: str | None = None


def load(
    model: Model,
    *,
    system: str | None = None,
    offline: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_plan: Callable[[ModelPlan], None] | None = None,
    **options: Unpack[LoadOptions],
) -> Chat:
    """Plan, fetch where it is not here, and load a model; return a chat with it, to be closed.

    model: as on the command line ("guide", "qwen3:4b", "owner/repo:Q4_K_M", "./model.gguf"), or a Path. options: see
    RunOptions and AnswerOptions. system: who the model is to be. offline: fetch nothing. on_plan hears the plan before
    anything is fetched or loaded, on_note what a person would be told.

    Raises UsageError, NotFoundError, HubError, GGUFError, InsufficientMemoryError or EngineError, and leaves no process
    behind; of a model that is fetched, what came is kept and gone on with.

        >>> import llmrun
        >>> with llmrun.load("guide", temperature=0, system="answer briefly") as chat:
        ...     for chunk in chat.stream("can i run a model without a gpu?"):
        ...         print(chunk.text, end="")
        CPU-only running works, no graphics card is required: ...
    """
    check_names("load", options, LoadOptions)
    wish = AnswerWish().changed(
        {name: value for name, value in options.items() if name in AnswerOptions.__annotations__}
    )
    reference, name = _reference(model), os.fspath(model)
    note = on_note or _nobody
    listener = pipeline.Listener(
        note=note,
        slow=lambda host: note(f"{host} has not answered yet, waiting for it"),
        planned=None if on_plan is None else lambda planned: on_plan(ModelPlan(name, planned)),
        fetch=_fetching(on_progress or _nobody, note),
        progress=None if on_progress is None else lambda part: on_progress(Progress("load", part)),
        step=note,
    )
    started = pipeline.start(reference, constraints_of(options), plan_wish_of(options), listener, offline=offline)
    try:
        chat = Chat(name, started, wish, system)
        for text in filter(None, (chat.info.notice, chat.notice)):
            note(text)
    except BaseException:
        started.engine.close()
        raise
    return chat


def plan(
    model: Model, *, on: str | Hardware | None = None, offline: bool = False, **options: Unpack[RunOptions]
) -> ModelPlan:
    """Return how a model would be run, and why so; nothing of it is fetched but its header, nothing is loaded.

    on: another machine, in words ("rtx4090+64GiB") or as `llmrun hardware --json` describes it; None is this one.
    options: see RunOptions. Raises InsufficientMemoryError where nothing fits, with the nearest that does, UsageError,
    NotFoundError, HubError, GGUFError or EngineError.

        >>> import llmrun
        >>> plan = llmrun.plan("guide", ctx=1024)
        >>> plan.n_ctx, plan.settings.n_ctx, plan.where
        (1024, 1024, 'host')
        >>> print(plan)
        guide: 6.6M parameters, ...
    """
    check_names("plan", options, RunOptions)
    if isinstance(on, str):
        from llmrun.hardware.what_if import parse_machine

        on = parse_machine(on)
    planned = pipeline.plan(_reference(model), constraints_of(options), plan_wish_of(options), on, offline=offline)
    return ModelPlan(os.fspath(model), planned)


def hardware() -> Hardware:
    """Return this machine: its memory, processor and threads, and the devices that the engine can use.

    Takes as long as an engine takes to start. Never raises because something is lacking: what could not be seen is
    told in `notes`.

        >>> import llmrun
        >>> machine = llmrun.hardware()
        >>> machine.host.memory.available <= machine.host.memory.total
        True
    """
    from dataclasses import replace

    from llmrun.hardware.detect import detect

    try:
        with Engine() as engine:
            return detect(engine.devices())
    except EngineError as error:
        found = detect(())
        return replace(found, notes=(*found.notes, f"the engine could not be asked: {error.message}"))


def _reference(model: Model) -> ModelRef:
    if not isinstance(model, str):
        return LocalRef(Path(model))
    reference = parse_reference(model, pipeline.hub_address())
    check_meant(reference)
    return reference


def _fetching(tell: Callable[[Progress], None], note: Callable[[str], None]) -> FetchListener:
    from llmrun.hub.fetch import FetchListener

    def progress(file: ModelFile, done: int) -> None:
        tell(Progress("fetch", done / max(1, file.size), file.name))

    return FetchListener(
        started=progress,
        progress=progress,
        retrying=lambda file, why, seconds: note(f"{file.name}: {why}: trying again in {seconds:.0f} s"),
        restarting=lambda file, why: note(f"{file.name}: {why}: fetching it from its begin"),
        slow=lambda host: note(f"{host} has not answered yet, waiting for it"),
    )


def _nobody(_: object) -> None: ...
