"""worker.reasoning and worker.template_thinking: what is thought and what is answer, for every format there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.message import Message
from llmrun.worker.reasoning import CONTROL, Channels, Format, Span, Splitter, Tags, mark_controls
from llmrun.worker.template_thinking import HARMONY, KIMI_K3, MUSE, SOLAR, USUAL
from tests.test_template_golden import load_recorded


class Case(TypedDict):
    """An answer in a model's format, and what llama.cpp makes of it (scripts/record_reasoning)."""

    template: str
    text: str
    thinking: bool
    content: str
    thoughts: str


CASES: list[Case] = json.loads((Path(__file__).parent / "golden" / "reasoning.json").read_text("utf-8"))

# What a model writes there and llama.cpp cuts off is an end of a turn to the engine: it never comes as text.
ENDS = ("<|eot|>", "<|role_end|>", "<turn|>", "<|im_end|>", "<|eom|>")

# (template, text): why it is something else here.
_A_CALL = "a call of a tool that nobody offered is shown as a thought, where llama.cpp drops it"
DIFFERENCES = {
    (
        "CohereForAI-c4ai-command-r-plus-tool_use.jinja",
        "<|CHATBOT_TOKEN|>",
    ): "control tokens without a text of their own",
    ("meetkai-functionary-medium-v3.2.jinja", "all\n"): "a recipient of tools",
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja", "Hello"): "recorded without parting, after an opened thought",
    ("Apriel-1.6-15b-Thinker-fixed.jinja", "I'm"): "how the prompt opens the thought is no part of it here",
    ("openai-gpt-oss-120b.jinja", "<|channel|>analysis<|message|>I will execute"): _A_CALL,
}


def split(splitter: Splitter, *pieces: str) -> tuple[str, str]:
    """Thoughts and answer of a text that comes in pieces."""
    spans = [span for piece in pieces for span in splitter.push(piece)] + splitter.finish()
    return joined(spans, thought=True), joined(spans, thought=False)


def joined(spans: Sequence[Span], *, thought: bool) -> str:
    return "".join(span.text for span in spans if span.thought == thought)


def prompt_of(case: Case) -> tuple[Format, str]:
    template = load_recorded(case["template"])
    variables = template.thinking.choices.get("off", {}) if not case["thinking"] else {}
    return template.format, template.render((Message("user", "Hey there!"),), variables=variables)


@pytest.mark.parametrize("case", CASES, ids=[f"{index}-{case['template'][:20]}" for index, case in enumerate(CASES)])
def test_thoughts_and_answers_are_llama_cpps(case: Case) -> None:
    """All of the answer at once, one character after the other, and with the marks as control tokens."""
    found, prompt = prompt_of(case)
    text = case["text"]
    for end in ENDS:
        text = text.removesuffix(end)
    expected = case["thoughts"].strip(), case["content"]
    if any(case["template"] == name and text.startswith(beginning) for name, beginning in DIFFERENCES):
        assert split(found.splitter(prompt), text) != expected, "they agree now: take it out of DIFFERENCES"
        return
    assert split(found.splitter(prompt), text) == expected
    assert split(found.splitter(prompt), *text) == expected
    controls = sorted({mark for mark in found.marks if mark.startswith("<|") and mark.endswith("|>")})
    assert split(found.splitter(prompt, controls), mark_controls(text, controls)) == expected


# ---- laws

FORMATS: tuple[Format, ...] = (
    USUAL,
    Tags("<think>", "</think>", "<response>", "</response>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<|channel>thought", "<channel|>", stray=("<|channel>", "<channel|>")),
    HARMONY,
    MUSE,
    KIMI_K3,
    SOLAR,
)
WORDS = ("a", "to", " ", "\n", "<", "thi", "final", "analysis", "response", "think", " to=user", "thought", "é")


@st.composite
def written(draw: st.DrawFn) -> tuple[Format, list[str], str, list[str]]:
    """A format, its control tokens, how the prompt ends, and a text out of marks, pieces of marks and words."""
    found = draw(st.sampled_from(FORMATS))
    controls = draw(
        st.just([]) | st.just([mark for mark in found.marks if mark.startswith("<|") and mark.endswith(">")])
    )
    cut = [mark[:at] for mark in found.marks for at in (3, len(mark) - 1)]
    text = draw(st.lists(st.sampled_from([*found.marks, *found.marks, *WORDS, *cut]), max_size=14))
    opened = draw(st.sampled_from(["", f"x{found.marks[0]}", f"x{found.marks[1]}\n"]))
    return found, controls, opened, [mark_controls(piece, controls) for piece in text]


