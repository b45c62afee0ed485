"""Files that are GGUF and yet no model to talk with: said before anything is loaded, by every command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from llmrun.console import one_line
from llmrun.errors import GGUFError
from llmrun.gguf.encode import encode_header
from llmrun.gguf.header import Entry, GGUFHeader, ValueType
from llmrun.gguf.purpose import check_writes_text
from llmrun.gguf.source import read_header
from scripts.architectures.shapes import small
from scripts.architectures.write import write

Run = Callable[..., CompletedProcess[str]]
TEXT, NUMBER, FLAG = ValueType.STRING, ValueType.UINT32, ValueType.BOOL


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "small.gguf", small("qwen3-8b"), "Q8_0")


def with_entries(path: Path, **entries: Entry) -> GGUFHeader:
    """The file's header with other metadata; "__" in a name stands for a point."""
    header = read_header(path)
    return replace(header, metadata={**header.metadata, **{k.replace("__", "."): e for k, e in entries.items()}})


def saved(path: Path, header: GGUFHeader) -> Path:
    """A file of such a header; its weights are zeros."""
    raw = encode_header(header)
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(len(raw) + header.data_size)
    return path


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"general__type": Entry(TEXT, "adapter")}, "a LoRA adapter"),
        ({"general__type": Entry(TEXT, "mmproj")}, "sees or hears"),
        ({"general__type": Entry(TEXT, "imatrix")}, "an importance matrix"),
        ({"general__architecture": Entry(TEXT, "clip")}, "sees or hears"),
        ({"qwen3__attention__causal": Entry(FLAG, False)}, "a model for embeddings (qwen3)"),
        ({"qwen3__pooling_type": Entry(NUMBER, 1)}, "a model for embeddings (qwen3)"),
    ],
)
def test_what_writes_no_text_is_named(model: Path, entries: dict[str, Entry], words: str) -> None:
    with pytest.raises(GGUFError) as caught:
        check_writes_text(with_entries(model, **entries))
    assert words in caught.value.message


def test_what_writes_text_passes(model: Path) -> None:
    check_writes_text(read_header(model))
    check_writes_text(with_entries(model, general__type=Entry(TEXT, "model"), qwen3__pooling_type=Entry(NUMBER, 0)))


def test_a_vocabulary_alone_is_named(model: Path) -> None:
    with pytest.raises(GGUFError, match="only a vocabulary"):
        check_writes_text(replace(read_header(model), tensors=()))


@pytest.mark.parametrize("command", [("plan",), ("run",)])
def test_every_command_says_it_alike(llmrun: Run, model: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    path = saved(tmp_path / "embed.gguf", with_entries(model, qwen3__pooling_type=Entry(NUMBER, 1)))
    done = llmrun(*command, str(path), *(["hello"] if command == ("run",) else []))
    assert (done.returncode, done.stdout) == (6, "")
    assert f"error: {path} cannot chat: this is a model for embeddings (qwen3)" in done.stderr


def test_a_plan_needs_no_tokenizer(llmrun: Run, model: Path, tmp_path: Path) -> None:
    """The header the engine is asked with may be longer than the file's own: its stand-in must be as long."""
    header = read_header(model)
    metadata = {key: entry for key, entry in header.metadata.items() if not key.startswith("tokenizer.")}
    path = saved(tmp_path / "bare.gguf", replace(header, metadata=metadata))
    done = llmrun("plan", str(path), "--exact")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_file_calls_itself_cannot_write_lines_of_ours(llmrun: Run, model: Path, tmp_path: Path) -> None:
    name = "evil\x1b[31m\r\nit fits\u202e\x07"
    path = saved(tmp_path / "evil.gguf", with_entries(model, general__name=Entry(TEXT, name)))
    escaped = "evil\\x1b[31m\\r\\nit fits\\u202e\\x07"
    assert one_line(name) == escaped
    assert llmrun("plan", str(path)).stdout.startswith(escaped + ": ")
    assert llmrun("inspect", str(path)).stdout.splitlines()[0] == f"name          {escaped}"


def test_an_error_is_one_line(llmrun: Run, model: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "odd.gguf", with_entries(model, general__architecture=Entry(TEXT, "q\nerror: 3")))
    done = llmrun("run", str(path), "hello")
    assert done.returncode == 6
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


def test_a_link_to_nothing_is_named(llmrun: Run, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to("gone.gguf")
    done = llmrun("inspect", str(link))
    assert (done.returncode, done.stderr) == (5, f"error: {link} is a link to gone.gguf, which does not exist\n")


def test_kv_types_may_be_written_as_quantizations_are(llmrun: Run) -> None:
    assert "KV type q8_0" in llmrun("plan", "guide", "--kv-type", "Q8_0").stdout


def test_wishes_without_effect_are_said(llmrun: Run) -> None:
    done = llmrun("plan", "guide", "--device", "none", "-ngl", "9", "--ctx", "4000")
    assert done.stderr.splitlines() == [
        "note: --gpu-layers has no effect: the engine sees no GPU",
        "note: a context of 4,000 tokens is more than the 2,048 the model was trained on",
    ]
    assert llmrun("plan", "guide", "--device", "none", "-ngl", "9", "--quiet").stderr == ""
