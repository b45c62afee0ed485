"""The models that are served: loaded when they are asked for, kept while memory allows, loaded anew when they die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llmrun.errors import BusyError, LenderLostError, LLMRunError, NotFoundError, QueueFullError
from llmrun.pipeline import Started
from llmrun.server.admission import Admission, Place, default_queue
from llmrun.server.grammars import Grammars
from llmrun.server.keeping import Keeping
from llmrun.server.loaded import LoadedModel, LoadedNow, Served
from llmrun.server.loads import Fallen, Load, SameFileError, Surroundings, in_thread, set_until
from llmrun.server.names import Meant, Names, Offered
from llmrun.server.uses import Uses, recorder

_LOOK_SECONDS = 0.5  # between looks for workers that died unasked and for models whose time is over
_PATIENCE = 30.0  # seconds that a request waits for the memory that others' answers hold
_TOO_SOON = 10.0  # seconds: what dies again so soon waits for a request before it is loaded again
_RETRY = 5.0  # seconds to come again where the memory is in use: about an answer


class _Loading:
    """A load that is under way, and how many wait for it."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.waiting = 0


class Fleet:
    """Models by name, for one event loop; as a context manager it looks after them, and ends them.

    load: starts a model, in a thread. clock: seconds, for how long models stay. tell: gets a line where something
    happened that no request is told of. patience: seconds that a request waits for memory that answers of others hold.
    """

    def __init__(
        self,
        names: Names,
        load: Load,
        keeping: Keeping = Keeping(),
        *,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = lambda _: None,
        patience: float = _PATIENCE,
    ) -> None:
        self._names, self._load, self._keeping = names, load, keeping
        self._clock, self._tell, self._patience = clock, tell, patience
        self._models: list[LoadedModel] = []
        self._loading: dict[str, _Loading] = {}
        self._turn = asyncio.Lock()
        self._change = asyncio.Event()
        self._wanting = 0
        self._uses = Uses()
        self._fallen = Fallen(clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._tending: list[asyncio.Task[None]] = []
        self._closed = False
        self.grammars = Grammars()

    async def __aenter__(self) -> Fleet:
        self._tending.append(asyncio.create_task(self._look_after()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- what there is

    async def offered(self) -> tuple[Offered, ...]:
        """Return the models that may be asked for, those given at the start first, without holding up the loop."""
        return await in_thread(self._names.offered, _drop)

    async def find(self, name: str) -> None:
        """Raise NotFoundError where a name is none that may be asked for, GGUFError where it cannot be run."""
        meant = self._names.meant(name)
        if self._find(meant.key) is None:
            await in_thread(lambda: self._names.paths(meant), _drop)

    def loaded(self) -> tuple[LoadedNow, ...]:
        """Return the models that are loaded, in the order in which they were."""
        now = self._clock()
        return tuple(model.status(now) for model in self._models if not model.closing)

    def loading(self) -> tuple[str, ...]:
        """Return the keys (see names.Meant) of the models that are on their way."""
        return tuple(self._loading)

    # ---- for those who answer

    @asynccontextmanager
    async def borrow(self, name: str, keep_alive: float | None = None, n: int = 1) -> AsyncIterator[Served]:
        """Give a loaded model, which is not taken away meanwhile.

        keep_alive: seconds that it then stays loaded, below 0 is forever, None as the server keeps it. n: answers that
        are wanted of it at once. Raises NotFoundError for what is not here, QueueFullError where too many wait for it,
        BusyError where others need the memory, and what loading raises.
        """
        meant = self._names.meant(name)
        model, place = await self._admitted(meant, n)
        use, begun = self._uses.begin(n), self._clock()
        kept = self._keeping.seconds(model.meant.key, keep_alive, given=model.meant.given)

        def leave() -> None:
            if use.ended:
                return
            self._uses.end(use)
            model.admission.leave(place, self._clock() - begun if served.is_answered else None)
            self._left(model, place, kept)

        served = Served(name or meant.name, model.started, model.engine, recorder(use, model.started.record), leave)
        try:
            yield served
            served.is_answered = True
        finally:
            leave()

    def _left(self, model: LoadedModel, place: Place, kept: float) -> None:
        now = self._clock()
        model.active -= place.n
        model.last_used, model.expires_at = now, now + kept
        if model.has_ended:
            self._spawn(self._revive(model))
        elif kept == 0:
            self._spawn(self._end_if_over(model))
        if not model.active:
            self._changed()

    async def release(self, name: str, *, now: bool = False) -> None:
        """End a model once it has answered those who asked, or now; a pinned one too: who says so means it.

        Raises NotFoundError where none of that name is loaded.
        """
        meant = self._names.meant(name)
        model = self._find(meant.key)
        if model is None:
            raise NotFoundError(f"{meant.name} is not loaded", "`llmrun ps` shows what is")
        model.leaving = True
        ending = self._spawn(self._end(model) if now else self._end_when_idle(model))
        await asyncio.shield(ending)  # who asked for it may go away: the model goes all the same

    def adopt(self, name: str, started: Started) -> None:
        """Take a model that was started already."""
        self._take(self._names.meant(name), started)

    async def hold(self, name: str) -> None:
        """Load a model before anybody asks for it; raises as borrow."""
        async with self.borrow(name):
            pass

    async def close(self) -> None:
        """End all of them, whatever they are doing, and what is being loaded."""
        self._closed = True
        loads = [loading.task for loading in self._loading.values()]
        for task in (*loads, *self._tending):
            task.cancel()
        await asyncio.gather(*loads, *self._tending, return_exceptions=True)
        await asyncio.gather(*map(self._end, tuple(self._models)))
        self.grammars.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- a place at a model

    def _find(self, key: str) -> LoadedModel | None:
        return next((model for model in self._models if key in model.keys), None)

    async def _admitted(self, meant: Meant, n: int) -> tuple[LoadedModel, Place]:
        """Return a model that lives, with the caller counted in."""
        while True:
            model = self._find(meant.key)
            if model is None:
                await self._come(meant)
            elif model.leaving:
                await model.gone.wait()
            elif model.has_ended:
                await self._bury(model, again="now")
            else:
                place = model.admission.enter(n)
                if await self._has_turn(model, place):
                    model.active += place.n
                    return model, place

    async def _has_turn(self, model: LoadedModel, place: Place) -> bool:
        """Let those go first who wait for room; False where the model went for them, and the caller is counted out."""
        is_there = False
        try:
            while self._wanting and not (model.pinned or model.leaving):
                await self._change.wait()
            is_there = not (model.leaving or model.has_ended)
        finally:
            if not is_there:
                model.admission.leave(place)
        return is_there

    # ---- loading

    async def _come(self, meant: Meant) -> None:
        """Wait until a model is loaded; many wait for one load, and no more than may."""
        if self._closed:
            raise _ending()
        queue = default_queue(1) if self._keeping.queue is None else self._keeping.queue
        loading = self._loading.get(meant.key)
        if loading is None:
            loading = self._bring(meant)
        elif loading.waiting > queue:
            raise QueueFullError(
                f"{meant.name} is being loaded, and {loading.waiting} requests wait for it already",
                "ask again in a while",
                retry_after=_RETRY,
            )
        loading.waiting += 1
        try:
            await asyncio.shield(loading.task)
        except asyncio.CancelledError:
            if self._closed and loading.task.cancelled():
                raise _ending() from None
            raise
        finally:
            loading.waiting -= 1

    def _bring(self, meant: Meant, *, revived: bool = False) -> _Loading:
        """Begin to load a model."""
        loading = _Loading(asyncio.create_task(self._brought(meant, revived=revived)))
        self._loading[meant.key] = loading

        def over(task: asyncio.Task[None]) -> None:
            del self._loading[meant.key]
            if not task.cancelled():
                task.exception()  # those who wait for it are told; there may be none any more

        loading.task.add_done_callback(over)
        return loading

    async def _brought(self, meant: Meant, *, revived: bool) -> None:
        """Load a model, as soon as there is room for it."""
        paths = await in_thread(lambda: self._names.paths(meant), _drop)
        deadline = asyncio.get_running_loop().time() + self._patience
        wanting = False
        try:
            while True:
                change = self._change
                try:
                    await self._load_now(meant, paths, revived=revived)
                    return
                except SameFileError as same:
                    paths = frozenset({same.path.resolve()})
                except BusyError as busy:
                    self._wanting += not wanting
                    wanting = True
                    if not await set_until(change, deadline):
                        raise BusyError(busy.message, busy.hint, _RETRY) from busy
        finally:
            self._wanting -= wanting
            self._changed()

    async def _load_now(self, meant: Meant, paths: frozenset[Path], *, revived: bool) -> None:
        """Load a model after those that are being loaded, so that each is planned beside what the last one took."""
        async with self._turn:
            if self._shares(meant, paths):
                return
            around = Surroundings(self, asyncio.get_running_loop())
            started = await in_thread(lambda: self._fallen.load(self._load, meant, around), _discard)
            self._take(meant, started).revived = revived

    def _shares(self, meant: Meant, paths: frozenset[Path]) -> bool:
        """Whether the only file that a name means is loaded, as which it is then known too."""
        for model in self._models if len(paths) == 1 else ():
            if model.path in paths and not model.leaving:
                self._name(model, meant.key)
                return True
        return False

    def _take(self, meant: Meant, started: Started) -> LoadedModel:
        slots = 1 if started.engine.info is None else started.engine.info.n_slots
        now = self._clock()
        model = LoadedModel(meant, started, Admission(meant.name, slots, self._keeping.queue), now, time.time())
        self._name(model, meant.key)
        model.expires_at = now + self._keeping.seconds(meant.key, None, given=meant.given)
        self._models.append(model)
        return model

    def _name(self, model: LoadedModel, key: str) -> None:
        model.keys.add(key)
        model.pinned = not self._keeping.pinned.isdisjoint(model.keys)

    # ---- what a load sees of the others (loads.House)

    def around(self) -> tuple[LoadedModel, ...]:
        """Return the models that are loaded: those that are idle first, the one that was so longest before the rest."""
        return tuple(sorted(self._models, key=lambda model: (model.state != "idle", model.last_used)))

    def holds(self, path: Path) -> bool:
        """Whether a file is loaded, and not about to go."""
        return any(model.path == path.resolve() and not model.leaving for model in self._models)

    async def give_way(self, model: LoadedModel) -> bool:
        """End a model and wait until it is gone; False where somebody needs it."""
        if model.state != "idle":
            return False
        await self._end(model)
        return True

    # ---- ends

    async def tend(self) -> None:
        """End those whose time is over, and bury those that died, once."""
        for model in tuple(self._models):
            if model.has_ended:
                await self._revive(model)
            else:
                await self._end_if_over(model)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._spawn(self.tend())  # which may take as long as a load, or end in a fault

    async def _end_if_over(self, model: LoadedModel) -> None:
        if model.state == "idle" and self._clock() >= model.expires_at:
            await self._end(model)

    async def _end_when_idle(self, model: LoadedModel) -> None:
        while model.active and not model.closing:
            await self._change.wait()
        await self._end(model)

    async def _end(self, model: LoadedModel) -> None:
        """End a model's worker, and wait until it is gone, whoever began with it."""
        model.leaving = True
        if not model.closing:
            model.closing = True
            self._spawn(self._close(model))
        await model.gone.wait()

    async def _close(self, model: LoadedModel) -> None:
        try:
            await model.engine.close()
        finally:
            self._models.remove(model)
            model.gone.set()
            self._changed()

    async def _revive(self, model: LoadedModel) -> None:
        """Bury a model whose worker died; one that is always to be there is loaded anew."""
        if model.closing or self._closed:
            return
        stays = (model.meant.given or model.pinned) and not self._fell_soon(model)
        await self._bury(model, again="now" if stays or model.meant.key in self._loading else "when it is asked for")
        if not stays or model.meant.key in self._loading:
            return
        try:
            await asyncio.shield(self._bring(model.meant, revived=True).task)
        except LLMRunError as error:
            self._tell(f"{model.name} is loaded again when it is asked for: {error.message}")

    def _fell_soon(self, model: LoadedModel) -> bool:
        return model.revived and self._clock() - model.loaded_at < _TOO_SOON

    async def _bury(self, model: LoadedModel, *, again: str) -> None:
        """Clear away a model whose worker died, and tell why; again: when it is loaded again."""
        is_known = model.closing
        # else it may be memory that it dies of, or a device that is not there any more: another plan is needed
        if not (self._fell_soon(model) or isinstance(model.engine.death, LenderLostError)):
            self._fallen.note(model.meant.key, model.started)
        await self._end(model)
        if not is_known:
            self._tell(f"{model.death_line()}; it is loaded again {again}")

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _ending() -> BusyError:
    return BusyError("the server is about to end", "ask again when it has started anew", _RETRY)


def _discard(started: Started) -> None:
    started.engine.close()


def _drop(_: object) -> None: ...
