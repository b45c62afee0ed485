"""What was measured on real cards (`scripts/accuracy card`), against what the arithmetic and the tables say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmrun.embedded import embedded_file
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.source import read_model_header
from llmrun.hardware.device import Device
from llmrun.memory.estimate import Estimator, Machine
from llmrun.memory.overhead import device_overhead
from llmrun.memory.placement import place_layers
from llmrun.planning.device_speeds import device_rates
from llmrun.planning.host_speeds import default_host_rates
from llmrun.planning.speed import Speed, predict
from llmrun.planning.work import model_work
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost
from scripts.measuring.card import N_PROMPT, N_TOKENS

FILES = sorted((Path(__file__).parent / "golden" / "measured").glob("*.json"))
Found = Mapping[str, Any]


def _runs() -> Iterator[Any]:
    for path in FILES:
        card = json.loads(path.read_text())
        for run in card["runs"]:
            name = f"{path.stem}-{run['model']}-{run['quant']}-{run['n_ctx']}-{run['on_host']}"
            yield pytest.param(card, run, id=name)


RUNS = list(_runs())


def header_of(run: Found) -> GGUFHeader:
    if run["model"] == "guide":
        return read_model_header(embedded_file(run["quant"]))
    header = parse_header(ghost(MODELS[run["model"]], run["quant"])[0])
    assert isinstance(header, GGUFHeader)
    return header


def settings_of(run: Found) -> RunSettings:
    n_gpu_layers = len(model_work(header_of(run)).layers) + 1 - run["on_host"]
    return RunSettings(
        n_ctx=run["n_ctx"], n_ubatch=run["n_ubatch"], devices=("card",), n_gpu_layers=n_gpu_layers, n_threads=4
    )


def speed_of(card: Found, run: Found) -> Speed:
    work = model_work(header_of(run))
    rates = device_rates(card["card"])
    assert rates is not None
    placement = place_layers(len(work.layers), None, (1.0,))
    host = default_host_rates(4, 4)
    past = N_PROMPT + N_TOKENS // 2
    speed = predict(work, settings_of(run), placement, host, (rates,), n_past=past, n_prompt=N_PROMPT)
    assert speed is not None
    return speed


@pytest.mark.measured
@pytest.mark.parametrize(("card", "run"), RUNS)
def test_the_engine_s_plan_for_a_card_was_what_it_allocated(card: Found, run: Found) -> None:
    assert run["planned"] == run["allocated"]


@pytest.mark.measured
@pytest.mark.parametrize(("card", "run"), RUNS)
def test_the_arithmetic_knows_weights_and_cache_on_a_card_to_the_byte_and_compute_in_its_band(
    card: Found, run: Found
) -> None:
    device = Device("card", card["backend"], card["card"], 1 << 40, 1 << 40, unified=False)
    estimate = Estimator(header_of(run)).estimate(settings_of(run), Machine(devices=(device,)))
    (pool,) = estimate.footprint.devices
    weights, kv_cache, compute = run["allocated"]
    assert (pool.weights, pool.kv_cache) == (weights, kv_cache)
    assert estimate.compute[1].low <= compute <= estimate.compute[1].high


@pytest.mark.measured
@pytest.mark.parametrize(("card", "run"), RUNS)
def test_the_driver_takes_no_more_beside_it_than_is_planned(card: Found, run: Found) -> None:
    beside = run["taken_full"] - sum(run["allocated"])
    assert 0 < beside <= device_overhead(card["backend"])


@pytest.mark.measured
@pytest.mark.parametrize(("card", "run"), [one for one in RUNS if one.values[1]["decode"] is not None])
def test_a_card_in_the_table_writes_as_fast_as_the_table_says(card: Found, run: Found) -> None:
    """Within the error that is told with it."""
    speed = speed_of(card, run)
    assert abs(speed.decode / run["decode"] - 1) <= speed.decode_error
