"""chat.settings, context_view, bottom_line, completing: what a chat shows and takes, without an engine."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.chat.bottom_line import bottom_line
from llmrun.chat.commands.table import COMMANDS, help_text
from llmrun.chat.completing import Names, argument_of, completions
from llmrun.chat.context_view import context_lines, is_nearly_full
from llmrun.chat.settings import SETTING_NAMES, AnswerSettings, parse_setting, setting_lines
from llmrun.engine.protocol import ModelInfo, TokenCounts, Usage
from llmrun.errors import UsageError
from llmrun.message import Message
from llmrun.sampling import Sampling

INFO = ModelInfo(
    name="m",
    architecture="llama",
    description="m",
    size=1,
    n_params=1,
    n_ctx=4096,
    n_ctx_train=4096,
    template="gguf",
    notice=None,
    sampling={},
    load_seconds=0.0,
    memory=None,
)
SETTLED = AnswerSettings(Sampling(), {field.name: "default" for field in fields(Sampling)})


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("temp", "0.2", "temperature", 0.2),
        ("temperature", "1", "temperature", 1.0),
        ("top-k", "12", "top_k", 12),
        ("top_p", "0.5", "top_p", 0.5),
        ("seed", "7", "seed", 7),
        ("seed", "random", "seed", None),
    ],
)
def test_a_setting_is_taken_as_people_write_it(name: str, text: str, field: str, value: float | None) -> None:
    changed = parse_setting(SETTLED, name, text)
    assert getattr(changed.sampling, field) == value
    assert changed.origin[field] == "user"


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("tmp", "1", "no setting tmp", "temp"),
        ("colour", "1", "no setting colour", "max-tokens"),
        ("temp", "hot", "temp is a number, not hot", "/set temp 0.2"),
        ("temp", "nan", "must lie between 0 and 100", ""),
        ("top-k", "1.5", "top-k is a whole number", "/set top-k 40"),
        ("top-p", "2", "must lie between 0 and 1", ""),
        ("max-tokens", "0", "at least 1", ""),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_setting(SETTLED, name, text)
    assert hint in (caught.value.hint or "")


def test_the_length_of_an_answer_is_a_setting_too() -> None:
    limited = parse_setting(SETTLED, "max-tokens", "5")
    assert limited.max_tokens == 5
    assert parse_setting(limited, "max-tokens", "none").max_tokens is None
    assert len(setting_lines(limited)) == len(SETTING_NAMES)


def test_another_model_brings_its_own_settings_but_not_for_what_the_user_said() -> None:
    said = parse_setting(SETTLED, "temp", "0.2")
    info = replace(INFO, sampling={"general.sampling.temp": 1.5, "general.sampling.top_k": 7})
    other = said.for_model(info, None)
    assert other.sampling.temperature == 0.2
    assert other.sampling.top_k == 7
    assert (other.origin["temperature"], other.origin["top_k"]) == ("user", "model")


MESSAGES = (Message("system", "s"), Message("user", "q"), Message("assistant", "a"))


@given(
    st.tuples(*[st.integers(0, 5000)] * 3),
    st.integers(0, 500),
    st.integers(512, 20_000),
    st.sampled_from([20, 40, 80, 200]),
)
def test_the_bar_of_the_context_fits_and_shows_every_part(
    said: tuple[int, int, int], template: int, n_ctx: int, width: int
) -> None:
    total = sum(said) + template
    lines = context_lines(MESSAGES, TokenCounts(total, said), n_ctx, width)
    bar = lines[1]
    assert max(map(len, lines[1:])) <= width
    assert len(bar) == min(60, width - 3) + 2
    shown = {sign for sign, tokens in zip("#=-:", (*said, template), strict=True) if tokens}
    if total <= n_ctx // 2 and width >= 40:
        assert shown <= set(bar)
    assert lines[-1].startswith(". free")
    assert f"{max(0, n_ctx - total):,}" in lines[-1] or width < 30


def test_four_fifths_are_nearly_all() -> None:
    assert [is_nearly_full(used, 1000) for used in (799, 800, 1000)] == [False, True, True]


USAGE = Usage(
    prompt_tokens=1000,
    cached_tokens=0,
    read_tokens=1000,
    completion_tokens=234,
    prompt_seconds=1,
    completion_seconds=2,
    seed=1,
)


def test_the_line_below_tells_model_tokens_and_speed() -> None:
    assert bottom_line("qwen", USAGE, 4096, 80) == "qwen · 1,234 of 4,096 tokens (30%) · 117.0 tok/s"
    assert bottom_line("qwen", None, 4096, 80) == "qwen · context 4,096 tokens"


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=70), st.integers(1, 100))
def test_the_line_below_is_never_wider_than_the_terminal(name: str, width: int) -> None:
    assert len(bottom_line(name, USAGE, 4096, width)) <= width
    if width >= 40:
        assert "1,234 of 4,096" in bottom_line(name, USAGE, 4096, width)


def test_tab_completes_commands_and_what_follows_them() -> None:
    names = Names(sessions=lambda: ["rome", "paris"], models=lambda: ["guide", "qwen3:4b"])
    assert completions("/sy", names) == ["/system"]
    assert completions("/set te", names) == ["temp "]
    assert completions("/model q", names) == ["qwen3:4b"]
    assert completions("/set temp 0.", names) == []
    assert completions("/help x", names) == []
    assert completions("hello", names) == []
    assert completions("/system\nx", names) == []
    assert argument_of("/model") is None
    assert argument_of("/model x") == "model"


def test_the_help_fits_eighty_columns_and_has_every_command_once() -> None:
    text = help_text()
    assert max(map(len, text.splitlines())) <= 80
    names = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    assert len(names) == len(set(names))
    assert all(f"{command.name} " in text for command in COMMANDS)
    assert all(f" {alias}" in text for command in COMMANDS for alias in command.aliases)