@given(written(), st.integers(1, 7))
def test_how_a_text_is_cut_changes_nothing(made: tuple[Format, list[str], str, list[str]], size: int) -> None:
    """Whole, by pieces of any size: the same thoughts and the same answer."""
    found, controls, opened, text = made
    joined_text = "".join(text)
    whole = split(found.splitter(opened, controls), joined_text)
    pieces = [joined_text[at : at + size] for at in range(0, len(joined_text), size)]
    if not controls:  # the text of a control token comes in one piece
        assert split(found.splitter(opened, controls), *pieces) == whole
    assert split(found.splitter(opened, controls), *text) == whole


@given(written())
def test_nothing_is_lost_but_marks_and_blanks(made: tuple[Format, list[str], str, list[str]]) -> None:
    """Every other character is in a thought or in the answer, in its order."""
    found, controls, opened, pieces = made
    if isinstance(found, Channels):
        return  # whose headers are text too
    plain = [piece for piece in pieces if not any(mark.startswith(piece) or piece in mark for mark in found.marks)]
    plain = [piece for piece in plain if CONTROL not in piece]
    marks = [piece for piece in pieces if piece.replace(CONTROL, "") in found.marks]
    splitter = found.splitter(opened, controls)
    text = [piece for pair in zip(plain, [*marks, *plain], strict=False) for piece in pair]
    spans = [span for piece in text for span in splitter.push(piece)] + splitter.finish()
    given_out = "".join(span.text for span in spans)
    assert without(given_out, found.marks) == without("".join(text), found.marks)
    assert CONTROL not in given_out


def without(text: str, marks: Sequence[str]) -> str:
    """The text without marks, control tokens and blanks."""
    for mark in sorted(marks, key=len, reverse=True):
        text = text.replace(mark, "")
    return "".join(text.replace(CONTROL, "").split())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=CONTROL), max_size=40))
def test_an_answer_without_marks_is_not_touched(text: str) -> None:
    """Blanks at its beginning and end included."""
    if "think>" not in text:
        assert split(USUAL.splitter("<|im_start|>assistant\n"), *text) == ("", text)


# ---- the rules


@pytest.mark.parametrize(
    ("prompt", "text", "thoughts", "answer"),
    [
        ("", "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
        ("<think>\n", "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
        ("<think>\n\n</think>\n\n", "Yes.", "", "Yes."),
        ("", "<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("", "\n <think>Hm.</think>Yes.", "Hm.", "Yes."),
        ("", "Write <think>x</think> so.", "", "Write <think>x</think> so."),
        ("", "<think>Hm.</think>Write <think> so.", "Hm.", "Write <think> so."),
        ("", "<think>One.</think>\n<think>Two.</think>Yes.", "One.\n\nTwo.", "Yes."),
        ("<think>", "It never ends", "It never ends", ""),
        ("<think>", "Hm. </thin", "Hm. </thin", ""),
        ("", "<thin", "", "<thin"),
        ("", "  Yes. ", "", "  Yes. "),
        ("<think>", "Hm.</think>\n", "Hm.", ""),
    ],
)
def test_a_thought_stands_before_the_answer(prompt: str, text: str, thoughts: str, answer: str) -> None:
    """Wherever else its marks stand, they are text; an end that never comes leaves all of it a thought."""
    assert split(USUAL.splitter(prompt), *text) == (thoughts, answer)


def test_thoughts_come_while_they_are_written() -> None:
    """Held back are blanks, and what may become a mark."""
    splitter = USUAL.splitter("<think>\n")
    shown = [splitter.push(piece) for piece in ("Hm", "m. ", "So", "\n</", "thi", "s", "</think>", "\n\n", "Yes")]
    assert [[span.text for span in spans] for spans in shown] == [
        ["Hm"],
        ["m."],
        [" So"],
        [],
        [],
        ["\n</this"],
        [],
        [],
        ["Yes"],
    ]


def test_a_model_that_writes_about_its_marks_is_not_taken_at_its_word() -> None:
    """Where marks are control tokens, their text is text."""
    controls = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>"]
    token = {text: CONTROL + text for text in controls}
    about = "Write <|channel|>final<|message|> and <|end|>."
    text = [token["<|channel|>"], "final", token["<|message|>"], about]
    assert split(HARMONY.splitter("<|start|>assistant", controls), *text) == ("", about)


def test_a_model_that_does_not_keep_to_its_format_is_still_heard() -> None:
    """A text without any header is the answer, at once where it is long and at its end where it is not."""
    assert split(HARMONY.splitter("<|start|>assistant"), "Hello!") == ("", "Hello!")
    splitter = HARMONY.splitter("<|start|>assistant")
    assert joined(splitter.push("word " * 50), thought=False) == "word " * 50


def test_parts_of_an_answer_are_paragraphs() -> None:
    """A preamble and the answer proper, and two thoughts."""
    text = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    )
    assert split(HARMONY.splitter("<|start|>assistant"), text) == ("One.\n\nTwo.", "I look.\n\nYes.")
