"""Files as users have them when something went wrong: one clear error each, its exit code, and nothing left running."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scripts.synthetic import CHATML, write_model

Run = Callable[..., subprocess.CompletedProcess[str]]


def workers(home: Path) -> set[int]:
    """The workers that a test has started, orphans included: they have its home."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if "llmrun.worker" in (process.info["cmdline"] or []) and process.environ().get("HOME") == str(home):
                found.add(process.pid)
    return found


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """It ended with this code, one error and one hint on stderr, these words in them, and no traceback."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"], done.stderr
    assert [word for word in words if word not in done.stderr] == []


@pytest.fixture(autouse=True)
def nothing_is_left_running(tmp_path: Path) -> object:
    yield
    assert workers(tmp_path) == set()


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_missing_file(llmrun: Run, tmp_path: Path, command: str) -> None:
    refused(llmrun(command, str(tmp_path / "no.gguf"), *["hi"] * (command == "run")), 5, "there is no file")


def test_a_mistyped_file_name_gets_the_nearest_one(llmrun: Run, tiny_model: Path) -> None:
    refused(llmrun("run", str(tiny_model.parent / "tinny.gguf"), "hi"), 5, f"did you mean `{tiny_model}`?")


def test_a_directory_with_no_model_in_it(llmrun: Run, tmp_path: Path) -> None:
    refused(llmrun("run", str(tmp_path), "hi"), 5, "there is no GGUF file in")
    (tmp_path / "m.gguf").write_bytes(b"")
    refused(llmrun("run", str(tmp_path), "hi"), 6, "is empty")


def test_an_empty_file(llmrun: Run, tmp_path: Path) -> None:
    refused(llmrun("run", write(tmp_path / "m.gguf", b""), "hi"), 6, "is empty")


def test_a_file_that_cannot_be_opened(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.symlink_to(path)
    refused(llmrun("run", str(path), "hi"), 5, "cannot be read")


def test_something_that_is_no_ordinary_file(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    os.mkfifo(path)
    refused(llmrun("run", str(path), "hi"), 5, "is not an ordinary file")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello, this is text", "begins with b'hell'"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs", "git lfs pull"),
        (b"\x80\0\0\0\0\0\0\0" + b'{"__metadata__":{}}', "safetensors"),
        (b"PK\x03\x04" + b"x" * 30, "zip"),
    ],
)
def test_a_file_that_only_bears_the_name(llmrun: Run, tmp_path: Path, data: bytes, words: str) -> None:
    refused(llmrun("run", write(tmp_path / "m.gguf", data), "hi"), 6, "is not a GGUF file", words)


@pytest.mark.parametrize("part", [0.0001, 0.02, 0.3, 0.999])
def test_a_truncated_file(llmrun: Run, tiny_model: Path, tmp_path: Path, part: float) -> None:
    data = tiny_model.read_bytes()
    refused(llmrun("run", write(tmp_path / "m.gguf", data[: int(len(data) * part)]), "hi"), 6, "m.gguf")


def test_an_unknown_architecture(llmrun: Run, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", metadata={"general.architecture": "zorglub9"})
    refused(llmrun("run", str(path), "hi"), 6, "'zorglub9'", "does not know")


def test_a_vocabulary_without_a_model(llmrun: Run, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", with_tensors=False)
    refused(llmrun("run", str(path), "hi"), 6, "m.gguf")


def test_a_model_without_a_template_is_answered_in_a_named_stand_in(llmrun: Run, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", template=None)
    done = llmrun("run", str(path), "hi", "-n", "3", "--temp", "0")
    assert (done.returncode, "no chat template" in done.stderr) == (0, True), done.stderr


@pytest.mark.parametrize(
    "bomb",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set s = namespace(x='ab') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'x' * 50000000 }}",
    ],
    ids=["loops", "doubling", "one huge string", "one huge number", "long output"],
)
def test_a_template_bomb_is_a_gguf_error(llmrun: Run, tmp_path: Path, bomb: str) -> None:
    path = write_model(tmp_path / "m.gguf", template=bomb + CHATML)
    refused(llmrun("run", str(path), "hi"), 6, "chat template")


def test_a_template_of_half_a_megabyte_is_refused(llmrun: Run, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", template=CHATML + "{# " + "x" * (512 << 10) + " #}")
    refused(llmrun("run", str(path), "hi"), 6, "262,144")


def test_recommended_sampling_that_makes_no_sense_is_left_out(llmrun: Run, tmp_path: Path) -> None:
    bad = {"general.sampling.temp": float("inf"), "general.sampling.top_p": -3.0}
    done = llmrun("chat", str(write_model(tmp_path / "m.gguf", metadata=bad)), stdin="/stats\n")
    assert done.returncode == 0, done.stderr
    assert "temperature 0.8 (default)" in done.stderr
    assert "top_p 0.95 (default)" in done.stderr


def test_names_the_system_will_not_take(llmrun: Run, tmp_path: Path) -> None:
    refused(llmrun("run", f"{tmp_path}/{'m' * 300}.gguf", "hi"), 5, "cannot be read")
    refused(llmrun("run", "~nosuchuser9/m.gguf", "hi"), 5, "no home directory")
    refused(llmrun("run", f"{tmp_path}/file/m.gguf", "hi"), 5, "there is no file")


def test_sizes_that_cannot_be_are_an_error_and_not_a_crash_of_the_program(
    llmrun: Run, tiny_model: Path, tmp_path: Path
) -> None:
    data = bytearray(tiny_model.read_bytes())
    at = data.index(b"llama.attention.head_count") + len(b"llama.attention.head_count") + 4
    data[at : at + 4] = (0).to_bytes(4, "little")
    done = llmrun("run", write(tmp_path / "m.gguf", bytes(data)), "hi", "-n", "1")
    assert done.returncode in (6, 7), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: ")
