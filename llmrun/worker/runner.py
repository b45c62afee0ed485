"""What the worker holds between commands: the loaded model, its context and its conversation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engine.protocol import (
    AskProjector,
    CountTokens,
    DeviceList,
    DryRun,
    DryRunResult,
    Event,
    Generate,
    ListDevices,
    Load,
    Loaded,
    LoadProgress,
    Measure,
    Measured,
    MeasureProgress,
    ModelInfo,
    Phase,
    ProjectorAsked,
    Tokenize,
    Work,
)
from llmrun.engine.sharing import Count, Embed, Shared, Submit, Withdraw
from llmrun.engine.states import RestoreState, SaveState
from llmrun.engine.wire import as_text
from llmrun.errors import EngineError, LLMRunError
from llmrun.hardware.spare import Spare
from llmrun.memory.engine_memory import EngineMemory
from llmrun.planning.drafts import draft_settings
from llmrun.planning.timing import Compare, Compared
from llmrun.settings import MTP, RunSettings
from llmrun.worker.batching import Batcher
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.chat_format import load_chat_template
from llmrun.worker.crew import Crew
from llmrun.worker.devices import devices, engine_info
from llmrun.worker.draft_model import DraftModel, load_draft
from llmrun.worker.job import Job, Say
from llmrun.worker.llama import Context, Model, load_model, start_backend
from llmrun.worker.log import engine_log
from llmrun.worker.memory_report import report_memory, sizes_of_log
from llmrun.worker.mtp import MtpLayers, load_layers
from llmrun.worker.pages import Collapse, are_forbidden, gives_memory_back, new_pages, read_ranges, small_pages
from llmrun.worker.prompt import PromptEncoder
from llmrun.worker.session import Session
from llmrun.worker.slot import Slot
from llmrun.worker.speculation import Speculation
from llmrun.worker.template import ChatTemplate

if TYPE_CHECKING:
    from llmrun.worker.vision import Vision

_PROGRESS_INTERVAL = 0.1  # seconds


class Runner:
    """Carries out commands, one at a time; `cancel` may be raised from another thread meanwhile."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        start_backend()
        self.cancel = CancelFlag()
        self.batcher: Batcher | None = None  # what answers many at once, where a model is loaded
        self._emit = emit
        self._session: Session | None = None
        self._gives_back = gives_memory_back() and not are_forbidden()
        self._collapse = Collapse()

    def carry_out(self, command: Work) -> None:
        """Run a command to its end, emitting events; raises LLMRunError."""
        match command:
            case Load():
                self._load(command)
            case Generate():
                self._loaded().answer(command, self._emit)
            case CountTokens():
                self._emit(self._loaded().count(command, self._emit))
            case Tokenize():
                self._emit(self._loaded().tokenize(command.request, self._emit))
            case SaveState():
                self._emit(Phase("state"))
                self._emit(self._loaded().save(_path(command.path), command.offset, command.limit, command.tokens))
            case RestoreState():
                self._emit(Phase("state"))
                path = _path(command.path)
                session = self._loaded()
                self._sharing().forget()  # what cannot be restored is cleared with all memory
                self._emit(session.restore(path, command.offset, command.size, command.sha256))
            case DryRun():
                from llmrun.worker.dry_run import dry_run  # here: who only answers starts without it

                self._emit(Phase("dry_run"))
                self._emit(DryRunResult(dry_run(command.header, command.size, command.settings, command.adapters)))
            case AskProjector():
                from llmrun.worker.projector import ask_projector  # here: most models see nothing

                self._emit(Phase("dry_run"))
                self._emit(ProjectorAsked(ask_projector(command.header, command.size, command.settings)))
            case ListDevices():
                self._emit(Phase("devices"))
                self._emit(DeviceList(devices().list(command.endpoints), engine_info()))
            case Measure():
                self._emit(Phase("measure"))
                self._measure(command)
            case Compare():
                from llmrun.worker.compare import compare  # here, as above

                self._emit(Phase("measure"))
                tell = self._throttled(MeasureProgress)
                self._emit(Compared(compare(_path(command.path), command, self.cancel, tell)))

    def _loaded(self) -> Session:
        if self._session is None:
            raise EngineError("no model is loaded")
        return self._session

    def tidy(self) -> bool:
        """Do a moment's work that makes later steps faster, while nobody waits; tells whether there is more."""
        return self._collapse.step()

    def share(self, command: Shared, say: Say) -> None:
        """Take up something about one request of many; `say` gets what there is to say of it, and the last word.

        Raises LLMRunError where that is the last word.
        """
        match command:
            case Submit():
                self._sharing().submit(Job(command.id, command.owner, command.request, say))
            case Count():
                say(self._sharing().count(command.request))
            case Embed():
                self._sharing().embedder.submit(command, say)
            case Withdraw() if self.batcher is not None:
                self.batcher.withdraw(command.id)

    def _sharing(self) -> Batcher:
        if self.batcher is None:
            raise EngineError("no model is loaded")
        return self.batcher

    def _measure(self, command: Measure) -> None:
        from llmrun.worker.measure import DEFAULT_SIZE, measure  # here: who only answers starts without it

        tell = self._throttled(MeasureProgress)
        size = DEFAULT_SIZE if command.size is None else command.size
        wanted = command.needs, command.known, command.settings
        self._emit(Measured(measure(*wanted, self.cancel, tell, size, link=command.link)))

    def _load(self, command: Load) -> None:
        if self._session is not None:
            raise EngineError("a model is loaded already: a worker holds one")
        started = time.perf_counter()
        self._emit(Phase("load"))
        path = _path(command.path)
        tell, tell_draft = self._tell_progress(path, command.settings)
        before = read_ranges()
        with engine_log().recording() as log, small_pages(self._gives_back):
            model = load_model(path, command.settings, tell)
            self._collapse = Collapse(new_pages(before, read_ranges()) if self._gives_back else ())
            vision: Vision | None = None
            try:
                model.load_adapters([(Path(lora.path), lora) for lora in command.settings.loras])
                vision = _load_vision(model, command.settings)
                context = Context(model, command.settings, self.cancel)
            except LLMRunError:  # so that other settings can be tried
                _close(model, vision)
                raise
        memory = _report(context, model, command.settings, log.lines())
        try:
            draft, draft_memory = self._load_draft(context, command.settings, tell_draft)
        except LLMRunError:
            context.close()
            _close(model, vision)
            raise
        context.crew = _crew([context] if draft is None else [context, draft.context], command)
        devices().keep(command.settings.devices or ())
        self._emit(Phase("template"))
        template = load_chat_template(model)
        encoder = PromptEncoder(model.vocabulary, template, vision)
        slots = [Slot(context, seq) for seq in range(context.n_seq_max)]
        speculation = Speculation(context, model=draft)
        self._session = Session(context, slots[0], encoder, self.cancel, vision, speculation)
        self.batcher = Batcher(context, slots, encoder, self.cancel, vision, self._emit, speculation)
        info = _describe(path, model, context, template, memory, time.perf_counter() - started)
        self._emit(Loaded(replace(info, vision=vision is not None, draft_memory=draft_memory)))

    def _load_draft(
        self, base: Context, settings: RunSettings, tell: Callable[[float], bool]
    ) -> tuple[DraftModel | MtpLayers | None, EngineMemory | None]:
        """Load what guesses for a model that is loaded, if anything is to; tells what it took, too."""
        if settings.draft is None:
            return None, None
        draft: DraftModel | MtpLayers
        with engine_log().recording() as log, small_pages(self._gives_back):
            if settings.draft == MTP:
                draft = load_layers(base, settings, self.cancel)
            else:
                draft = load_draft(Path(settings.draft), settings, base.model, self.cancel, tell)
        return draft, _report(draft.context, draft.context.model, draft_settings(settings), log.lines())

    def _tell_progress(self, path: Path, settings: RunSettings) -> tuple[Callable[[float], bool], ...]:
        """Return who tells how far the model is loaded, and who its draft: each has its file's share of the whole."""
        tell = self._throttled(LoadProgress)
        sizes = _size(path), 0 if settings.draft is None or settings.draft == MTP else _size(Path(settings.draft))
        share = sizes[0] / max(1, sum(sizes))

        def on_progress(first: float, part: float, fraction: float) -> bool:
            tell(first + part * fraction)
            return not self.cancel.is_set()

        return partial(on_progress, 0.0, share), partial(on_progress, share, 1 - share)

    def _throttled(self, event: type[LoadProgress | MeasureProgress]) -> Callable[[float], None]:
        told = time.perf_counter()

        def tell(fraction: float) -> None:
            nonlocal told
            if time.perf_counter() - told >= _PROGRESS_INTERVAL:
                told = time.perf_counter()
                self._emit(event(fraction))

        return tell


