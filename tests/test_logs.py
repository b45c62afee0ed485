"""Our memory arithmetic against load logs of other machines, and the reading of such logs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.memory.attention import remembering
from scripts.measuring.headers import header_of
from scripts.measuring.logs import (
    LOGS,
    Judgement,
    as_printed,
    judge,
    judge_text,
    printed_digits,
    reasons,
    report,
    score,
)
from scripts.measuring.rows import parse_row, read_rows

pytestmark = pytest.mark.measured

TEXT = LOGS.read_text("utf-8")
ROWS: list[dict[str, Any]] = [json.loads(line) for line in TEXT.splitlines()]
JUDGED = judge_text(TEXT)


def row(name: str) -> dict[str, Any]:
    """A row of the file, to be changed at will."""
    return next(json.loads(json.dumps(found)) for found in ROWS if found["id"] == name)


def judged(raw: dict[str, Any], part: str = "kv") -> Judgement:
    return next(judgement for judgement in judge(parse_row(raw, "row")) if judgement.part == part)


def names_off(judgement: Judgement) -> list[str]:
    return [figure.name for figure in judgement.figures if not figure.exact]


def test_no_judged_row_is_off() -> None:
    assert [judgement.line() for judgement in JUDGED if not judgement.exact] == []


def test_as_many_rows_are_judged_as_ever() -> None:
    """A judge that finds excuses would be exact too."""
    assert len(ROWS) == 69
    assert score(JUDGED, "kv") == (53, 53)
    assert score(JUDGED, "state") == (14, 14)
    assert sum(len(judgement.figures) for judgement in JUDGED) >= 320


def test_every_row_that_prints_its_types_and_sequences_is_judged() -> None:
    """Encoders are the exception: the installed engine keeps no cache for them."""
    complete = {
        found["id"]
        for found in ROWS
        if found["measured"].get("kv_caches") and found.get("kv_type_k") and parse_row(found, "").n_seq_max
    }
    missing = complete - {judgement.row for judgement in JUDGED if judgement.part == "kv" and judgement.judged}
    assert missing == {"ggmlci-bge-small-cuda"}


def test_what_is_not_judged_is_counted_with_its_reason() -> None:
    assert reasons(JUDGED) == {
        "kv: cache types not printed": 9,
        "kv: context not printed": 4,
        "state: sequences not printed": 2,
        "kv: no KV cache printed": 1,
        "kv: windows: sequences not printed": 1,
        "kv: encoder: the installed engine keeps no cache for it, older builds did": 1,
        "state: total: the row does not say what its P is made of": 1,
    }


def test_the_report_ends_with_the_score() -> None:
    assert report(JUDGED).splitlines()[-1] == "kv 53/53, state 14/14"


@pytest.mark.parametrize(
    ("name", "part", "path", "off"),
    [
        ("rocm-5534-devstral", "kv", ("kv_caches", 0, "k_mib"), ["all K"]),
        ("kalsa-gemma4-12b-metal-ub512-c16k", "kv", ("kv_caches", 1, "size_mib"), ["SWA"]),
        ("gptoss20b-metal-131k-ub2048", "kv", ("kv_cells_by_cache", "SWA"), ["SWA cells"]),
        ("glm52-768k-4gpu-dsa", "kv", ("kv_caches", 1, "k_mib"), ["indexer K"]),
        ("ikllama-command-a-111b-split-q8kv", "kv", ("kv_caches", 0, "v_mib"), ["all V"]),
        ("glm45-air-131k-ub4096-cuda", "kv", ("kv_caches", 0, "layers"), ["all layers"]),
        ("lcpp-23792-qwen27b-tp-3seq", "state", ("recurrent", "s_mib"), ["S"]),
        ("hr-qwen35-9b-np4-partial-1070ti", "state", ("recurrent_by_device_mib", "CPU"), ["CPU"]),
    ],
)
def test_a_figure_that_is_not_ours_is_off(name: str, part: str, path: tuple[str | int, ...], off: list[str]) -> None:
    raw = row(name)
    place: Any = raw["measured"]
    for step in path[:-1]:
        place = place[step]
    if isinstance(place[path[-1]], float):
        place[path[-1]] += 0.01
    else:
        place[path[-1]] -= 2
    found = judged(raw, part)
    assert names_off(found) == off
    assert "OFF" in found.line()


def test_a_model_that_is_not_the_row_s_is_off() -> None:
    raw = row("minimax-m27-kv-64k-q8q4")
    raw["hparams_known"]["n_head_kv"] = 4
    assert names_off(judged(raw)) == ["all K", "all V", "all"]


def test_a_build_that_pads_windows_to_32_is_judged_by_its_other_cache() -> None:
    raw = row("gptoss20b-cuda-cpumoe-131k") | {"build": "b6182"}
    raw["measured"]["kv_caches"][1] |= {"cells": 640, "size_mib": 15.0, "k_mib": 7.5, "v_mib": 7.5}
    raw["measured"]["kv_cells_by_cache"]["SWA"] = 640
    found = judged(raw)
    assert found.exact
    assert [figure.name for figure in found.figures][-1] == "non-SWA"
    assert found.why_not == ("windows: this build pads them to 32 cells, the installed engine to 256",)


def test_a_new_build_has_no_excuse_for_640_cells() -> None:
    raw = row("gptoss20b-cuda-cpumoe-131k") | {"build": "b9849"}
    raw["measured"]["kv_cells_by_cache"]["SWA"] = 640
    assert names_off(judged(raw)) == ["SWA cells"]


def test_windows_of_the_whole_context_are_told_by_the_cells() -> None:
    raw = row("motlie-gemma4-e4b-swafull-cuda")
    raw["measured"]["kv_cells_by_cache"] = {"non-SWA": 32768, "SWA": 32768}
    del raw["swa_full"]
    assert judged(raw).exact


def test_a_latent_with_v_beside_it_is_judged_by_k() -> None:
    """The builds of May 2025 kept both."""
    raw = row("glm52-512k-4gpu-dsa-kv")
    raw["measured"]["kv_caches"] = [raw["measured"]["kv_caches"][0] | {"v_mib": 39936.0, "size_mib": 84864.0}]
    raw["measured"]["kv_caches"][0]["cells"] = None
    found = judged(raw)
    assert found.exact
    assert [figure.name for figure in found.figures] == ["all K"]
    assert found.why_not == ("V: this build kept one beside the latent or the indexer's keys",)


def test_without_flash_attention_told_v_is_not_judged_where_it_matters() -> None:
    raw = row("gemma4-e4b-cpu-nofa-vmax")
    del raw["note"]
    found = judged(raw)
    assert found.exact
    assert {figure.name.rpartition(" ")[2] for figure in found.figures} == {"cells", "layers", "K"}
    assert found.why_not[0].startswith("V: whether flash attention was on is not printed")


def test_sequences_with_streams_of_their_own_have_a_part_of_the_context_each() -> None:
    raw = row("friday-gemma4-12b-np4-q8kv") | {"kv_unified": False}
    raw["measured"] = {
        "kv_caches": [
            {"size_mib": 68.0, "cells": 2048, "layers": 8, "seqs": 4, "streams": 4},
            {"size_mib": 1020.0, "cells": 1536, "layers": 40, "seqs": 4, "streams": 4},
        ]
    }
    assert judged(raw).exact


def test_an_unprinted_n_ubatch_is_read_off_the_windows() -> None:
    raw = row("gptoss20b-metal-131k-ub2048")
    del raw["n_ubatch"]
    assert judged(raw).exact


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"arch": "perceptron"}, "what the architecture 'perceptron' remembers is not known"),
        ({"arch": "not printed", "family": "mystery"}, "architecture not printed"),
        ({"n_ctx": "many", "measured": {"kv_by_device_mib": {"CPU": 1.0}}}, "context not printed"),
        ({"kv_type_k": "banana"}, "cache types unknown"),
        ({"kv_type_k": None, "kv_type_v": None, "measured": {"kv_by_device_mib": {"CPU": 1.0}}}, "cache types not"),
        ({"hparams_known": {}}, "number of layers not known"),
        ({"hparams_known": {"n_layer": 40}}, "number of KV heads not known"),
        ({"hparams_known": {"n_layer": 40, "n_head_kv": 8}}, "size of a head not known"),
        ({"hparams_known": {"n_layer": 1 << 39}}, "more layers than a model can have"),
        ({"hparams_known": {"n_layer": 4, "n_head_kv": 1 << 33, "n_embd_head_k": 64}}, "sizes that no file can have"),
        ({"measured": {}}, "no KV cache printed"),
        ({"measured": "lost"}, "no KV cache printed"),
    ],
)
def test_a_row_that_does_not_say_enough_is_not_judged(change: dict[str, Any], why: str) -> None:
    found = judged(row("rocm-5534-devstral") | change)
    assert not found.judged
    assert len(found.why_not) == 1
    assert found.why_not[0].startswith(why)
    assert why in found.line()


def test_a_state_without_its_sizes_is_not_judged() -> None:
    raw = row("lcpp-23792-qwen27b-tp-2seq")
    del raw["hparams_known"]["ssm_d_inner"]
    assert judged(raw, "state").why_not == ("sizes of the recurrent state not known",)


def test_a_draft_s_states_are_counted_only_where_they_are_told() -> None:
    raw = row("hr-qwen38-27b-q4km-ctx8k-np4-3090")
    del raw["measured"]["recurrent"]["rs_seq"]
    assert judged(raw, "state").exact  # the note has rs_seq=2
    del raw["note"]
    assert judged(raw, "state").why_not == ("states for drafts not printed",)


@pytest.mark.parametrize("name", [found["id"] for found in ROWS if found["family"] != "encoder"])
def test_a_row_that_names_no_architecture_is_judged_as_one_that_is_alike(name: str) -> None:
    """The family it belongs to, and what is known of its layers, say enough."""
    known, unknown = (judge(parse_row(row(name) | more, "row")) for more in ({}, {"arch": "not printed"}))
    assert [(found.figures, found.why_not) for found in unknown] == [(found.figures, found.why_not) for found in known]


def test_a_line_that_is_no_row_is_counted() -> None:
    judgements = judge_text('{"id": "cut off\n[1, 2]\n\n"text"\n{}\n')
    assert [(j.row, j.why_not) for j in judgements] == [
        ("line 1", ("no JSON object",)),
        ("line 2", ("no JSON object",)),
        ("line 4", ("no JSON object",)),
        ("line 5", ("architecture not printed",)),
    ]


def test_a_row_s_name_reaches_the_terminal_without_its_control_characters() -> None:
    assert parse_row({"id": "a\x1b[2Jb\ud800\n"}, "row").id == "a?[2Jb??"


def test_a_number_s_digits_are_those_of_the_quote() -> None:
    assert printed_digits(62.8, "size = 62.8 MiB") == 1
    assert printed_digits(833.0, "KV 833 MiB") == 0
    assert printed_digits(136.0, "136.00 MiB, or 136 MiB") == 2
    assert printed_digits(40.0, "40 layers") == 2


def test_sizes_are_rounded_as_printf_rounds_them() -> None:
    assert as_printed(17694720) == "16.88"  # 16.875
    assert as_printed(11141120) == "10.62"  # 10.625
    assert as_printed(1 << 200).endswith(".00")


def test_an_unlisted_file_of_glm_5_2_has_an_indexer_in_21_layers() -> None:
    (log,) = [parse_row(found, "") for found in ROWS if found["id"] == "glm52-512k-4gpu-dsa-kv"]
    widths = [memory.cache.indexer_width for memory in remembering(header_of(log)) if memory.cache]
    assert [index for index, width in enumerate(widths) if width] == [0, 1, *range(2, 78, 4)]


def test_kv_heads_of_each_layer_are_taken_as_printed() -> None:
    (log,) = [parse_row(found, "") for found in ROWS if found["id"] == "kalsa-lfm25-26b-vulkan-64k-q8"]
    heads = tuple(8 if index % 4 == 1 else 0 for index in range(30))
    memories = remembering(header_of(replace(log, lists={"n_head_kv": heads})))
    assert [bool(memory.cache) for memory in memories] == [bool(count) for count in heads]
    assert [bool(memory.state) for memory in memories] == [not count for count in heads]


_NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["0", "q4_0", "auto -> disabled", "5/62", [], {}, [1, None], {"a": {}}, 10**400]),
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a row with one of its keys."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [pair for key in keys for pair in _places(value[key])]


@given(st.integers(0, len(ROWS) - 1), st.integers(0), st.lists(_NONSENSE, min_size=1, max_size=6))
def test_no_row_breaks_the_judge(index: int, seed: int, nonsense: list[Any]) -> None:
    raw = json.loads(json.dumps(ROWS[index]))
    places = _places(raw)
    for value in nonsense:
        container, key = random.Random(seed).choice(places)
        seed += 1
        if isinstance(container, dict) and value is None:
            container.pop(key, None)
        else:
            container[key] = value
    for judgement in judge(parse_row(raw, "row")):
        assert judgement.judged or judgement.why_not
        assert judgement.line().isprintable()


@given(st.binary(max_size=200))
def test_no_file_breaks_the_reader(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert len(read_rows(text)) == sum(bool(line.strip()) for line in text.split("\n"))


def test_the_script_says_by_its_code_whether_all_is_exact(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.jsonl"
    raw = row("rocm-5534-devstral")
    raw["measured"]["kv_caches"][0]["size_mib"] = 641.0
    wrong.write_text(json.dumps(raw) + "\n")
    codes = {}
    for path in (LOGS, wrong, tmp_path / "missing.jsonl"):
        command = [sys.executable, "-m", "scripts.measuring", "logs", "--logs", str(path)]
        done = subprocess.run(command, cwd=LOGS.parents[2], capture_output=True, text=True, timeout=60, check=False)
        codes[path.name] = (done.returncode, done.stdout.splitlines()[-1:])
    assert codes == {
        "load_logs.jsonl": (0, ["kv 53/53, state 14/14"]),
        "wrong.jsonl": (1, ["kv 0/1, state 0/0"]),
        "missing.jsonl": (1, []),
    }
