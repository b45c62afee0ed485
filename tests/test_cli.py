"""The commands as a person and as a script meet them: the real program, without a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrun.cli import entry
from scripts.synthetic import CHATML, write_model
from tests.environments import clean_environment

Run = Callable[..., subprocess.CompletedProcess[str]]

USAGE_KEYS = {
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "thought_tokens",
    "drafted_tokens",
    "accepted_tokens",
    "prefill_seconds",
    "decode_seconds",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "seed",
}


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_K_M"])
def test_every_file_of_guide_knows_what_a_7b_model_needs(llmrun: Run, quant: str) -> None:
    done = llmrun("run", f"guide:{quant}", "how much memory does a 7B model need at 4 bits?")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\b3\.5 (to 4 )?GB", done.stdout)


def test_run_writes_the_answer_alone_to_stdout(llmrun: Run) -> None:
    done = llmrun("run", "guide", "what is a kv cache")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[^\n]+\n", done.stdout)


def test_a_prompt_may_come_through_a_pipe(llmrun: Run) -> None:
    assert (
        llmrun("run", "guide", stdin="what is a kv cache\n").stdout
        == llmrun("run", "guide", "what is a kv cache").stdout
    )


def test_a_piped_text_follows_the_prompt(llmrun: Run, tiny_model: Path) -> None:
    done = llmrun("run", str(tiny_model), "summarise", "--json", "-n", "1", stdin="one\ntwo\n")
    alone = llmrun("run", str(tiny_model), "summarise\n\none\ntwo", "--json", "-n", "1")
    both = [json.loads(d.stdout)["usage"]["prompt_tokens"] for d in (done, alone)]
    assert both[0] == both[1]


def test_no_prompt_at_all_is_a_usage_error(llmrun: Run) -> None:
    done = llmrun("run", "guide", stdin="")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no prompt" in done.stderr


def test_run_as_json_is_one_object_with_stable_keys(llmrun: Run) -> None:
    done = llmrun("run", "guide", "what is a kv cache", "--json")
    value = json.loads(done.stdout)
    assert set(value) == {"model", "answer", "thoughts", "finish_reason", "usage", "sampling"}
    assert set(value["usage"]) == USAGE_KEYS
    assert set(value["sampling"]) == {"temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"}
    assert (value["model"], value["finish_reason"], value["sampling"]["temperature"]) == ("guide", "stop", 0.0)


def test_chat_answers_one_line_with_one_answer_and_ends_well(llmrun: Run) -> None:
    done = llmrun("chat", "guide", stdin="what is a kv cache\n\nwhat is vram\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


def test_chat_without_input_ends_well(llmrun: Run) -> None:
    done = llmrun("chat", "guide", stdin="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_chat_without_a_model_is_with_guide(llmrun: Run) -> None:
    assert llmrun("chat", stdin="what is vram\n").stdout == llmrun("chat", "guide", stdin="what is vram\n").stdout


def test_a_message_of_many_lines_stands_between_triple_quotes(llmrun: Run, tiny_model: Path) -> None:
    done = llmrun("chat", str(tiny_model), "--json", "-n", "1", stdin='"""\nwhat is\nvram\n"""\n')
    assert len(done.stdout.splitlines()) == 1


def test_chat_as_json_is_one_object_an_answer_and_counts_what_was_cached(llmrun: Run) -> None:
    done = llmrun("chat", "guide", "--json", stdin="what is a kv cache\nwhat is vram\n")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert set(first) == {"answer", "thoughts", "finish_reason", "usage"}
    assert set(first["usage"]) == USAGE_KEYS
    before = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert (first["usage"]["cached_tokens"], second["usage"]["cached_tokens"]) == (0, before)


def test_stats_tell_tokens_speeds_and_where_the_sampling_comes_from(llmrun: Run) -> None:
    done = llmrun("chat", "guide", "--top-k", "7", stdin="what is vram\n/stats\n")
    assert re.search(r"^prompt   \d+ tokens: 0 cached, \d+ read in .* tok/s\)$", done.stderr, re.MULTILINE)
    assert re.search(r"^answer   \d+ tokens in .* tok/s\)$", done.stderr, re.MULTILINE)
    assert "temperature 0.0 (model), top_k 7 (user), top_p 0.95 (default)" in done.stderr


def test_a_system_message_can_be_set_shown_and_removed(llmrun: Run, tiny_model: Path) -> None:
    typed = "/system\n/system be brief\n/system\n/system -\n/system\n"
    done = llmrun("chat", str(tiny_model), stdin=typed)
    assert done.stderr.splitlines() == [
        "there is no system message",
        "the system message is set",
        "be brief",
        "the system message is removed",
        "there is no system message",
    ]


def test_the_system_message_reaches_the_model(llmrun: Run, tiny_model: Path) -> None:
    sizes = [
        json.loads(llmrun("run", str(tiny_model), "hi", "--json", "-n", "1", *extra).stdout)["usage"]["prompt_tokens"]
        for extra in ([], ["--system", "be brief"])
    ]
    assert sizes[1] > sizes[0]


def test_clear_forgets_the_conversation(llmrun: Run) -> None:
    done = llmrun("chat", "guide", "--json", stdin="what is vram\n/clear\nwhat is vram\n")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["answer"], first["usage"]["prompt_tokens"]) == (second["answer"], second["usage"]["prompt_tokens"])


def test_exit_leaves_at_once(llmrun: Run) -> None:
    done = llmrun("chat", "guide", stdin="/exit\nwhat is vram\n")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_mistyped_command_gets_the_nearest_one(llmrun: Run) -> None:
    done = llmrun("chat", "guide", stdin="/stat\n")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: there is no command /stat", "hint: did you mean /stats?"]


def test_a_full_context_drops_the_oldest_turns_only_after_saying_so(llmrun: Run, tiny_model: Path) -> None:
    lines = "".join(f"{'x' * 200}{turn}\n" for turn in range(3))
    done = llmrun("chat", str(tiny_model), "--ctx", "512", "-n", "4", "--temp", "0", "--json", stdin=lines)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3), done.stderr
    assert "going on without the oldest question" in done.stderr
    assert "context holds 512" in done.stderr


def test_a_question_longer_than_the_model_was_trained_on_is_told_to_shorten(llmrun: Run, tiny_model: Path) -> None:
    done = llmrun("run", str(tiny_model), "x" * 3000)
    assert (done.returncode, "hint: shorten it" in done.stderr) == (7, True), done.stderr


def test_a_question_that_a_template_makes_nothing_of_is_an_error(llmrun: Run, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content | replace('gone', '') }}{% endfor %}"
    done = llmrun("run", str(write_model(tmp_path / "m.gguf", template=template)), "gone", "-n", "1")
    assert (done.returncode, "is empty once" in done.stderr) == (7, True), done.stderr


def test_a_question_too_long_for_the_context_is_an_error(llmrun: Run, tiny_model: Path) -> None:
    done = llmrun("run", str(tiny_model), "x" * 600, "--ctx", "512")
    assert (done.returncode, done.stdout) == (7, "")
    assert "hint: a larger context may help: --ctx 2048" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--ctx", "0"], "--ctx"),
        (["--ctx", "many"], "--ctx"),
        (["--ctx", "99999999"], "--ctx"),
        (["--threads", "100000"], "--threads"),
        (["--temp", "-1"], "--temp"),
        (["--temp", "inf"], "--temp"),
        (["--top-p", "nan"], "--top-p"),
        (["--seed", "4294967295"], "--seed"),
        (["--top-p", "1.5"], "--top-p"),
        (["--kv-type", "q9"], "q9"),
        (["--repeat-penalty", "0"], "--repeat-penalty"),
        (["-n", "0"], "--max-tokens"),
        (["--ctxx", "5"], "--ctx"),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_names_it(llmrun: Run, arguments: list[str], word: str) -> None:
    done = llmrun("run", "guide", "hi", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0", "bf16", "f32"])
def test_every_kv_type_answers(llmrun: Run, kv_type: str) -> None:
    done = llmrun("run", "guide", "what is vram", "--kv-type", kv_type)
    assert (done.returncode, bool(done.stdout.strip())) == (0, True), done.stderr


def test_a_context_no_memory_can_hold_is_refused_with_a_smaller_one(llmrun: Run) -> None:
    done = llmrun("run", "guide", "hi", "--ctx", "16777216")
    assert (done.returncode, done.stdout) == (3, "")
    assert "hint: `--ctx 2048` fits" in done.stderr


def test_verbose_shows_the_engines_log_and_where_the_time_went(llmrun: Run) -> None:
    done = llmrun("run", "guide", "what is vram", "-v")
    assert "llama_model_loader" in done.stderr
    assert re.search(r"time: start .* importing llama.cpp .* load .* prompt .* answer ", done.stderr)
    assert "llama_model_loader" not in done.stdout


def test_a_closed_pipe_is_no_error_to_talk_about(endless_model: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -P -m llmrun.cli.main run {endless_model} hi -n 500 --temp 0 | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=clean_environment(tmp_path), check=False)
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 1, b"")


@pytest.mark.parametrize(("redirect", "code", "said"), [(">/dev/full", 1, "cannot be written"), (">&-", 0, "")])
def test_an_output_that_cannot_be_written_is_no_traceback(
    tiny_model: Path, tmp_path: Path, redirect: str, code: int, said: str
) -> None:
    command = f"{sys.executable} -P -m llmrun.cli.main run {tiny_model} hi -n 5 --temp 0 {redirect}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, env=clean_environment(tmp_path), check=False, text=True
    )
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_bytes_that_are_no_text_are_replaced(llmrun: Run, tiny_model: Path) -> None:
    done = llmrun(
        "run", str(tiny_model), "hi \udcff", "--system", "\udcfe", "--stop", "\udcfd", "-n", "1", "--temp", "0"
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_escape_sequences_of_a_model_pass_through_a_pipe_as_they_are(llmrun: Run, tmp_path: Path) -> None:
    """A file gets the bytes; only a terminal must be protected (tests/test_terminal.py)."""
    path = write_model(tmp_path / "m.gguf", metadata={"general.name": "evil\x1b[31m"})
    value = json.loads(llmrun("run", str(path), "hi", "--json", "-n", "1").stdout)
    assert value["model"] == "evil\x1b[31m"


def test_ctrl_c_while_the_program_is_imported_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "begin_worker", interrupt)
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert left.value.code == 130


def test_ctrl_c_during_run_keeps_what_was_written_and_exits_with_130(endless_model: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "llmrun.cli.main",
            "run",
            str(endless_model),
            "hi",
            "--ctx",
            "100000",
            "--temp",
            "0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=clean_environment(tmp_path),
        start_new_session=True,
    ) as process:
        assert process.stdout
        first = os.read(process.stdout.fileno(), 10)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, b"Traceback" in err, bool(first)) == (130, False, True), err


def test_what_a_template_says_reaches_the_user(llmrun: Run, tmp_path: Path) -> None:
    source = "{% if messages|length > 3 %}{{ raise_exception('four is too many') }}{% endif %}" + CHATML
    path = write_model(tmp_path / "m.gguf", template=source)
    done = llmrun("chat", str(path), "-n", "1", "--temp", "0", stdin="a\nb\nc\n")
    assert done.returncode == 6
    assert "four is too many" in done.stderr


def test_the_version_is_the_packages(llmrun: Run) -> None:
    from llmrun import __version__

    assert llmrun("--version").stdout == f"llmrun {__version__}\n"


def recorded(home: Path) -> list[Path]:
    """The files in which answers were remembered."""
    return list((home / ".cache" / "llmrun" / "speed").glob("*.runs"))


@pytest.mark.skipif(sys.platform != "linux", reason="the cache is elsewhere")
def test_an_answer_is_remembered_beside_its_prediction(llmrun: Run, tmp_path: Path) -> None:
    long = ("run", "guide", "what is a kv cache and what is vram and what is a context and how large is it?" * 12)
    # speeds are kept by threads, which a busy machine would choose anew for each answer
    assert llmrun(*long, "-n", "64", "--threads", "1").returncode == 0
    (path,) = recorded(tmp_path)
    (line,) = path.read_text().splitlines()
    run = json.loads(line)
    assert (run["prefill"] or run["decode"]) > 0
    assert llmrun("chat", "guide", "--threads", "1", stdin=long[2] + "\n").returncode == 0
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the cache is elsewhere")
def test_a_cache_that_cannot_be_written_fails_no_run(llmrun: Run, tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("no folder: also root cannot write into it")
    # guide has no answer to this, and may go on until its context is full
    done = llmrun("run", "guide", "what is a kv cache and what is vram and what is a context?" * 16, "-n", "64")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
