"""`llmrun run` as a part of a pipe: files, structure, many answers, exit codes; the real program."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrun.attachment import MAX_BYTES, Attachment, read_attachment, read_attachments
from llmrun.errors import NotFoundError, UsageError

Run = Callable[..., subprocess.CompletedProcess[str]]
SCHEMA = '{"type": "object", "properties": {"fits": {"type": "boolean"}}, "required": ["fits"]}'


def test_an_answer_with_a_schema_is_json_that_satisfies_it(llmrun: Run, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA)
    for schema in (SCHEMA, str(tmp_path / "schema.json")):
        done = llmrun("run", "guide", "does a 7B model fit?", "--schema", schema)
        assert (done.returncode, done.stderr) == (0, "")
        assert isinstance(json.loads(done.stdout)["fits"], bool)


def test_an_answer_with_a_grammar_is_one_it_allows(llmrun: Run, tmp_path: Path) -> None:
    (tmp_path / "yes.gbnf").write_text('root ::= "yes" | "no"\n')
    done = llmrun("run", "guide", "does it fit?", "--grammar", str(tmp_path / "yes.gbnf"))
    assert (done.returncode, done.stdout.strip() in ("yes", "no")) == (0, True)


def test_every_answer_of_a_piped_chat_satisfies_the_schema(llmrun: Run) -> None:
    done = llmrun("chat", "guide", "--schema", '{"enum": ["yes", "no"]}', stdin="hi\nhello\n")
    assert [json.loads(line) in ("yes", "no") for line in done.stdout.splitlines()] == [True, True]


def test_an_answer_that_was_cut_off_before_it_satisfies_its_schema_exits_with_9(llmrun: Run) -> None:
    done = llmrun("run", "guide", "hi", "--schema", '{"type": "string", "minLength": 99}', "-n", "3", "--json")
    assert (done.returncode, json.loads(done.stdout)["finish_reason"]) == (9, "length")
    assert "error: the answer is not whole: --max-tokens ended it after 3 tokens" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--schema", '{"not": {}}'], 2, 'the schema\'s "not" at its top cannot be kept to'),
        (["--schema", "{"], 2, "the schema is not JSON"),
        (["--schema", "nowhere.json"], 5, "there is no file nowhere.json"),
        (["--schema", "{}", "--grammar", "x"], 2, "cannot be given together"),
        (["--schema", "{}", "--stop", "}"], 2, "--stop would cut"),
        (["--file", "nowhere.txt"], 5, "there is no file nowhere.txt"),
        (["--answers", "0"], 2, "--answers"),
    ],
)
def test_what_cannot_be_asked_is_said_before_a_model_is_loaded(
    llmrun: Run, arguments: list[str], code: int, words: str
) -> None:
    done = llmrun("run", "guide", "hi", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr


def test_files_pipe_and_prompt_are_one_question_in_this_order(llmrun: Run, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbftwo")
    a, b = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    apart = llmrun("run", str(tiny_model), "p", "--file", a, "--file", b, "--json", "-n", "1", stdin="piped\n")
    whole = f"--- {a} ---\none\n--- end of {a} ---\n\n--- {b} ---\ntwo\n--- end of {b} ---\n\npiped\n\np"
    together = llmrun("run", "--json", "-n", "1", str(tiny_model), "--", whole)
    counts = [json.loads(done.stdout)["usage"]["prompt_tokens"] for done in (apart, together)]
    assert counts[0] == counts[1] > len(whole) // 2


@pytest.mark.parametrize("command", [("run", "guide", "what is this?"), ("chat", "guide", "-q")])
def test_what_is_piped_in_must_be_text(llmrun: Run, command: tuple[str, ...]) -> None:
    done = llmrun(*command, stdin="ELF\0\1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "what is piped in is no text" in done.stderr


def test_many_answers_have_seeds_in_a_row_and_read_the_prompt_once(llmrun: Run, tiny_model: Path) -> None:
    done = llmrun("run", str(tiny_model), "hi", "--answers", "3", "--json", "-n", "4", "--temp", "1", "--seed", "7")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["sampling"]["seed"] for line in lines] == [7, 8, 9]
    n_prompt = lines[0]["usage"]["prompt_tokens"]
    assert [line["usage"]["cached_tokens"] for line in lines] == [0, n_prompt - 1, n_prompt - 1]
    alone = llmrun("run", str(tiny_model), "hi", "--json", "-n", "4", "--temp", "1", "--seed", "8")
    assert json.loads(alone.stdout)["answer"] == lines[1]["answer"]


def test_many_answers_of_a_greedy_model_are_the_same_and_it_is_said(llmrun: Run) -> None:
    done = llmrun("run", "guide", "what is a kv cache", "--answers", "2")
    first, second = done.stdout.strip().split("\n\n")
    assert first == second
    assert "at temperature 0 all answers are the same" in done.stderr


def test_a_question_longer_than_the_context_tells_both(llmrun: Run, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("word " * 4000)
    done = llmrun("run", "guide", "summarise", "--file", str(tmp_path / "long.txt"))
    assert done.returncode == 7
    assert "tokens, and the context holds 2,048" in done.stderr


def test_an_answer_that_fills_the_context_is_told_of_once(llmrun: Run) -> None:
    grammar = ("--schema", '{"type": "string", "minLength": 999}')
    done = llmrun("run", "guide", "hi", "--ctx", "256", *grammar)
    assert done.returncode == 9
    assert done.stderr.startswith("error: the answer is not whole: the context ended it")
    free = llmrun("run", "guide", "hi " * 120, "--ctx", "256", "--temp", "0")
    assert "(the context is full: the answer stops here; --ctx gives more room)" in free.stderr


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"%PDF-1.7\n", "is a PDF", "pdftotext"),
        (b"PK\x03\x04", "an office document", "pandoc"),
        (b"\x1f\x8b\x08", "compressed", "zcat"),
        (b"GGUF\x03", "a model", "llmrun inspect"),
        (b"\x89PNG\r\n", "an image", ""),
        (b"ab\0cd", "is binary", ""),
        (b"\xff\xfea", "is not UTF-8", "iconv"),
        (b"caf\xe9", "is not UTF-8 (byte 3)", "iconv"),
        (b"a" * (MAX_BYTES + 1), "4,194,304 tokens", "head -c"),
    ],
)
def test_a_file_without_text_is_refused_with_what_makes_text_of_it(
    tmp_path: Path, data: bytes, message: str, hint: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_attachment(path)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_files_are_read_in_what_they_are_written_in(tmp_path: Path) -> None:
    texts = {"utf-8": "é", "utf-16": "ü", "utf-8-sig": "ж"}
    for encoding, text in texts.items():
        (tmp_path / encoding).write_bytes(text.encode(encoding))
    found = read_attachments([tmp_path / encoding for encoding in texts])
    assert found == tuple(Attachment(str(tmp_path / encoding), text) for encoding, text in texts.items())


def test_a_folder_or_no_file_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_attachment(tmp_path)
    with pytest.raises(NotFoundError):
        read_attachment(tmp_path / "none")


def test_files_that_are_too_much_together_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(b"a" * (MAX_BYTES // 2 + 1))
    with pytest.raises(UsageError, match=f"{paths[0]} and {paths[1]} have 16"):
        read_attachments(paths)
