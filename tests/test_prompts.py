"""prompts, `llmrun prompt` and --prompt-template: prompts that are kept by name."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.answering import Answering
from llmrun.cli.main import main
from llmrun.cli.prompting import Chosen, options_of, pairs
from llmrun.errors import LLMRunError, NotFoundError, UsageError
from llmrun.prompts.folder import prompt_names, read_prompt, remove_prompt, save_prompt
from llmrun.prompts.prompt import (
    OPTIONS,
    Prompt,
    check_prompt_name,
    format_prompt,
    parse_prompt,
    question_of,
    system_of,
)
from tests.completion import completions
from tests.conftest import figures

Run = Callable[..., CompletedProcess[str]]
TRANSLATE = Prompt("translate", "Into $language: $input", "For $reader.", {"language": "German"}, {"temp": 0.2})


def test_what_is_given_goes_where_its_name_stands() -> None:
    assert TRANSLATE.parameters == ("reader", "language")
    assert question_of(TRANSLATE, "cat", {"reader": "Ann"}) == "Into German: cat"
    assert question_of(TRANSLATE, "cat", {"language": "Dutch"}) == "Into Dutch: cat"
    assert system_of(TRANSLATE, {"reader": "Ann"}) == "For Ann."


def test_what_is_put_in_is_text_whatever_is_in_it() -> None:
    assert question_of(TRANSLATE, "$language $$ ${x}", {"language": "$input"}) == "Into $input: $language $$ ${x}"


def test_a_prompt_without_input_has_it_behind() -> None:
    summary = Prompt("s", "Summarize for ${who}, at $$0:")
    assert question_of(summary, "text", {"who": "me"}) == "Summarize for me, at $0:\n\ntext"
    assert question_of(summary, "", {"who": "me"}) == "Summarize for me, at $0:"
    assert question_of(Prompt("s", system="Be brief."), "text", {}) == "text"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="needs reader") as caught:
        system_of(TRANSLATE, {})
    assert caught.value.hint == "--param reader=…"
    with pytest.raises(UsageError, match="'translate' needs a text"):
        question_of(TRANSLATE, " ", {})
    with pytest.raises(UsageError, match="'s' needs a text"):
        question_of(Prompt("s", system="x"), "", {})


def test_what_there_is_not_is_told() -> None:
    with pytest.raises(UsageError, match="no parameter 'langauge'") as caught:
        question_of(TRANSLATE, "cat", {"langauge": "Dutch"})
    assert caught.value.hint == "its parameters: reader, language"
    with pytest.raises(UsageError, match="input is what is asked"):
        question_of(TRANSLATE, "cat", {"input": "dog"})


WRONG = [
    {},
    {"prompt": " "},
    {"prompt": "costs $5"},
    {"prompt": "x", "system": "for $input"},
    {"prompt": "x", "defaults": {"language": "y"}},
    {"prompt": "x", "options": {"temp": -1.0}},
    {"prompt": "x", "options": {"temp": float("nan")}},
    {"prompt": "x", "options": {"temp": True}},
    {"prompt": "x", "options": {"top_k": 1.5}},
    {"prompt": "x", "options": {"max_tokens": 0}},
    {"prompt": "x", "options": {"stop": ("",)}},
    {"prompt": "x", "options": {"ctx": 4096}},
]


@pytest.mark.parametrize("fields", WRONG)
def test_what_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Prompt("x", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prompt =",
        "prompt = 5",
        "x = 1",
        "prompt = 'x'\ndefaults = 1",
        "prompt = 'x'\n[options]\ntemp = 'hot'",
        "prompt = 'x'\n[options]\nstop = [1]",
        "prompt = '$a'\n[defaults]\na = 1",
        "a = " + "[" * 5000,
    ],
)
def test_a_file_that_is_no_prompt_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_prompt("x", text)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(lambda text: text.replace("$", "$$"))
prompts = st.builds(
    lambda prompt, system, default, options: Prompt(
        "x", prompt + "$a", system or None, {"a": default} if default else {}, options
    ),
    texts,
    texts.filter(lambda text: text == "" or text.strip() != ""),
    texts,
    st.fixed_dictionaries(
        {},
        optional={
            "temp": st.floats(0, 100),
            "top_k": st.integers(0, 100),
            "stop": st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=2).map(tuple),
        },
    ),
)


@given(prompts)
def test_a_prompt_is_read_as_it_was_written(prompt: Prompt) -> None:
    assert parse_prompt("x", format_prompt(prompt)) == prompt


def test_a_file_is_made_to_be_read_by_people() -> None:
    prompt = Prompt("x", "Two\nlines of $input", "Be brief.", options={"temp": 0, "stop": ("END",)})
    assert format_prompt(prompt) == (
        'system = "Be brief."\nprompt = """\nTwo\nlines of $input"""\n\n[options]\ntemp = 0\nstop = [\n    "END",\n]\n'
    )


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a\\b", "/etc/x", "a.b", ".x", "-x", "x" * 64, "a b", "a\0"])
def test_a_name_is_no_path(name: str, tmp_path: Path) -> None:
    for action in (check_prompt_name, lambda text: read_prompt(text, tmp_path)):
        with pytest.raises(UsageError, match="is no name for a prompt"):
            action(name)


def test_prompts_are_kept_listed_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    assert prompt_names(folder) == ()
    save_prompt(TRANSLATE, folder)
    save_prompt(Prompt("übersicht", "x"), folder)
    assert (prompt_names(folder), read_prompt("translate", folder)) == (("translate", "übersicht"), TRANSLATE)
    with pytest.raises(UsageError, match="already"):
        save_prompt(Prompt("translate", "y"), folder)
    save_prompt(Prompt("translate", "y"), folder, over=True)
    assert read_prompt("translate", folder).prompt == "y"
    remove_prompt("translate", folder)
    assert [path.name for path in folder.iterdir()] == ["übersicht.toml"]
    with pytest.raises(NotFoundError):
        remove_prompt("translate", folder)


def test_a_misspelt_name_gets_the_nearest(tmp_path: Path) -> None:
    save_prompt(TRANSLATE, tmp_path)
    with pytest.raises(NotFoundError) as caught:
        read_prompt("tranlate", tmp_path)
    assert caught.value.hint == "did you mean translate?"


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'prompt = "\xe4"')
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 21))
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "file").touch()
    for name, kind in (("latin", UsageError), ("big", UsageError), ("folder", LLMRunError)):
        with pytest.raises(kind):
            read_prompt(name, tmp_path)
    with pytest.raises(LLMRunError, match="cannot be written"):
        save_prompt(TRANSLATE, tmp_path / "file" / "below")


def test_the_command_line_goes_before_the_prompt() -> None:
    kept = Prompt("x", system="Be brief.", options={"temp": 0.2, "stop": ("END",), "max_tokens": 9})
    assert Chosen(kept, {}).answering(Answering(temp=0.0)) == Answering(
        temp=0.0, system="Be brief.", stop=["END"], max_tokens=9
    )
    assert Chosen(kept, {}).answering(Answering(system="Be kind.", stop=["x"])).system == "Be kind."


def test_options_come_back_as_they_were_given() -> None:
    said = Answering(temp=0.5, top_k=3, top_p=0.5, min_p=0.1, repeat_penalty=1.1, seed=4, max_tokens=9, stop=["a"])
    assert set(options_of(said)) == set(OPTIONS)
    assert Chosen(Prompt("x", "y", options=options_of(said)), {}).answering(Answering()) == said


def test_a_parameter_is_a_name_and_a_text() -> None:
    assert pairs(["a=b=c", "d="], "--param") == {"a": "b=c", "d": ""}
    for text in ("a", "=b", ""):
        with pytest.raises(UsageError):
            pairs([text], "--param")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the program's `main` in this process, with an empty home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    def run(*arguments: str, stdin: str = "") -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["llmrun", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code: int | str | None = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        return CompletedProcess(arguments, int(code or 0), told.out, told.err)

    return run


def test_the_commands_keep_show_list_and_remove(here: Run) -> None:
    assert here("prompt").stderr.startswith("no prompt is kept yet: ")
    saved = here("prompt", "save", "ask", "what is $what?", "--default", "what=GGUF", "--temp", "0", "--stop", "x")
    assert (saved.returncode, saved.stdout) == (0, "")
    assert "`llmrun run MODEL --prompt-template ask` uses it" in saved.stderr
    assert here("prompt", "save", "brief", "--system", "Be brief.").returncode == 0
    assert here("prompt", "save", "piped", stdin="Two\nlines\n").returncode == 0
    assert [line.split(maxsplit=1) for line in here("prompt").stdout.splitlines()] == [
        ["ask", "what is $what?"],
        ["brief", "Be brief."],
        ["piped", "Two lines"],
    ]
    assert figures(here("prompt", "show", "ask", "--json"))["options"] == {"temp": 0.0, "stop": ["x"]}
    assert here("prompt", "show", "piped").stdout == 'prompt = """\nTwo\nlines"""\n'
    assert here("prompt", "rm", "ask").returncode == 0
    assert [prompt["name"] for prompt in figures(here("prompt", "--json"))["prompts"]] == ["brief", "piped"]
    assert [here("prompt", *words).returncode for words in (("show", "ask"), ("rm", "ask"))] == [5, 5]
    assert here("prompt", "save", "brief", "x").returncode == 2
    assert here("prompt", "save", "nothing").returncode == 2


def test_a_damaged_prompt_hides_no_other(here: Run, tmp_path: Path) -> None:
    here("prompt", "save", "good", "x")
    (file,) = tmp_path.rglob("good.toml")
    file.with_name("bad.toml").write_text("prompt =")
    done = here("prompt")
    assert (done.returncode, done.stdout) == (0, f"{'good':<20}  x\n")
    assert done.stderr.startswith("note: prompt 'bad' is no TOML")


def test_run_answers_a_prompt_by_name(llmrun: Run) -> None:
    """And a text that is piped in is its $input."""
    assert llmrun("prompt", "save", "ask", "$how is a $input?", "--default", "how=who", "--temp", "0").returncode == 0
    plain = llmrun("run", "guide", "what is a KV cache?", "--temp", "0")
    named = llmrun("run", "guide", "--prompt-template", "ask", "--param", "how=what", stdin="KV cache\n")
    assert (named.returncode, named.stdout, named.stderr) == (0, plain.stdout, plain.stderr)
    assert "KV cache" in named.stdout


def test_a_chat_has_the_system_message_of_a_prompt(llmrun: Run) -> None:
    llmrun("prompt", "save", "role", "--system", "You are $who.")
    done = llmrun("chat", "guide", "--prompt-template", "role", "--param", "who=Ann", stdin="/system\n")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "You are Ann.")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run", "guide", "x", "--prompt-template", "nobody"), 5, "there is no prompt 'nobody'"),
        (("run", "guide", "x", "--param", "a=b"), 2, "--param is for a prompt, and none is named"),
        (("run", "guide", "x", "--prompt-template", "ask", "--param", "a"), 2, "--param 'a' is no NAME=TEXT"),
        (("run", "guide", "--prompt-template", "ask", "--param", "what=a"), 2, "prompt 'ask' needs a text"),
        (("run", "guide", "x", "--prompt-template", "ask"), 2, "prompt 'ask' needs what"),
        (("chat", "guide", "--prompt-template", "ask"), 2, "prompt 'ask' has no system message"),
        (("run", "guide", "x", "--prompt-template", "../ask"), 2, "'../ask' is no name for a prompt"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(here: Run, words: list[str], code: int, said: str) -> None:
    here("prompt", "save", "ask", "what is $what, says $input?")
    done = here(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"error: {said}")
    assert json.dumps(done.stderr).count("hint: ") == 1


@pytest.mark.parametrize("line", ["llmrun prompt show ", "llmrun run guide --prompt-template "])
def test_a_shell_completes_the_names_of_prompts(
    here: Run, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here("prompt", "save", "summarize", "x")
    here("prompt", "save", "translate", "x")
    assert completions(line, monkeypatch, capsys) == ["summarize", "translate"]
