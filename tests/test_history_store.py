"""history.store: what is kept, when, and what one gets back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.errors import NotFoundError, UsageError
from llmrun.history.record import MAX_NAME, Turn, check_name, is_id, new_id
from llmrun.history.store import Store, no_history, open_store, read_store

AT = datetime(2026, 5, 1, 12, 30, 0, 123456, UTC)
Q = Turn("user", "what is a KV cache?", at=AT)
A = Turn("assistant", "It keeps keys and values.", "hm", (), "guide", "stop", {"prompt_tokens": 9}, AT)
Q2, A2 = Turn("user", "why?", images=("a.png",), at=AT), Turn("assistant", "To read no token twice.", at=AT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history" / "conversations.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


def seen_by_another(path: Path) -> list[tuple[str, int]]:
    """What a process that comes now finds: first words and turns of each conversation."""
    with open_store(path) as other:
        return [(summary.first, summary.n_turns) for summary in other.list()]


def kept(store: Store, *turns: Turn, model: str = "guide", name: str | None = None) -> str:
    key = store.begin(model)
    store.add(key, *turns)
    if name:
        store.rename(key, name)
    return key


def test_nothing_is_kept_before_the_first_answer(store: Store, path: Path) -> None:
    key = store.begin("guide", "Be brief.")
    store.add(key, Q)
    store.set_system(key, "Be kind.")
    assert (store.list(), store.latest(), seen_by_another(path)) == ((), None, [])
    store.add(key, A)
    assert seen_by_another(path) == [(Q.content, 2)]
    assert store.find(key).system == "Be kind."


def test_all_that_was_said_comes_back_as_it_was(store: Store) -> None:
    key = store.begin("qwen3:8b", "Be brief.", "Qwen/Qwen3-8B-GGUF:Q4_K_M", {"temperature": 0.2, "think": True})
    store.add(key, Q, A)
    store.add(key, Q2, A2)
    saved = store.find(key)
    assert (saved.turns, saved.system, saved.resolved) == ((Q, A, Q2, A2), "Be brief.", "Qwen/Qwen3-8B-GGUF:Q4_K_M")
    assert (saved.model, saved.name, saved.settings) == ("qwen3:8b", None, {"temperature": 0.2, "think": True})
    assert saved.created <= saved.updated <= datetime.now(UTC)
    assert store.latest() == saved


def test_a_question_without_an_answer_is_not_kept(store: Store) -> None:
    key = kept(store, Q, A)
    store.add(key, Q2)
    assert store.find(key).turns == (Q, A)
    store.add(key, A2)
    assert store.find(key).turns == (Q, A, Q2, A2)


def test_turns_that_are_replaced_leave_those_before_them(store: Store, path: Path) -> None:
    key = kept(store, Q, A, Q2, A2)
    other = Turn("assistant", "Another.", at=AT)
    store.replace_turns(key, (Q, A, Q2, other))
    assert store.find(key).turns == (Q, A, Q2, other)
    store.replace_turns(key, (Q, A))
    assert seen_by_another(path) == [(Q.content, 2)]


def test_a_question_left_by_a_replacement_waits_for_its_new_answer(store: Store) -> None:
    key = kept(store, Q, A, Q2, A2)
    store.replace_turns(key, (Q, A, Q2))
    assert store.find(key).turns == (Q, A)
    store.add(key, Turn("assistant", "Anew.", at=AT))
    assert [turn.content for turn in store.find(key).turns[2:]] == [Q2.content, "Anew."]


def test_a_conversation_that_is_all_taken_back_is_kept_again_with_its_next_answer(store: Store, path: Path) -> None:
    key = kept(store, Q, A, name="cache")
    store.replace_turns(key, ())
    assert (store.list(), seen_by_another(path)) == ((), [])
    store.add(key, Q2, A2)
    assert (store.find("cache").id, store.find(key).turns) == (key, (Q2, A2))


def test_a_draft_can_be_replaced_too(store: Store) -> None:
    key = store.begin("guide")
    store.add(key, Q)
    store.replace_turns(key, (Q2,))
    store.add(key, A2)
    assert store.find(key).turns == (Q2, A2)


@settings(max_examples=60)
@given(st.lists(st.sampled_from([Q, A, Q2, A2]), max_size=8), st.lists(st.sampled_from([Q, A, Q2, A2]), max_size=8))
def test_what_is_kept_is_all_up_to_the_last_answer(first: list[Turn], then: list[Turn]) -> None:
    with no_history() as store:
        key = store.begin("guide")
        for turn in first:
            store.add(key, turn)
        assert turns_of(store, key) == up_to_answer(first)
        store.replace_turns(key, tuple(then))
        assert turns_of(store, key) == up_to_answer(then)
        store.add(key, A)
        assert turns_of(store, key) == [*then, A]


def turns_of(store: Store, key: str) -> list[Turn]:
    return list(store.find(key).turns) if store.list() else []


def up_to_answer(turns: list[Turn]) -> list[Turn]:
    while turns and turns[-1].role == "user":
        turns = turns[:-1]
    return turns


@given(st.text(st.characters(), max_size=40), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_can_be_kept(broken: str, text: str) -> None:
    """Lone surrogates stand for bytes that were no text, and become "?"."""
    with no_history() as store:
        key = store.begin(text, text)
        store.add(key, Turn("assistant", text, text, (text,), text, text), Turn("assistant", broken))
        saved = store.find(key)
        assert (saved.turns[0].content, saved.turns[0].images, saved.system) == (text, (text,), text)
        assert saved.turns[1].content == broken.encode("utf-8", "replace").decode()


def test_the_last_one_added_to_comes_first(store: Store) -> None:
    first, second = kept(store, Q, A), kept(store, Q2, A2)
    assert [summary.id for summary in store.list()] == [second, first]
    store.add(first, Q2, A2)
    assert [summary.id for summary in store.list()] == [first, second]
    assert [summary.id for summary in store.list(limit=1)] == [first]
    latest = store.latest()
    assert latest is not None
    assert latest.id == first


def test_a_list_can_be_narrowed(store: Store) -> None:
    cache, trip = kept(store, Q, A), kept(store, Q2, A2, model="qwen3:8b", name="100%_trip")
    assert [summary.id for summary in store.list(query="KV")] == [cache]
    assert [summary.id for summary in store.list(query="%_T")] == [trip]
    assert [summary.id for summary in store.list(query="qwen3")] == [trip]
    assert store.list(query="_") == tuple(summary for summary in store.list() if summary.id == trip)


def test_one_is_found_by_its_id_its_beginning_and_its_name(store: Store) -> None:
    key = kept(store, Q, A, name="Trip to Rome")
    assert {store.find(text).id for text in (key, key[:3], f" {key[:7].upper()} ", "trip to rome")} == {key}


def test_what_is_not_there_is_not_found_and_what_is_close_is_told(store: Store) -> None:
    key = kept(store, Q, A, name="rome")
    with pytest.raises(NotFoundError, match="'rom'") as caught:
        store.find("rom")
    assert caught.value.hint == "did you mean rome?"
    with pytest.raises(NotFoundError) as caught:
        store.find(key[:10] + "y")
    assert caught.value.hint is not None
    assert key in caught.value.hint
    with pytest.raises(NotFoundError) as caught:
        store.find("")
    assert caught.value.hint == "`llmrun history` lists them"


def test_an_ambiguous_beginning_names_those_it_could_be(store: Store) -> None:
    saved = store.find(kept(store, Q, A))
    for key in ("lusab-babad", "lusab-gutuk"):
        store.insert(type(saved)(key, None, "guide", None, None, {}, AT, AT, (Q, A)))
    with pytest.raises(NotFoundError, match="2 conversations begin with lusab") as caught:
        store.find("lusab")
    assert caught.value.hint == "lusab-babad or lusab-gutuk"


def test_a_name_belongs_to_one_conversation(store: Store) -> None:
    first, second = kept(store, Q, A, name="Rome"), kept(store, Q2, A2)
    with pytest.raises(UsageError, match=f"the name of {first}"):
        store.rename(second, "ROME")
    store.rename(first, "rome")
    store.rename(first, None)
    store.rename(second, "Rome")
    assert store.find("rome").id == second


def test_a_draft_may_have_a_name_before_it_is_kept(store: Store) -> None:
    key = store.begin("guide")
    store.rename(key, "early")
    other = kept(store, Q, A, name="early")
    store.add(key, Q, A)
    assert (store.find("early").id, store.find(key).name) == (other, None)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[31m", "x" * (MAX_NAME + 1), "lusab-babad"])
def test_what_can_be_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


def test_model_and_settings_may_change_on_the_way(store: Store) -> None:
    key = kept(store, Q, A)
    store.set_model(key, "qwen3:8b", "Qwen/Qwen3-8B-GGUF:Q8_0")
    store.set_settings(key, {"temperature": 0})
    store.set_system(key, None)
    saved = store.find(key)
    assert (saved.model, saved.resolved, saved.settings, saved.turns) == (
        "qwen3:8b",
        "Qwen/Qwen3-8B-GGUF:Q8_0",
        {"temperature": 0},
        (Q, A),
    )


def test_what_is_removed_is_gone_from_the_files_too(store: Store, path: Path) -> None:
    secret = "xylophonic-zebra-quagmire"
    key = kept(store, Turn("user", f"my word is {secret}"), A)
    for _ in range(20):
        kept(store, Q, A)
    assert any(secret.encode() in file.read_bytes() for file in path.parent.iterdir())
    store.delete(key)
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert [word for word in (b"xylophonic", b"quagmire") if word in left] == []


def test_of_several_all_are_removed_or_none(store: Store) -> None:
    first, second = kept(store, Q, A), kept(store, Q2, A2)
    with pytest.raises(NotFoundError):
        store.delete(first, new_id())
    assert len(store.list()) == 2
    store.delete(first, second)
    assert store.list() == ()


def test_one_that_another_process_removed_is_told_once_and_the_chat_goes_on(path: Path) -> None:
    told: list[str] = []
    with open_store(path, told.append) as chat, open_store(path) as other:
        key = kept(chat, Q, A)
        other.delete(key)
        chat.add(key, Q2, A2)
        chat.add(key, Q2, A2)
        chat.set_system(key, "x")
        assert (chat.list(), told) == (
            (),
            [f"this conversation is not kept: conversation {key} is not there any more"],
        )


def test_without_history_everything_works_and_nothing_is_written(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom llmrun.history.store import no_history\nfrom llmrun.history.record import Turn\n"
        "def hook(event, args):\n    if event == 'open' and 'w' in str(args[1]): print(args)\n"
        "sys.addaudithook(hook)\n"
        "store = no_history()\nkey = store.begin('guide')\n"
        "store.add(key, Turn('user', 'hi'), Turn('assistant', 'x'*9999))\n"
        "store.rename(key, 'me')\nassert store.find('me').id == key and store.search('hi')\nstore.close()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, list(tmp_path.iterdir())) == ("", [])


def test_who_only_looks_makes_no_file(path: Path) -> None:
    with read_store(path) as store:
        assert (store.list(), store.search("x")) == ((), ())
    assert not path.parent.exists()


def test_an_import_takes_no_id_or_name_from_another(store: Store) -> None:
    saved = store.find(kept(store, Q, A, name="rome"))
    assert store.insert(saved) == saved.id
    changed = type(saved)(saved.id, "rome", "guide", None, None, {}, AT, AT, (Q2, A2))
    other = store.insert(changed)
    assert (other != saved.id, store.find(other).name, store.find(other).turns) == (True, None, (Q2, A2))
    assert len(store.list()) == 2
    with pytest.raises(UsageError, match="no answer"):
        store.insert(type(saved)(new_id(), None, "guide", None, None, {}, AT, AT, (Q,)))


def test_ids_are_two_words_that_can_be_said() -> None:
    ids = {new_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(is_id(key) and len(key) == 11 for key in ids)


@pytest.mark.parametrize("opener", [lambda path: open_store(path), lambda path: no_history()])
def test_a_store_is_closed_by_with(opener: Callable[[Path], Store], path: Path) -> None:
    with closing(opener(path)) as store:
        kept(store, Q, A)
    if path.exists():
        assert [file.name for file in path.parent.iterdir()] == [path.name]  # the log is folded into it
