"""errors, units, report: what is said, and in which words."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun import errors
from llmrun.engine.protocol import Usage
from llmrun.report import ending_note, usage_figures, usage_lines
from llmrun.units import format_bytes, format_count, format_seconds

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.LLMRunError)]


def test_every_error_has_its_exit_code_and_status() -> None:
    assert {c.__name__: (c.exit_code, c.http_status) for c in CLASSES} == {
        "LLMRunError": (1, 500),
        "UsageError": (2, 400),
        "InsufficientMemoryError": (3, 507),
        "HubError": (4, 502),
        "UnreachableError": (4, 503),
        "GatedError": (4, 403),
        "ChecksumError": (4, 502),
        "DiskFullError": (4, 507),
        "NotFoundError": (5, 404),
        "GGUFError": (6, 422),
        "UnknownArchitectureError": (6, 422),
        "EngineError": (7, 500),
        "ContextOverflowError": (7, 400),
        "QuestionTooLargeError": (7, 500),
        "WorkerDiedError": (7, 500),
        "LenderLostError": (7, 503),
        "BusyError": (7, 503),
        "QueueFullError": (7, 429),
        "IncompleteAnswerError": (9, 500),
        "HistoryError": (8, 500),
        "ServerGoneError": (7, 502),
        "RefusedError": (2, 403),
        "UnauthorizedError": (2, 401),
        "TooSlowError": (2, 408),
        "BodyTooLargeError": (2, 413),
        "HeadTooLargeError": (2, 431),
        "MediaTypeError": (2, 415),
        "MisdirectedError": (2, 421),
        "RateError": (2, 429),
        "OverloadedError": (2, 503),
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_the_tree_in_the_docstring_is_true(cls: type[errors.LLMRunError]) -> None:
    row = next(line for line in (errors.__doc__ or "").splitlines() if cls.__name__ in line)
    if cls is not errors.LLMRunError:
        assert [int(word) for word in row.split() if word.isdigit()] == [cls.exit_code, cls.http_status]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (19 << 30, "19.0 GiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_bytes_are_binary_with_one_decimal(size: int, text: str) -> None:
    assert format_bytes(size) == text


@given(st.integers(0, 2**70))
def test_bytes_never_print_a_number_that_asks_for_the_next_unit(size: int) -> None:
    number = float(format_bytes(size).split()[0].replace(",", ""))
    assert number < 1024 or format_bytes(size).endswith("EiB")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1K"),
        (5_580_000, "5.6M"),
        (7_000_000_000, "7B"),
        (70_600_000_000, "70.6B"),
        (999_999, "1M"),
    ],
)
def test_counts_read_as_people_name_models(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0421, "0.04 s"), (9.5, "9.50 s"), (42.2, "42 s"), (185, "3 min 5 s"), (3720, "1 h 2 min")]
)
def test_durations_grow_coarser_as_they_grow(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


USAGE = Usage(100, 60, 40, 50, 0.5, 2.0, 7)


def test_the_figures_of_an_answer_are_complete() -> None:
    assert usage_figures(USAGE) == {
        "prompt_tokens": 100,
        "cached_tokens": 60,
        "completion_tokens": 50,
        "thought_tokens": 0,
        "drafted_tokens": 0,
        "accepted_tokens": 0,
        "prefill_seconds": 0.5,
        "decode_seconds": 2.0,
        "prefill_tokens_per_second": 80.0,
        "decode_tokens_per_second": 25.0,
        "seed": 7,
    }


def test_a_speed_that_was_not_measured_is_unknown_and_not_zero() -> None:
    figures = usage_figures(Usage(10, 10, 0, 0, 0.1, 0.0, 0))
    assert (figures["prefill_tokens_per_second"], figures["decode_tokens_per_second"]) == (None, None)


def test_the_lines_for_people_hold_the_same_figures() -> None:
    assert usage_lines(USAGE) == [
        "prompt   100 tokens: 60 cached, 40 read in 0.50 s (80 tok/s)",
        "answer   50 tokens in 2.00 s (25.0 tok/s)",
    ]
    assert usage_lines(replace(USAGE, thought_tokens=30))[1:] == [
        "answer   50 tokens, 30 of them thoughts, in 2.00 s (25.0 tok/s)"
    ]
    assert usage_lines(replace(USAGE, drafted_tokens=12, accepted_tokens=9))[1:] == [
        "answer   50 tokens in 2.00 s (25.0 tok/s); 9 of 12 guessed right"
    ]


def test_only_an_answer_that_ended_by_itself_needs_no_note() -> None:
    assert ending_note("stop") is None
    assert all(ending_note(reason) for reason in ("length", "context", "cancelled"))
