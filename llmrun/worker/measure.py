"""Measuring what computing costs on this machine, through the engine itself: probes are loaded, and their steps timed.

A probe's weights are never made: its file is a hole, which reads as zeros, and those take as long as any numbers.
They are copied into memory of their own, as a model's are. Must not know what the costs are used for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from llmrun.errors import EngineError
from llmrun.gguf.encode import encode_header
from llmrun.gguf.header import GGUFHeader, align
from llmrun.hardware.device import Device, Lender
from llmrun.hardware.link import Link
from llmrun.memory.compute import compute_shape
from llmrun.memory.placement import place_layers
from llmrun.planning.fitting import Probed, cost, fit_batch, fit_experts, fit_one_token, mostly, slope, spread, typical
from llmrun.planning.link import CELL_STEP, Lines, Step
from llmrun.planning.rates import AttentionCost, BaseCosts, Cost, Needs, Rates
from llmrun.planning.work import ModelWork, model_work
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.devices import devices
from llmrun.worker.dry_run import ghost
from llmrun.worker.llama import Context, load_model
from llmrun.worker.log import engine_log
from llmrun.worker.probes import (
    CACHE,
    FEW_LAYERS,
    HEADS,
    MANY_LAYERS,
    TOKENS,
    Probe,
    header_of,
    narrow,
    needed_numbers,
    wide,
    with_experts,
)
from llmrun.worker.sampling import Sampler

# Bytes of matrices in a probe that reads them: three times the last cache of most processors, or the cache is measured.
DEFAULT_SIZE = 96 << 20
_PARTS = 4  # a batch is measured whole, and this part of it
_DEPTH, _CACHE_DEPTH = 1024, 256  # tokens in the cache where attention is measured, in few layers and in many
# How often a step is timed: until it has taken so many seconds, but so often at least and at most
_BUDGET, _FEWEST, _MOST = 0.5, 4, 40
_AT_ONCE = 4
_PATIENCE, _CALM = 2.0, 0.1  # seconds, while the middle half of the times reaches further than this part of them
_LONGEST = 8.0  # seconds, after which two times are enough: threads collapse where cores are busy
_LEAST = 0.5  # of a step's time is the device's at least, whatever a link that varies is thought to take
_CANCELLED = 2  # llama_decode's status


class _CancelledError(Exception):
    """The parent lost interest."""


def measure(
    needs: Needs,
    known: Rates,
    settings: RunSettings,
    cancel: CancelFlag,
    on_progress: Callable[[float], None] = lambda _: None,
    size: int = DEFAULT_SIZE,
    *,
    link: Link | None = None,
) -> Rates | None:
    """Return the costs that are needed and not known, None where that was cancelled.

    settings: the threads, batch size, devices and repacking that count. on_progress gets 0 to 1. size: bytes of the
    largest probes. link: to whose device it is, None is this machine's: what it takes by prediction is not counted, as
    it is added again to what is predicted from these costs. Raises what loading them raises.
    """
    done = n_steps = 0
    meter = _Meter(settings, cancel, size, known, lambda: on_progress(done / n_steps))
    meter.link = link
    steps = meter.steps(needs)
    n_steps = len(steps)
    try:
        for step in steps:
            step()
            done += 1
    except _CancelledError:
        return None
    return meter.found


class _Meter:
    """Measures one cost after another; `found` is what it found, the costs known before left out."""

    def __init__(
        self, settings: RunSettings, cancel: CancelFlag, size: int, known: Rates, on_step: Callable[[], None]
    ) -> None:
        self._settings = replace(
            settings,
            n_ctx=2 * _DEPTH,
            n_seq_max=1,
            n_outputs_max=1,
            n_batch=max(settings.n_batch, settings.n_ubatch),
            load_mode="none",
            type_k="f16",
            type_v="f16",
            cpu_experts=0,
        )
        self._cancel = cancel
        self._size = size
        self._on_step = on_step
        self._known = known
        self._lines: dict[Context, Lines] = {}
        self._n_open = 0  # probes
        self.link: Link | None = None
        self.found = Rates()

    def steps(self, needs: Needs) -> list[Callable[[], None]]:
        """Return what is to be done, in order: each is measured against what was measured before."""
        # the choice of experts is a matrix of 32-bit floats
        wanted = replace(needs, matrices=needs.matrices | needs.experts | ({"F32"} if needs.experts else set()))
        missing = replace(wanted, attention=needs.attention | {"f16"}, base=True).beyond(self._known)
        if not needs.beyond(self._known):
            return []
        steps: list[Callable[[], None]] = [partial(self._attention, name) for name in sorted(missing.attention)]
        if missing.base:
            steps += [self._base]
        steps += [partial(self._matrices, name) for name in sorted(missing.matrices)]
        return steps + [partial(self._experts, name) for name in sorted(missing.experts)]

    @property
    def _rates(self) -> Rates:
        return self._known.merged(self.found)

    def _attention(self, kv_type: str) -> None:
        settings = replace(self._settings, type_k=kv_type, type_v=kv_type)
        reads, shallow, deep, each, _ = self._at_depths(HEADS, settings, _DEPTH)
        n = _DEPTH // len(reads)
        prefill = slope([each * n * align((done + 1) * n, CELL_STEP) for done in range(len(reads))], reads)
        decode = cost(mostly(typical(deep) - typical(shallow), deep) / (each * _DEPTH), deep)
        # the same where the cache lies in memory: what is more is reading it
        settings = replace(settings, n_ctx=2 * _CACHE_DEPTH)
        _, shallow, deep, each, size = self._at_depths(CACHE, settings, _CACHE_DEPTH)
        more = typical(deep) - typical(shallow) - decode.seconds * each * _CACHE_DEPTH
        found = AttentionCost(decode, cost(more / (size * _CACHE_DEPTH), deep), cost(prefill, deep))
        self.found = self.found.merged(Rates(attention={kv_type: found}))

    def _at_depths(
        self, probe: Probe, settings: RunSettings, depth: int
    ) -> tuple[Sequence[float], Sequence[float], Sequence[float], float, int]:
        """Time one token alone, the batches that fill the cache, and one token after them.

        Returned are the batches' times, those of tokens before and after, and for each token looked back on the
        multiply-adds and the bytes of all layers.
        """
        with self._opened(probe, settings) as (context, work):
            shallow = self._times(context, 1)
            context.forget()
            n = context.n_step
            batches = [self._step(context, n, done) for done in range(0, depth - depth % n, n)]
            deep = self._times(context, 1, n_past=len(batches) * n)
        heads = [layer.heads for layer in work.layers if layer.heads is not None]
        each = sum(one.multiplications(1) for one in heads)
        return batches, shallow, deep, each, sum(one.cell_size(settings.type_k, settings.type_v) for one in heads)

    def _base(self) -> None:
        few, many = self._decodes(FEW_LAYERS), self._decodes(MANY_LAYERS)
        layer = mostly(typical(many) - typical(few), many) / (MANY_LAYERS.n_layer - FEW_LAYERS.n_layer)
        call = typical(few) - FEW_LAYERS.n_layer * layer
        self.found = self.found.merged(Rates(BaseCosts(cost(call, few), cost(layer, many), self._logit())))

    def _decodes(self, probe: Probe) -> Sequence[float]:
        with self._opened(probe, self._settings) as (context, _):
            return self._times(context, 1)

    def _logit(self) -> Cost:
        with self._opened(TOKENS, self._settings) as (context, _):
            self._step(context, 1, 0)
            sampler = Sampler(Sampling(seed=0), TOKENS.n_vocab, ())
            times = [_seconds(partial(sampler.draw, context)) for _ in range(_MOST)]
            sampler.close()
        return cost(typical(times) / TOKENS.n_vocab, times)

    def _matrices(self, type_name: str) -> None:
        with (
            self._opened(wide(type_name, self._size), self._settings) as (long, long_work),
            self._opened(narrow(type_name, self._size), self._settings) as (short, short_work),
        ):
            n = long.n_step
            one, short_one, small, large, narrow_batch = self._in_turns(
                (long, long_work, 1),
                (short, short_work, 1),
                (long, long_work, n // _PARTS),
                (long, long_work, n),
                (short, short_work, n // _PARTS),
            )
        found = fit_one_token(type_name, self._rates, self._settings, one, short_one)
        self.found = self.found.merged(Rates(matrices={type_name: found}))
        found = fit_batch(type_name, self._rates, self._settings, small, large, narrow_batch)
        self.found = self.found.merged(Rates(matrices={type_name: found}))

    def _experts(self, type_name: str) -> None:
        with self._opened(with_experts(type_name, self._size), self._settings) as (context, work):
            small, large = self._in_turns((context, work, context.n_step // _PARTS), (context, work, context.n_step))
        found = fit_experts(type_name, self._rates, self._settings, small, large)
        self.found = self.found.merged(Rates(experts={type_name: found}))

    def _in_turns(self, *steps: tuple[Context, ModelWork, int]) -> list[Probed]:
        """Time several steps in turns: what disturbs the machine for a while disturbs them all alike.

        The first round warms up; steps of one token are taken a few at once, because the step before cooled the cache.
        """
        times: list[list[float]] = [[] for _ in steps]
        rounds, started = 0, time.perf_counter()
        while rounds < _MOST:
            seconds = time.perf_counter() - started
            if rounds >= _FEWEST and seconds > _BUDGET and (seconds > _PATIENCE or max(map(spread, times)) < _CALM):
                break
            if rounds >= 2 and seconds > _LONGEST:
                break
            for (context, _, n_tokens), taken in zip(steps, times, strict=True):
                context.forget()
                count = _AT_ONCE if n_tokens == 1 else 1
                taken += [self._step(context, n_tokens, index) for index in range(count)][-max(1, count - 1) :]
            rounds += 1
        return [
            (work, n_tokens, taken[len(taken) // rounds :])
            for (_, work, n_tokens), taken in zip(steps, times, strict=True)
        ]

    @contextmanager
    def _opened(self, probe: Probe, settings: RunSettings) -> Iterator[tuple[Context, ModelWork]]:
        header = header_of(probe)
        with ghost(encode_header(header), header.file_size) as path:
            with path.open("r+b") as file:
                for place, numbers in needed_numbers(probe, header):
                    file.seek(place)
                    file.write(numbers)
            with engine_log().recording(quiet=True):
                model = load_model(path, settings, lambda _: not self._cancel.is_set())
        self._n_open += 1
        devices().keep(settings.devices or ())  # a second probe beside this one is on the same server
        try:
            with engine_log().recording(quiet=True):
                context = Context(model, settings, self._cancel)
            work = model_work(header)
            if self.link is not None:
                self._lines[context] = _lines(header, work, settings, self.link)
            try:
                yield context, work
            finally:
                self._lines.pop(context, None)
                context.close()
        finally:
            model.close()
            self._n_open -= 1
            if not self._n_open:
                devices().keep(())

    def _times(self, context: Context, n_tokens: int, n_past: int = 0) -> Sequence[float]:
        """Time steps of n_tokens, each after the same n_past; the first is not counted: it warms up."""
        times: list[float] = []
        while len(times) <= _FEWEST or (sum(times) < _BUDGET and len(times) < _MOST):
            if len(times) >= 2 and sum(times) > _LONGEST:
                break
            context.keep(n_past)
            times.append(self._step(context, n_tokens, n_past))
        return times[1:]

    def _step(self, context: Context, n_tokens: int, n_past: int) -> float:
        tokens = [(n_past + 7 * row) % 251 for row in range(n_tokens)]
        started = time.perf_counter()
        status = context.decode(tokens, n_past, want_logits=True)
        seconds = time.perf_counter() - started
        if status == _CANCELLED or self._cancel.is_set():
            raise _CancelledError
        self._on_step()
        if context in self._lines:  # a step of one token is timed again and again, by the same graph
            step = Step(n_past, n_tokens, 1, fresh=float(n_tokens > 1))
            on_link = sum(spent for spent, _ in self._lines[context].terms(step))
            seconds = max(seconds - on_link, _LEAST * seconds)
        if status != 0:
            raise EngineError(f"llama.cpp could not be measured: a step of {n_tokens} tokens ended with {status}")
        return seconds


def _lines(header: GGUFHeader, work: ModelWork, settings: RunSettings, link: Link) -> Lines:
    """Return a probe's way to the devices of a lender, that it is on with all its layers."""
    names = settings.devices or ()
    lent = [Device(name, "RPC", name, None, None, lender=Lender(name, link)) for name in names]
    placement = place_layers(len(work.layers), settings.n_gpu_layers, settings.tensor_split or (1.0,) * len(names))
    return Lines(replace(work, graph=compute_shape(header)), settings, placement, lent)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
