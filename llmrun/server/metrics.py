"""Figures of a running server in the text format of Prometheus; the owner of its client library.

Nothing in them is chosen by clients: paths are those that are served, models those of the fleet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmrun.server.tally import Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SPEEDS = (0.5, 1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 400, 800)  # tokens a second
_MODELS = 100  # that are told apart

disable_created_metrics()  # type: ignore[no-untyped-call]  # a time beside each figure, which Prometheus' own text format does not know


@dataclass(frozen=True, slots=True)
class ModelGauges:
    """What a loaded model is doing; memory: bytes by the name of the pool they are in."""

    name: str
    slots: int
    busy: int
    waiting: int
    memory: dict[str, int]


class Metrics:
    """Counts what became of requests."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._models: set[str] = set()
        self._requests = Counter(
            "llmrun_requests", "Requests that were answered.", ("method", "path", "status"), registry=registry
        )
        self._seconds = Histogram(
            "llmrun_request_seconds", "Time from a request to the end of its answer.", ("path",), registry=registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self._in_flight = Gauge("llmrun_requests_in_flight", "Requests that are being answered.", registry=registry)
        self._prompt = Counter("llmrun_prompt_tokens", "Tokens of prompts.", ("model",), registry=registry)
        self._cached = Counter(
            "llmrun_cached_tokens", "Tokens of prompts that were in memory already.", ("model",), registry=registry
        )
        self._completion = Counter("llmrun_completion_tokens", "Tokens written.", ("model",), registry=registry)
        self._first = Histogram(
            "llmrun_time_to_first_token_seconds", "Time from a request to its first text.", ("model",),
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._speed = Histogram(
            "llmrun_tokens_per_second", "Speed at which an answer was written.", ("model",), registry=registry,
            buckets=_SPEEDS,
        )  # fmt: skip

    def begin(self) -> None:
        """Note that a request has come."""
        self._in_flight.inc()

    def end(self, method: str, path: str, status: int, tally: Tally) -> None:
        """Note that a request is over. path: as the server knows it, never as the client wrote it."""
        self._in_flight.dec()
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(tally.seconds)
        if not tally.model:
            return
        model = self._label(tally.model)
        self._prompt.labels(model).inc(tally.prompt_tokens)
        self._cached.labels(model).inc(tally.cached_tokens)
        self._completion.labels(model).inc(tally.completion_tokens)
        if tally.first_after is not None:
            self._first.labels(model).observe(tally.first_after)
        if tally.completion_seconds > 0 and tally.completion_tokens:
            self._speed.labels(model).observe(tally.completion_tokens / tally.completion_seconds)

    def _label(self, model: str) -> str:
        """Return a model's name; "other" where there are too many: one model can be named in many ways."""
        if len(self._models) < _MODELS:
            self._models.add(model)
        return model if model in self._models else "other"

    def text(self, models: Iterable[ModelGauges] = ()) -> bytes:
        """Return all figures, with those of the models that are loaded now."""
        now = CollectorRegistry()
        now.register(_Loaded(tuple(models)))
        return generate_latest(self._registry) + generate_latest(now)


class _Loaded(Collector):
    """Gauges that are read at the moment they are asked for: models come and go."""

    def __init__(self, models: tuple[ModelGauges, ...]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Give one family a figure."""
        slots = GaugeMetricFamily("llmrun_slots", "Conversations a model can answer at once.", labels=("model",))
        busy = GaugeMetricFamily("llmrun_slots_busy", "Those that are being answered.", labels=("model",))
        waiting = GaugeMetricFamily("llmrun_requests_waiting", "Requests that wait for a slot.", labels=("model",))
        memory = GaugeMetricFamily("llmrun_model_bytes", "Memory of a loaded model.", labels=("model", "pool"))
        for model in self._models:
            slots.add_metric((model.name,), model.slots)
            busy.add_metric((model.name,), model.busy)
            waiting.add_metric((model.name,), model.waiting)
            for pool, size in model.memory.items():
                memory.add_metric((model.name, pool), size)
        yield from (slots, busy, waiting, memory)
