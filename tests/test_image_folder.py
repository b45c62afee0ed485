"""server.image_folder: images inside requests, for as long as these last."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.images import MAX_BYTES, MAX_IMAGES
from llmrun.server.image_folder import ImageFolder, parse_base64, parse_data_url
from tests.vision_files import png


def test_an_image_is_a_private_file_until_the_request_ends() -> None:
    with ImageFolder() as folder:
        paths = [Path(folder.keep(png(side, side))) for side in (1, 2)]
        assert [path.read_bytes() for path in paths] == [png(1, 1), png(2, 2)]
        assert paths[0].parent.stat().st_mode & 0o077 == 0
    assert not paths[0].parent.exists()


def test_what_is_no_image_and_one_too_many_are_refused() -> None:
    with ImageFolder() as folder:
        with pytest.raises(UsageError, match="image 1 is no image"):
            folder.keep(b"text")
        for _ in range(MAX_IMAGES):
            folder.keep(png(1, 1))
        with pytest.raises(UsageError, match="at most 32"):
            folder.keep(png(1, 1))


@given(st.binary(), st.sampled_from(["image/png", "IMAGE/JPEG", "", "text/plain;charset=utf-8", "image/png;name=a"]))
def test_a_data_url_holds_what_was_put_into_it(data: bytes, kind: str) -> None:
    assert parse_data_url(f"data:{kind};base64,{base64.b64encode(data).decode()}") == data


@pytest.mark.parametrize("url", ["http://a/b.png", "file:///etc/passwd", "data:image/png,abc", "ftp:x", "", "a" * 999])
def test_no_other_url_is_followed(url: str) -> None:
    with pytest.raises(UsageError, match="nothing is fetched"):
        parse_data_url(url)


def test_base64_is_held_to_its_alphabet_and_to_a_size() -> None:
    with pytest.raises(UsageError, match="no Base64"):
        parse_base64("ab!c")
    with pytest.raises(UsageError, match="too large"):
        parse_base64("A" * (MAX_BYTES * 4 // 3 + 8))
