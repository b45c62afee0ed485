"""What clients may ask for, how long it stays, and who may wait for it: without an engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.embedded import embedded_file
from llmrun.errors import NotFoundError, QueueFullError, UsageError
from llmrun.server.admission import Admission, Place, default_queue
from llmrun.server.keeping import FOREVER, parse_keep_alive
from llmrun.server.names import Names
from tests.model_trees import HubCache

REPO = "acme/tiny-GGUF"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, own_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / ".cache" / "huggingface" / "hub"))


def add(hub_cache: HubCache, *labels: str) -> None:
    hub_cache.add(REPO, {f"tiny-{label}.gguf": embedded_file(label).read_bytes() for label in labels})


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "./x.gguf", "../x", "~/x.gguf", "C:\\x", "x.gguf", "\\\\host\\x", "file:///etc/passwd", "a\0b"],
)
def test_no_name_is_a_path(name: str, tmp_path: Path) -> None:
    names = Names(["guide"])
    with pytest.raises(NotFoundError) as told:
        names.paths(names.meant(name))
    assert "GET /v1/models" in (told.value.hint or "")


@given(st.text(max_size=60))
def test_whatever_is_asked_for_is_a_name_or_not_found(name: str) -> None:
    names = Names(["guide"])
    said: list[str] = []
    try:
        names.meant(name)
    except NotFoundError as error:
        said.append(error.message)
    assert all(len(text) < 800 and "\n" not in text for text in said)


def test_a_path_is_served_by_a_name_and_never_told(guide_file: Path) -> None:
    names = Names([str(guide_file)])
    assert names.meant("") == names.meant("guide-Q8_0")
    assert names.paths(names.meant("guide-Q8_0")) == {guide_file.resolve()}
    with pytest.raises(NotFoundError):
        names.meant(str(guide_file))
    assert next(one.name for one in names.offered()) == "guide-Q8_0"


@pytest.mark.parametrize("given", ["guide", "file"])
def test_one_file_is_one_model_and_keeps_its_other_name(guide_file: Path, given: str) -> None:
    names = Names([given if given == "guide" else str(guide_file)])
    offered = {one.name: one.also for one in names.offered()}
    assert "guide:Q8_0" not in offered
    assert offered["guide" if given == "guide" else "guide-Q8_0"] == ("guide:Q8_0",)
    assert {"guide:F16", "guide:Q4_K_M"} <= set(offered)
    assert names.paths(names.meant("guide:Q8_0")) == {guide_file.resolve()}


def test_which_of_several_quantizations_a_name_means_is_not_guessed(hub_cache: HubCache) -> None:
    names = Names([REPO])
    add(hub_cache, "Q8_0")
    assert [one.name for one in names.offered() if REPO in one.name] == [REPO]
    add(hub_cache, "Q4_K_M")
    assert [one.name for one in names.offered() if REPO in one.name] == [REPO, f"{REPO}:Q4_K_M", f"{REPO}:Q8_0"]


def test_two_that_would_be_called_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both be served as x"):
        Names([str(tmp_path / "a" / "x.gguf"), str(tmp_path / "b" / "x.gguf")])


def test_what_is_here_may_be_asked_for_without_a_restart(hub_cache: HubCache) -> None:
    names = Names(["guide"])
    with pytest.raises(NotFoundError, match="is not here, and a request fetches none") as told:
        names.paths(names.meant(REPO))
    assert f"`llmrun pull {REPO}`" in (told.value.hint or "")
    add(hub_cache, "Q8_0", "Q4_K_M")
    assert {path.name for path in names.paths(names.meant(f"{REPO}:Q8_0"))} == {
        path.resolve().name for path in hub_cache.repo().rglob("tiny-Q8_0.gguf")
    }
    assert len(names.paths(names.meant(REPO))) == 2
    assert [one.name for one in names.offered()] == [
        "guide",
        "guide:F16",
        "guide:Q4_K_M",
        f"{REPO}:Q4_K_M",
        f"{REPO}:Q8_0",
    ]


def test_a_given_one_that_is_to_be_fetched_has_no_files_yet(hub_cache: HubCache) -> None:
    names = Names(["guide", REPO])
    assert names.paths(names.given[1]) == frozenset()
    add(hub_cache, "Q8_0")
    assert len(names.paths(names.given[1])) == 1
    assert [(one.name, one.given, one.quant) for one in names.offered()][:2] == [
        ("guide", True, "Q8_0"),
        (REPO, True, "Q8_0"),
    ]


@pytest.mark.parametrize("name", ["guide", "guide:latest", "Guide", " guide "])
def test_spellings_of_one_name_are_one_key(name: str) -> None:
    assert Names(["guide"]).meant(name).key == "guide"


def test_what_nobody_knows_is_not_repeated_at_length() -> None:
    names = Names(["guide"])
    with pytest.raises(NotFoundError) as told:
        names.paths(names.meant("x" * 5000))
    assert len(told.value.message) < 300


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("0", 0), ("-1", FOREVER), ("forever", FOREVER), ("1h30m", 5400), ("1.5s", 1.5), ("300", 300)],
)
def test_times_are_written_as_for_ollama(text: str, seconds: float) -> None:
    assert parse_keep_alive(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 minutes", "5mm", "1h-3m", "nan"])
def test_what_is_no_time_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_keep_alive(text)
    assert "5m" in (told.value.hint or "")


@given(st.integers(1, 16), st.integers(0, 40), st.lists(st.integers(1, 4) | st.none(), max_size=80))
def test_a_queue_is_never_longer_than_it_may_and_never_loses_count(
    n_slots: int, queue: int, steps: list[int | None]
) -> None:
    """A number is a request for so many answers, None the end of the oldest."""
    admission = Admission("guide", n_slots, queue)
    inside: list[Place] = []
    for step in steps:
        if step is None:
            if inside:
                admission.leave(inside.pop(0), 1.0)
            continue
        was_full = admission.inside + min(step, n_slots) > n_slots + queue
        if was_full:
            with pytest.raises(QueueFullError) as told:
                admission.enter(step)
            assert 1 <= (told.value.retry_after or 0) <= 60
        else:
            inside.append(admission.enter(step))
        assert admission.inside == sum(place.n for place in inside)
        assert admission.busy + admission.waiting == admission.inside
        assert admission.inside <= n_slots + queue


def test_who_is_refused_comes_again_when_an_answer_is_likely_to_have_ended() -> None:
    admission = Admission("guide", 2, 2)
    for _ in range(8):
        admission.leave(admission.enter(), 10.0)
    for _ in range(4):
        admission.enter()
    with pytest.raises(QueueFullError) as told:
        admission.enter()
    assert told.value.retry_after == 5  # every 5 s one of the two slots ends an answer of 10 s


def test_sixteen_clients_are_never_too_many() -> None:
    assert default_queue(1) >= 16
    assert default_queue(32) == 128