def _crew(contexts: Sequence[Context], command: Load) -> Crew | None:
    """Return who chooses the threads of the first of the contexts; the other's follow."""
    if command.most_threads is None:
        return None
    start = command.settings.n_threads, command.settings.n_threads_batch

    def set_threads(decode: int, batch: int) -> None:
        for context in contexts:
            context.set_threads(decode, batch)

    return Crew(start, command.most_threads, set_threads, Spare())


def _close(model: Model, vision: Vision | None) -> None:
    if vision is not None:
        vision.close()  # first: it holds on to the model
    model.close()


def _size(path: Path) -> int:
    """Return a file's bytes, 0 where it cannot be looked at, which loading it will tell."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _path(text: str) -> Path:
    return Path(os.fsdecode(text.encode("latin-1")))


def _load_vision(model: Model, settings: RunSettings) -> Vision | None:
    if settings.projector is None:
        return None
    from llmrun.worker.vision import Vision  # here: a library more, which most models do not need

    return Vision(model.pointer, Path(settings.projector), settings)


def _report(context: Context, model: Model, settings: RunSettings, lines: Sequence[str]) -> EngineMemory | None:
    """Tell what the load took; a report that cannot be made must not undo a good load."""
    try:
        return report_memory(context.pointer, model, settings, lines, sizes_of_log)
    except (LLMRunError, AttributeError):  # AttributeError: a function this engine does not have
        return None


def _describe(
    path: Path, model: Model, context: Context, template: ChatTemplate, memory: EngineMemory | None, seconds: float
) -> ModelInfo:
    notices = [template.notice] if template.notice else []
    if 0 < model.n_ctx_train < context.n_ctx:
        notices.append(
            f"a context of {context.n_ctx:,} tokens is more than the {model.n_ctx_train:,} the model was trained on"
        )
    return ModelInfo(
        name=model.metadata("general.name") or as_text(path.stem),
        architecture=model.metadata("general.architecture") or "unknown",
        description=model.description(),
        size=model.size,
        n_params=model.n_params,
        n_ctx=context.n_ctx,
        n_ctx_train=model.n_ctx_train,
        template=template.source_name,
        notice="; ".join(notices) or None,
        sampling=model.recommended_sampling(),
        load_seconds=seconds,
        memory=memory,
        thinking=template.thinking,
        tools=template.tools.name if template.tools else None,
        n_slots=context.n_seq_max,
        infill=model.vocabulary.infill is not None,
    )
