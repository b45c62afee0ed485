"""worker.streaming: what may be shown, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmrun.worker.reasoning import Span, Tags
from llmrun.worker.streaming import StreamingText


def stream(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    text = StreamingText(stop)
    shown = [joined(text.push(piece)) for piece in pieces]
    return [*shown, joined(text.finish())], text.stopped


def joined(spans: list[Span]) -> str:
    assert not any(span.thought for span in spans)
    return "".join(span.text for span in spans)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(TEXT, st.integers(1, 5))
def test_the_streamed_text_is_the_whole_text(text: str, size: int) -> None:
    data = text.encode()
    shown, _ = stream([data[i : i + size] for i in range(0, len(data), size)])
    assert "".join(shown) == text


@given(TEXT, st.lists(st.text("ab\n", min_size=1, max_size=3), min_size=1, max_size=3), st.integers(1, 4))
def test_a_stop_string_ends_the_text_before_itself(text: str, stop: list[str], size: int) -> None:
    data = text.encode()
    shown, stopped = stream([data[i : i + size] for i in range(0, len(data), size)], tuple(stop))
    ends = [at for s in stop if (at := text.find(s)) >= 0]
    whole = "".join(shown)
    assert stopped == bool(ends)
    assert text.startswith(whole)
    assert not any(s in whole for s in stop)
    if not ends:
        assert whole == text


@given(st.text("abc", max_size=30), st.sampled_from(["ab", "abc", "cc", "bab"]))
def test_character_by_character_it_stops_exactly_at_the_first_stop_string(text: str, stop: str) -> None:
    shown, _ = stream([c.encode() for c in text], (stop,))
    assert "".join(shown) == text.split(stop)[0]


def test_no_chunk_holds_half_a_character() -> None:
    shown, _ = stream([b"\xf0\x9f", b"\x98", b"\x80!", b"\xc3"])
    assert shown == ["", "", "😀!", "", "\ufffd"]


def test_what_may_become_a_stop_string_is_held_back_and_released() -> None:
    shown, stopped = stream([b"one EN", b"D", b"ING", b" END two"], ("END two",))
    assert (shown, stopped) == (["one ", "", "ENDING", " ", ""], True)


def test_after_a_stop_string_nothing_follows() -> None:
    text = StreamingText(("X",))
    assert [text.push(b"aXb"), text.push(b"c"), text.finish()] == [[Span("a", thought=False)], [], []]


def test_what_is_kept_back_does_not_grow_with_the_answer() -> None:
    """So the work for a token does not either: only what is kept back is looked at again."""
    text = StreamingText(("stop here", "zzz"))
    released = [joined(text.push(b"stop ")) for _ in range(1000)]
    assert max(map(len, released)) <= len("stop ") + len("stop here")
    assert len(joined(text.finish())) < len("stop here")


def test_stop_strings_are_looked_for_in_the_answer_alone() -> None:
    """And none goes from one side of a thought to the other."""
    text = StreamingText(("END",), Tags("<think>", "</think>").splitter(""))
    spans = text.push(b"<think>the END of it</think>an END")
    assert (spans, text.stopped) == ([Span("the END of it", thought=True), Span("an ", thought=False)], True)
