"""history.searching and history.finding: conversations by the words in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.history.finding import like_of, match_of, snippet, words_of
from llmrun.history.record import Turn
from llmrun.history.store import Store, no_history, open_store


@pytest.fixture(params=[True, False], ids=["index", "plain"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "h" / "c.db", index=request.param) as opened:
        yield opened


def keep(store: Store, *texts: str, name: str | None = None) -> str:
    key = store.begin("guide")
    for question, answer in zip(texts[::2], texts[1::2], strict=True):
        store.add(key, Turn("user", question), Turn("assistant", answer))
    if name:
        store.rename(key, name)
    return key


def found(store: Store, words: str) -> list[str]:
    return [hit.summary.id for hit in store.search(words)]


def test_every_word_must_occur_in_any_turn_and_any_case(store: Store) -> None:
    cache = keep(store, "what is a KV cache?", "It keeps keys.", "and the layers?", "They have one each.")
    keep(store, "what is a layer?", "A step.")
    assert found(store, "kv LAYERS") == [cache]
    assert found(store, "kv zebra") == []
    assert found(store, "") == found(store, " \0") == []
    assert len(found(store, "what")) == 2


def test_the_beginning_of_a_word_finds_it(store: Store) -> None:
    key = keep(store, "quantization of weights", "yes")
    assert found(store, "quant") == [key]


def test_the_middle_of_a_word_finds_it_too_where_nothing_better_does(store: Store) -> None:
    key = keep(store, "日本語の本を三冊すすめてください", "はい")
    assert found(store, "三冊") == [key]
    assert found(store, "本語") == [key]


def test_a_name_is_found_and_comes_first(store: Store) -> None:
    said = keep(store, "a trip to Rome", "yes")
    named = keep(store, "hi", "hello", name="trip to rome")
    assert found(store, "rome trip") == [named, said]


@pytest.mark.parametrize("words", ['"', "'", "a OR b", "NEAR(a b)", "-x", "*", "content:x", "%", "_", "\\", "(", "?"])
def test_no_word_is_an_operator(store: Store, words: str) -> None:
    keep(store, "plain", "words")
    assert found(store, words) == []
    key = keep(store, f"he wrote {words} there", "yes")
    assert found(store, words) == [key]


def test_accents_do_not_matter_to_an_index(tmp_path: Path) -> None:
    with open_store(tmp_path / "c.db") as store:
        key = keep(store, "ein schönes Café", "ja")
        assert found(store, "schones cafe") == [key]


def test_a_hit_shows_the_turn_that_says_most(store: Store) -> None:
    keep(store, "hi", "hello", "why a cache?", "x " * 300 + "the cache keeps keys " + "y " * 300)
    (hit,) = store.search("cache keeps")
    assert (hit.role, hit.snippet.count("…")) == ("assistant", 2)
    assert "the cache keeps keys" in hit.snippet


def test_the_limit_is_kept(store: Store) -> None:
    for _ in range(5):
        keep(store, "cache", "yes")
    assert len(store.search("cache", limit=3)) == 3


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_search_is_answered(said: str, words: str) -> None:
    with no_history() as store:
        keep(store, said, "a")
        store.search(words)
        clean = said.encode("utf-8", "replace").decode()
        if said.strip() and clean.replace("\0", "").isascii() and said.isprintable():
            assert len(found(store, said)) == 1


@given(st.text(max_size=900), st.lists(st.text(min_size=1, max_size=5), max_size=4))
def test_a_snippet_is_a_part_of_the_text_on_one_line(text: str, words: list[str]) -> None:
    part = snippet(text, tuple(words))
    assert part.strip("…").strip() in " ".join(text.split()) or "…" in text
    assert len(part) <= 162
    assert "\n" not in part


def test_a_snippet_has_as_many_of_the_words_as_one_place_has() -> None:
    text = "cache " + "x " * 200 + "the cache and its keys " + "y " * 200
    assert "cache and its keys" in snippet(text, ("cache", "keys"))


def test_words_are_written_so_that_they_are_only_words() -> None:
    assert words_of(" a b  a ") == ("a", "b")
    assert match_of('say "x') == '"say ""x" *'
    assert like_of("100%_\\") == "%100\\%\\_\\\\%"
