"""units, the other way: what people type for counts and sizes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.units import format_bytes, format_count, format_decimal_bytes, parse_bytes, parse_count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("7b", 7_000_000_000),
        ("1.5B", 1_500_000_000),
        ("350m", 350_000_000),
        (" 0.6 b ", 600_000_000),
        ("1T", 10**12),
        ("12k", 12_000),
        ("999", 999),
        ("7,000,000", 7_000_000),
        ("7_000_000", 7_000_000),
        ("6738415616", 6_738_415_616),
    ],
)
def test_a_count_is_read_as_people_name_models(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    ["", " ", "b", "-7b", "seven", "7bb", "7e9", "1,5b", "7 GB", "1.5", "0.0000000001b", "7..1b", "٧b", "9" * 5000],
)
def test_what_is_no_count_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_count(text)
    assert "7b, 1.5B" in (caught.value.hint or "")
    assert len(caught.value.message) < 100


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GiB", 16 << 30),
        ("512MiB", 512 << 20),
        ("512 mib", 512 << 20),
        ("8 GB", 8_000_000_000),
        ("8gb", 8_000_000_000),
        ("1.5 KiB", 1536),
        ("1 kB", 1000),
        ("4096", 4096),
        ("12 B", 12),
        ("1,023.5 KiB", 1_048_064),
        ("2TiB", 2 << 40),
    ],
)
def test_a_size_is_binary_or_decimal_as_it_says(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def test_a_budget_is_rounded_down() -> None:
    assert parse_bytes("1.7 GiB") == 1_825_361_100  # and four fifths
    assert parse_bytes("0.0001 KiB") == 0


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1 GiB", "1.5 B", "1.5", "8 GX", "much", "1 GiB 2", "8bananasplit", "8" * 99]
)
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text)
    assert caught.value.hint == "write it as 16GiB, 8GB or 512MiB"
    assert len(caught.value.message) < 100


@pytest.mark.parametrize("text", ["8G", "8g", "512M", "16 k", "1T"])
def test_a_unit_that_can_mean_two_sizes_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="can mean two sizes"):
        parse_bytes(text)


@given(st.integers(0, 999), st.integers(0, 9), st.integers(0, 4))
def test_a_count_that_prints_exactly_reads_back(whole: int, tenth: int, power: int) -> None:
    tenth = tenth if power and whole < 99 else 0
    count = whole * 1000**power + tenth * 1000**power // 10
    assert parse_count(format_count(count)) == count


@given(st.integers(0, 1023), st.sampled_from([0, 1]), st.integers(0, 6))
def test_a_size_that_prints_exactly_reads_back(whole: int, half: int, power: int) -> None:
    size = whole * 1024**power + (half * 1024**power // 2 if whole < 1023 else 0)
    assert parse_bytes(format_bytes(size)) == size


@given(st.integers(0, 999), st.integers(0, 9), st.integers(0, 6))
def test_a_decimal_size_that_prints_exactly_reads_back(whole: int, tenth: int, power: int) -> None:
    size = whole * 1000**power + (tenth * 1000**power // 10 if power else 0)
    assert parse_bytes(format_decimal_bytes(size)) == size


@pytest.mark.parametrize(
    ("size", "text"), [(14_000_000_000, "14.0 GB"), (999, "999 B"), (999_960, "1.0 MB"), (-1500, "-1.5 kB"), (0, "0 B")]
)
def test_decimal_bytes_have_one_decimal(size: int, text: str) -> None:
    assert format_decimal_bytes(size) == text


@given(st.text("0123456789.,_ kKmMgGbBiT-é٣", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_count, parse_bytes):
        with contextlib.suppress(UsageError):
            assert parse(text) >= 0
