"""worker.vision: images in a context, where they take more of it than they seem to, or are none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Generate
from llmrun.errors import NotFoundError
from llmrun.message import Message
from scripts.synthetic import write_model
from tests.conftest import GREEDY, ONE_THREAD, chunks
from tests.vision_files import Eye, png, write_projector, write_qwen2vl

SEEING = replace(ONE_THREAD, devices=())


def shown(image: Path) -> Generate:
    return Generate((Message("user", "what is this?", images=(str(image),)),), GREEDY)


def test_a_context_is_full_when_its_cells_are(tmp_path: Path, start_engine: Callable[..., Engine]) -> None:
    """An image may take more of them than positions."""
    model = write_qwen2vl(tmp_path / "qwen-F16.gguf")
    path = write_projector(tmp_path / "mmproj-F16.gguf", Eye("qwen2vl_merger", n_text=320, image_size=560))
    (tmp_path / "wide.png").write_bytes(png(560, 280))
    engine = start_engine(model, replace(SEEING, n_ctx=512, projector=str(path)))
    last = chunks(engine, shown(tmp_path / "wide.png"))[-1]
    assert last.finish_reason == "context"
    assert last.usage is not None
    assert last.usage.prompt_tokens + last.usage.completion_tokens <= 512 - (20 * 10 - 20) + 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has none")
def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path, start_engine: Callable[..., Engine]) -> None:
    model = write_model(tmp_path / "seer-F16.gguf")
    projector = write_projector(tmp_path / "mmproj-F16.gguf")
    seer = start_engine(model, replace(SEEING, projector=str(projector)))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(NotFoundError, match=r"pipe\.png is no ordinary file"):
        list(seer.answer(shown(tmp_path / "pipe.png")))
