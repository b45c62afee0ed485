"""doctor.report: everything a bug report needs, and nothing that is private."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.doctor.checks import check
from llmrun.doctor.reading import VARIABLES
from llmrun.doctor.report import (
    FIRST_LINE,
    Private,
    doctor_figures,
    plain,
    read_private,
    report_text,
    scrub,
    write_report,
)
from llmrun.errors import UsageError
from tests.doctor_machines import HEALTHY, VENV, nvidia_machine

ADA = Private("/home/ada", "ada", "difference-engine.local")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/ada/venv/lib is full", "~/venv/lib is full"),
        ("run by ada on difference-engine", "run by USER on HOST"),
        ("difference-engine.local:8080", "HOST:8080"),
        ("adapter, Canada, ada_x", "adapter, Canada, ada_x"),
        ("in /srv/secret project/x", "in …/secret project/x"),
        ("/mnt/clients/acme/model.gguf", "…/model.gguf"),
        ("/usr/local/cuda/bin/nvcc and /opt/rocm", "/usr/local/cuda/bin/nvcc and /opt/rocm"),
        (
            "https://abetlen.github.io/llama-cpp-python/whl/cu124",
            "https://abetlen.github.io/llama-cpp-python/whl/cu124",
        ),
        ("cmake.define.X=/home/ada/sdk", "cmake.define.X=~/sdk"),
        ("hf_abcdefghijklmnop in a log", "SECRET in a log"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: SECRET"),
        ("HF_TOKEN=xyz123, one token a second", "HF_SECRET one token a second"),
        ("--index-url=https://ada:hunter2@host/simple", "--index-url=https://SECREThost/simple"),
        (r"C:\work\acme\model.gguf", r"…\model.gguf"),
        (r"C:\Windows\System32\nvidia-smi.exe", r"C:\Windows\System32\nvidia-smi.exe"),
        ("AVX2 = 1 | FMA = 1", "AVX2 = 1 | FMA = 1"),
    ],
)
def test_private_things_are_replaced_and_the_rest_stays(text: str, told: str) -> None:
    assert scrub(text, ADA) == told


def test_a_windows_home_is_private_too() -> None:
    private = Private(r"C:\Users\Ada Lovelace", "Ada Lovelace", "ENGINE")
    assert scrub(r"C:\Users\Ada Lovelace\venv\python.exe", private) == r"~\venv\python.exe"


def test_a_user_nobody_knows_hides_nothing_and_breaks_nothing() -> None:
    assert scrub("/usr/bin as root at home", Private("", "", "")) == "/usr/bin as root at home"
    assert scrub("/etc/x", Private("/", "", "")) == "/etc/x"


@given(st.text())
def test_what_is_scrubbed_is_scrubbed_and_any_text_can_be(text: str) -> None:
    once = scrub(text, ADA)
    assert "/home/ada/" not in once
    scrub(once, ADA)


def test_the_report_holds_findings_and_facts_and_nothing_private() -> None:
    variables = {"CUDA_VISIBLE_DEVICES": "0", "LD_LIBRARY_PATH": "/home/ada/lib:/usr/lib"}
    facts = nvidia_machine(variables=variables, models_folder=Path("/data/ada-secrets/models"))
    text = report_text(facts, check(facts), ADA)
    assert text.startswith(f"{FIRST_LINE}\nllmrun {facts.llmrun}, Python {facts.python}, ")
    assert "stays idle" in text
    assert "~/venv/bin/python -m pip install" in text
    assert '"CUDA_VISIBLE_DEVICES": "0"' in text
    assert '"LD_LIBRARY_PATH": "~/lib:/usr/lib"' in text
    assert not [word for word in ("/home/ada", "/data", "difference-engine") if word in text]
    told = json.loads(text[text.index("{") :])
    assert told["facts"]["hardware"]["gpus"][0]["name"] == "NVIDIA GeForce RTX 4090"


def test_no_variable_that_could_hold_a_secret_is_looked_at() -> None:
    assert [name for name in VARIABLES if any(word in name for word in ("TOKEN", "KEY", "HF_", "SECRET", "PASS"))] == []


def test_this_users_own_names_are_known() -> None:
    private = read_private()
    assert private.host
    assert private.home == str(Path.home())


def test_figures_are_plain_json_with_a_contract_on_their_keys() -> None:
    figures = json.loads(json.dumps(doctor_figures(HEALTHY, check(HEALTHY))))
    assert list(figures) == ["level", "findings", "facts"]
    assert figures["level"] == "ok"
    assert {tuple(finding) for finding in figures["findings"]} == {
        ("check", "level", "text", "repair", "engine", "rebuild")
    }
    assert list(figures["facts"]) == [
        *("system", "machine", "llmrun", "python", "bits", "hardware", "engine", "environment", "distribution"),
        *("container", "tools", "variables", "files", "embedded", "models_folder", "free_disk", "aside"),
    ]


def test_values_become_what_json_has() -> None:
    assert plain({"a": (Path("/x"), frozenset({"c", "b"}), None, 1.5)}) == {"a": ["/x", ["b", "c"], None, 1.5]}
    assert plain(PureWindowsPath(r"C:\x")) == r"C:\x"
    told = plain(replace(VENV, managed=True))
    assert isinstance(told, dict)
    assert (told["managed"], told["prefix"]) == (True, "/home/ada/venv")


def test_a_report_replaces_an_older_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    write_report(path, f"{FIRST_LINE}\none\n")
    write_report(path, f"{FIRST_LINE}\ntwo \udce9\n")
    assert path.read_text("utf-8") == f"{FIRST_LINE}\ntwo \\udce9\n"
    path.write_text("my diary")
    with pytest.raises(UsageError, match="is no report of llmrun's"):
        write_report(path, "x")
    assert path.read_text() == "my diary"
    with pytest.raises(UsageError, match="cannot be written: Is a directory"):
        write_report(tmp_path, "x")
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_report(tmp_path / "nowhere" / "r", "x")
