"""catalog: short names, ours and the user's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from llmrun.catalog import entries, find, nearest, parse_own_names, read_own_names, resolve
from llmrun.errors import NotFoundError, UsageError
from llmrun.reference import HubRef, NameRef, parse_reference

NAMES = [(entry, name) for entry in entries() for name in (entry.name, *entry.aliases)]
FAMILIES = sorted({entry.name.split(":")[0] for entry in entries()})
OWN = {"mine": HubRef("me/mine", quant="Q8_0"), "qwen3:8b": HubRef("me/qwen")}


def test_no_two_models_have_one_name() -> None:
    keys = Counter(name.replace(":", "-") for _, name in NAMES)
    assert [name for name, count in keys.items() if count > 1] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_usual_size(family: str) -> None:
    entry = find(family)
    assert entry is not None
    assert entry.name.startswith(f"{family}:")


def test_every_entry_is_written_as_the_grammar_has_it_and_makes_sense() -> None:
    for entry, name in NAMES:
        assert parse_reference(name) == NameRef(name)
        assert parse_reference(entry.repo_id) == HubRef(entry.repo_id)
        assert all((entry.source, entry.architecture, entry.license))
        assert (entry.active_parameters or 1) < entry.parameters
        assert entry.context >= 8192


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("qwen3:8b", "qwen3:8b"),
        ("Qwen3-8B", "qwen3:8b"),
        ("qwen3", "qwen3:8b"),
        ("qwen3-coder-30b", "qwen3-coder:30b"),
        ("llama3.1:8b-instruct", "llama3.1:8b"),
        ("gemma3:4b-it", "gemma3:4b"),
        ("qwen3:30b-a3b", "qwen3:30b"),
        ("qwen3:7b", None),
        ("qwen", None),
    ],
)
def test_a_name_is_found_as_people_write_it(name: str, found: str | None) -> None:
    entry = find(name)
    assert (entry and entry.name) == found


def test_a_name_stands_for_its_repository_in_the_quantization_asked_for() -> None:
    assert resolve(NameRef("qwen3:8b"), {}) == HubRef("Qwen/Qwen3-8B-GGUF")
    assert resolve(NameRef("qwen3-8b", "Q4_K_M"), {}) == HubRef("Qwen/Qwen3-8B-GGUF", quant="Q4_K_M")


def test_the_users_names_go_before_ours() -> None:
    assert resolve(NameRef("qwen3-8b"), OWN) == HubRef("me/qwen")
    assert resolve(NameRef("mine"), OWN) == HubRef("me/mine", quant="Q8_0")
    assert resolve(NameRef("mine", "F16"), OWN) == HubRef("me/mine", quant="F16")


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("qwen3:8c", "'qwen3:8c' is no name that llmrun knows", "did you mean qwen3:8b, "),
        ("giude", "'giude' is no name that llmrun knows", "did you mean guide?"),
        ("minee", "'minee' is no name that llmrun knows", "did you mean mine?"),
        ("zephyrus-x-gguf", "'zephyrus-x-gguf' is no name that llmrun knows", "owner/zephyrus-x-gguf"),
        ("zephyrus", "'zephyrus' is no name that llmrun knows", "`llmrun search zephyrus` looks on the Hub"),
    ],
)
def test_a_name_nobody_knows_is_answered_with_the_nearest(name: str, message: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve(NameRef(name), OWN)
    assert caught.value.message == message
    assert hint in (caught.value.hint or "")


def test_who_looks_at_what_is_here_is_not_sent_to_the_hub() -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve(NameRef("zephyrus"), OWN, here=True)
    assert caught.value.hint == "`llmrun list` shows the models that are here"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("README.md", "the file of that name here is no GGUF file: `llmrun list` shows the models"),
        ("Weights", "the file of that name which is here is written ./Weights"),
        ("Own-Models", "the folder of that name which is here is written ./Own-Models"),
        ("Zephyrus:Q4_K_M", "`llmrun search zephyrus` looks on the Hub"),
    ],
)
def test_a_name_is_told_as_it_was_typed_with_the_file_that_has_it(
    typed: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("# Models")
    Path("Weights").write_bytes(b"GGUF")
    Path("Own-Models").mkdir()
    ref = parse_reference(typed)
    assert isinstance(ref, NameRef)
    with pytest.raises(NotFoundError) as caught:
        resolve(ref, OWN)
    assert caught.value.message == f"{typed.partition(':')[0]!r} is no name that llmrun knows"
    assert hint in (caught.value.hint or "")


def test_the_nearest_of_the_same_family_come_first() -> None:
    assert nearest("qwen3:8c") == ("qwen3:8b", "qwen3", "qwen3:4b")
    assert nearest("xxxxxxxxxxxx") == ()


def test_names_of_ones_own_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    assert read_own_names(path) == {}
    path.write_text('[models]\n"Mine" = "me/mine:Q8_0"\nqwen = "hf.co/me/qwen@v2"\n')
    assert read_own_names(path) == {"mine": HubRef("me/mine", quant="Q8_0"), "qwen": HubRef("me/qwen", "v2")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[models]\nmine = me/mine\n", "f.toml is damaged: Invalid value (at line 2, column 8)"),
        ("models = 3\n", "f.toml: models is no table"),
        ('[models]\nmine = "qwen3:8b"\n', "f.toml: 'mine' stands for no repository of the Hub but for 'qwen3:8b'"),
        ("[models]\nmine = 3\n", "f.toml: 'mine' stands for no repository of the Hub but for 3"),
        ('[models]\nmine = "me/mine:"\n', "f.toml: 'mine': 'me/mine:' ends where"),
        ('[models]\nguide = "me/mine"\n', "f.toml: 'guide' cannot be a name"),
        ('[models]\n"my/name" = "me/mine"\n', "f.toml: 'my/name' cannot be a name"),
        ('[models]\n"my:q8" = "me/mine"\n', "f.toml: 'my:q8' cannot be a name"),
    ],
)
def test_a_file_that_makes_no_sense_says_where(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_own_names(text, "f.toml")
    assert caught.value.message.startswith(words)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"models\.toml cannot be read"):
        read_own_names(path)
