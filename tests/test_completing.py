"""Completion through the shells' own protocol: what the real program answers when a shell asks it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrun.cli.completing import bash_words
from tests.environments import clean_environment

BASH = shutil.which("bash")
Complete = Callable[..., list[str]]


@pytest.fixture
def complete(tmp_path: Path) -> Complete:
    """Completes the last of some words, as bash hands them over: a colon is a word of its own."""

    def ask(*words: str) -> list[str]:
        environment = clean_environment(tmp_path) | {
            "_LLMRUN_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(("llmrun", *words)),
            "COMP_CWORD": str(len(words)),
        }
        program = "import sys; sys.argv = ['llmrun']; from llmrun.cli.main import main; main()"
        command = [sys.executable, "-P", "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_commands_and_options_are_completed(complete: Complete) -> None:
    assert complete("ver") == ["verify"]
    assert complete("run", "guide", "--sch") == ["--schema"]


def test_a_model_is_completed_from_guide_the_catalog_and_what_is_here(complete: Complete, tmp_path: Path) -> None:
    snapshot = tmp_path / ".cache/huggingface/hub/models--own--Small-GGUF/snapshots/" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "Small-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(40))
    assert complete("chat", "gu") == ["guide"]
    assert "qwen3" in complete("chat", "qw")
    assert complete("run", "own/") == ["own/Small-GGUF"]
    assert complete("verify", "") == ["guide", "own/Small-GGUF"]
    assert complete("chat", "own/Small-GGUF", ":", "Q") == ["Q4_K_M"]


def test_what_stands_behind_a_colon_is_completed_alone(complete: Complete) -> None:
    """Bash replaces only that."""
    assert {"4b", "8b"} <= set(complete("chat", "qwen3", ":"))
    assert complete("chat", "qwen3", ":", "0.") == ["0.6b"]
    assert complete("chat", "guide", ":", "Q8") == ["Q8_0"]
    assert "Q4_K_M" in complete("chat", "qwen3", ":", "8b", ":", "Q4")


@pytest.mark.parametrize(
    ("option", "begun", "value"),
    [("--kv-type", "q8", "q8_0"), ("--prefer", "sp", "speed"), ("--device", "n", "none")],
)
def test_values_of_options_are_completed(complete: Complete, option: str, begun: str, value: str) -> None:
    assert complete("chat", "guide", option, begun) == [value]


def test_neither_engine_nor_hub_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from llmrun.cli.completing import complete_model; found = complete_model('g');"
        "heavy = {'llama_cpp', 'huggingface_hub', 'numpy', 'rich', 'httpx2'} & set(sys.modules); print(found, heavy)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("['guide'")
    assert done.stdout.endswith(" set()\n")


def test_words_that_bash_took_apart_are_joined(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {
        "_LLMRUN_COMPLETE": "complete_bash",
        "COMP_WORDS": "llmrun\nrun\nqwen3\n:\n8b\nhi\n--prefer\nsp",
        "COMP_CWORD": "7",
    }
    with bash_words(environment):
        sys.stdout.write("speed\n")
    assert (environment["COMP_WORDS"], environment["COMP_CWORD"]) == ("llmrun\nrun\nqwen3:8b\nhi\n--prefer\nsp", "5")
    assert capsys.readouterr().out == "speed\n"


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_itself_completes_a_model_behind_its_colon(tmp_path: Path) -> None:
    """The script that --show-completion prints, run by bash with the words as readline would take them apart."""
    assert BASH is not None
    program = tmp_path / "llmrun"
    code = "from llmrun.cli.main import main; main()"
    program.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -P -c "import sys; sys.argv[0] = \'llmrun\'; {code}" "$@"\n'
    )
    program.chmod(0o755)
    environment = clean_environment(tmp_path) | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    shown = subprocess.run(
        [program, "--show-completion", "bash"], env=environment, capture_output=True, text=True, check=False
    )
    environment["_LLMRUN_COMPLETE"] = "source_bash"
    script = subprocess.run([program], env=environment, capture_output=True, text=True, check=False).stdout
    del environment["_LLMRUN_COMPLETE"]
    assert "_llmrun_completion" in script, shown.stdout + shown.stderr
    asked = "COMP_WORDS=(llmrun chat qwen3 : 0.); COMP_CWORD=4; _llmrun_completion llmrun; echo ${COMPREPLY[@]}"
    done = subprocess.run(
        [BASH, "-c", script + "\n" + asked], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0.6b\n"
