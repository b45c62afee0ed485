"""`llmrun serve` with several models: the real program, asked over HTTP, and its workers killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmrun.embedded import embedded_file
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost
from tests.model_trees import HubCache
from tests.serving import Server, serving

MINE = "acme/tiny-GGUF"
HUGE = "acme/huge-GGUF"
DAMAGED = "acme/damaged-GGUF"


def write_ghost(path: Path, least: int) -> None:
    """A file whose header says more bytes of weights than any machine has; none of them take room on the disk."""
    header, size = ghost(MODELS["deepseek-v3"], "F16", tokenizer=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header)
    os.truncate(path, size)
    assert size > least


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    cache = HubCache(home / ".cache" / "huggingface" / "hub")
    cache.add(MINE, {"tiny-Q4_K_M.gguf": embedded_file("Q4_K_M").read_bytes()})
    cache.add(DAMAGED, {"damaged-Q4_K_M.gguf": embedded_file("Q4_K_M").read_bytes()[:5000]})
    with serving(home, "guide", "--threads", "1", "--keep-alive", "10m", env={"HF_HUB_OFFLINE": "1"}) as running:
        yield running


def ask(server: Server, model: str) -> tuple[int, Any]:
    messages = [{"role": "user", "content": "What is a KV cache?"}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 30}
    status, answer = server.ask("/v1/chat/completions", body)
    return status, answer["choices"][0]["message"]["content"] if status == 200 else answer["error"]["message"]


def test_one_file_is_listed_once_and_answers_to_both_its_names(server: Server) -> None:
    listed = [one["id"] for one in server.ask("/v1/models")[1]["data"]]
    assert listed[0] == "guide"
    assert "guide:Q8_0" not in listed
    assert {server.ask("/api/show", {"model": name})[0] for name in ("guide", "guide:Q8_0", "guide:q8_0")} == {200}
    assert server.ask("/v1/models/guide:Q8_0")[0] == 200


def test_a_damaged_file_is_named_and_not_where_it_lies(server: Server) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}),
        ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/embeddings", {"input": "Hi"}),
        ("/api/show", {}),
        (f"/v1/models/{DAMAGED}", None),
    ):
        status, answer = server.ask(path, None if body is None else {"model": DAMAGED} | body)
        assert status in (404, 422), (path, answer)
        assert str(server.home) not in str(answer)
        assert "/snapshots/" not in str(answer)


def workers(server: Server) -> list[int]:
    return [child.pid for child in psutil.Process(server.process.pid).children()]


def test_a_model_of_the_list_is_loaded_when_it_is_asked_for(server: Server) -> None:
    before = len(workers(server))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(server, MINE), range(4)))
    assert {status for status, _ in answers} == {200}
    assert "cache" in answers[0][1]
    assert len(workers(server)) == before + 1


@pytest.mark.parametrize("name", ["acme/none-GGUF", "qwen3:8b", "gpt-4", "{home}/x.gguf", "/etc/passwd"])
def test_what_is_not_here_is_not_found_and_says_how_to_get_it(server: Server, name: str) -> None:
    status, told = ask(server, name.format(home=server.home))
    assert status == 404
    assert "/v1/models" in told
    assert ("llmrun pull" in told) == (name in ("acme/none-GGUF", "qwen3:8b"))


def test_a_file_cannot_be_named_though_it_is_one_of_the_list(server: Server) -> None:
    (path,) = (server.home / ".cache").rglob("tiny-Q4_K_M.gguf")
    assert ask(server, str(path))[0] == 404


def test_what_does_not_fit_is_refused_while_the_others_answer_on(server: Server) -> None:
    folder = server.home / ".cache" / "huggingface" / "hub" / f"models--{HUGE.replace('/', '--')}"
    write_ghost(folder / "snapshots" / ("3" * 40) / "huge-F16.gguf", psutil.virtual_memory().total)
    HubCache(folder.parent).point(HUGE, "main", "3" * 40)
    with ThreadPoolExecutor(2) as pool:
        huge, guide = pool.map(lambda name: ask(server, name), (HUGE, "guide"))
    assert huge[0] == 507
    assert guide[0] == 200
    assert ask(server, MINE)[0] == 200


def test_a_killed_worker_is_soon_there_again_and_the_others_never_notice(server: Server) -> None:
    assert ask(server, MINE)[0] == 200
    first = min(workers(server))  # guide's: it was started first
    others = set(workers(server)) - {first}
    os.kill(first, signal.SIGKILL)
    begun = time.monotonic()
    statuses: list[int] = []
    while not statuses or statuses[-1] != 200:
        statuses.append(ask(server, "guide")[0])
    assert time.monotonic() - begun < 15  # 3 s on a machine with nothing else to do
    assert set(statuses) <= {200, 500}
    assert others <= set(workers(server))


def test_a_name_that_means_nothing_is_told_at_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"error: 'gide' is no name"),
        serving(tmp_path, "guide", "--pin", "gide", "--threads", "1"),
    ):
        pass


def test_a_pinned_one_is_loaded_at_the_start(tmp_path: Path) -> None:
    with serving(tmp_path, "guide:Q4_K_M", "--pin", "guide:Q8_0", "--threads", "1", "--keep-alive", "0") as running:
        for name in ("guide:Q4_K_M", "guide:Q8_0"):
            assert ask(running, name)[0] == 200
            while len(workers(running)) > 1:  # the other one is kept for no time
                time.sleep(0.01)
        assert len(workers(running)) == 1
