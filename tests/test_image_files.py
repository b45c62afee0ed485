"""llmrun.images: what a file holds is said by its bytes, within limits, before anything is loaded for it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import NotFoundError, UsageError
from llmrun.images import MAX_BYTES, parse_image, read_image, read_images
from tests.vision_files import png

JPEG = (
    bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc00011") + b"\x08" + struct.pack(">HH", 40, 60) + bytes(20)
)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (png(3, 5), ("PNG", 3, 5)),
        (JPEG, ("JPEG", 60, 40)),
        (b"\xff\xd8" + b"\xff" * 9 + JPEG[3:], ("JPEG", 60, 40)),
        (b"GIF89a" + struct.pack("<HH", 7, 9), ("GIF", 7, 9)),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 11, -13), ("BMP", 11, 13)),
    ],
)
def test_an_image_says_its_size(data: bytes, found: tuple[str, int, int]) -> None:
    assert parse_image(data) == found


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "is no image"),
        (b"RIFF....WEBPVP8 ", "is WebP, which llama.cpp does not read"),
        (b"%PDF-1.7", "is PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", 0, 5), "without a pixel"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", 20000, 5), "has 20,000 x 5 pixels"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", 16000, 16000), "has 16,000 x 16,000 pixels"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, -1, 5), "without a pixel"),
    ],
)
def test_what_is_no_image_or_too_large_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_image(data)
    assert reason in refused.value.message
    assert refused.value.hint


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"BM"]))
def test_any_bytes_are_an_image_within_limits_or_refused(data: bytes, start: bytes) -> None:
    try:
        _, width, height = parse_image(start + data)
    except UsageError:
        return
    assert 0 < width <= 16384
    assert 0 < height <= 16384


@pytest.mark.parametrize("data", [png(3, 5), JPEG])
def test_any_prefix_of_an_image_is_an_image_or_refused(data: bytes) -> None:
    for end in range(len(data)):
        try:
            assert parse_image(data[:end]) == parse_image(data)
        except UsageError:
            continue


def test_a_file_is_looked_at_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(png(3, 5))
    image = read_image(tmp_path / "a.txt")
    assert (image.path, image.format, image.size) == (str(tmp_path / "a.txt"), "PNG", len(png(3, 5)))
    with pytest.raises(NotFoundError, match="there is no image"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UsageError, match="is a directory"):
        read_image(tmp_path)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UsageError, match=r"at most 32\.0 MiB"):
        read_image(tmp_path / "large.png")
    with pytest.raises(UsageError, match="33 images are too many"):
        read_images([tmp_path / "a.txt"] * 33)
