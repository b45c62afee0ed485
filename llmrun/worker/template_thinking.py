"""What a chat template says of reasoning: the marks its model puts around thoughts, and what can be set about them.

Found by trying, as llama.cpp does (common/chat-diff-analyzer.cpp, analyze_reasoning; common/jinja/caps.cpp), and by the
marks that are known by name, of models that llama.cpp has a parser for (common/parsers/). Pure: the renderer is handed
in. What a template only tells its model in words is believed where the words differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from llmrun.thinking import Thinking, Variable, Variables
from llmrun.worker.reasoning import Channels, Format, Tags

_USER, _ANSWER, _THOUGHT = "llmrun-user", "llmrun-answer", "llmrun-thought"
_NONSENSE = "llmrun-effort"

# Where nothing else is known: what most models write. A model that does not think never begins an answer so.
USUAL = Tags("<think>", "</think>")

_APRIEL_END = "[END FINAL RESPONSE]"

HARMONY = Channels(  # gpt-oss (common/parsers/gpt-oss.cpp)
    begins=("<|end|>", "<|start|>"),
    decides=("<|message|>",),
    # a commentary without a recipient is a preamble for the user; with one it is a call that nobody asked for
    answer=r".*<\|channel\|>final(?:(?!<\|channel\|>).)*|(?:(?! to=).)*<\|channel\|>commentary(?:(?! to=).)*",
    thought=".*",
    closing="<|end|><|start|>assistant<|channel|>final<|message|>",
)
MUSE = Channels(  # common/parsers/muse-glimmer.cpp
    begins=("<|eom|>", "<|start|>"),
    decides=("<|message|>",),
    answer=r"(?:(?! to=).)*(?: to=user)?<\|message\|>",
    thought=".*",
    closing="<|eom|><|start|>assistant to=user<|message|>",
)
KIMI_K3 = Channels(  # common/parsers/kimi-k3.cpp
    begins=("<|open|>", "<|close|>"),
    decides=("<|sep|>",),
    answer=r"<\|open\|>response<\|sep\|>",
    thought=r"<\|open\|>think<\|sep\|>",
    closing="<|close|>think<|sep|><|open|>response<|sep|>",
)
SOLAR = Channels(  # models/templates/upstage-Solar-Open-100B.jinja
    begins=("<|end|>", "<|begin|>"),
    decides=("<|think|>", "<|content|>"),
    answer=r".*<\|content\|>",
    thought=r".*<\|think\|>",
    closing="<|end|><|begin|>assistant<|content|>",
)
# By texts that are all in a template's source, as llama.cpp tells them apart (common/chat.cpp)
_CHANNELS: tuple[tuple[tuple[str, ...], Channels], ...] = (
    (("<|channel|>", "<|message|>"), HARMONY),
    (("<|eom|>", "<|message|>", " to="), MUSE),
    (("<|open|>", "<|close|>", "<|end_of_msg|>"), KIMI_K3),
    (("<|begin|>", "<|think|>", "<|content|>"), SOLAR),
)
# By a text that a template writes or looks for, mostly the end mark: the first that is there
_TAGS = (
    ("<channel|>", Tags("<|channel>thought", "<channel|>", stray=("<|channel>", "<channel|>"))),  # Gemma 4
    ("<|START_TEXT|>", Tags("<|START_THINKING|>", "<|END_THINKING|>", "<|START_TEXT|>", "<|END_TEXT|>")),  # Cohere
    ("<|END_THINKING|>", Tags("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>")),
    ("<|inner_suffix|>", Tags("<|inner_prefix|>", "<|inner_suffix|>")),  # Apertus
    ("[BEGIN FINAL RESPONSE]", Tags("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", "", _APRIEL_END)),
    ("[/THINK]", Tags("[THINK]", "[/THINK]")),  # Magistral, Ministral
    ("</seed:think>", Tags("<seed:think>", "</seed:think>")),
    ("</mm:think>", Tags("<mm:think>", "</mm:think>")),  # MiniMax M3
    ("</think:opensource>", Tags("<think:opensource>", "</think:opensource>")),  # Hunyuan 3
    ("<response></response>", Tags("<think>", "</think>", "<response>", "</response>")),  # Granite 3.3
    ("</think>", USUAL),
    ("</thinking>", Tags("<thinking>", "</thinking>")),
)

# Variables that switch thinking, what they are for on and off; the first that a template knows
_SWITCHES: tuple[tuple[str, Variable, Variable], ...] = (
    ("enable_thinking", True, False),
    ("thinking", True, False),  # DeepSeek V3.1, Granite 3.3, Kimi K3
    ("thinking_mode", "enabled", "disabled"),  # MiniMax M3
    ("thinking_budget", -1, 0),  # Seed OSS: tokens, -1 without limit
)
# Variables that set how much, and the names by which templates know them (template_quirks.expand_variables)
_EFFORTS = (
    ("reasoning_effort", "reasoning_effort"),
    ("reasoning_effort", "reasoning_strength"),  # Muse
    ("thinking_effort", "thinking_effort"),  # Kimi K3
)
_LEVELS = ("low", "medium", "high")
_NO_EFFORT = ("none", "no_think", "minimal")  # words by which efforts are none at all


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of the model in a conversation that is tried."""

    answer: str = _ANSWER
    thought: str | None = None


# A question, what was said to it (None is nothing yet), variables: the text, None where the template refuses
Render = Callable[[str, Said | None, Variables], str | None]


def find_format(source: str, render: Render) -> Format | None:
    """Find the marks that the model puts around thoughts; None where its template knows nothing of thoughts."""
    for texts, channels in _CHANNELS:
        if all(text in source for text in texts):
            return channels
    shown = [render(_USER, None, {}), render(_USER, Said(thought=_THOUGHT), {})]
    everything = "\n".join([source, *filter(None, shown)])
    for text, tags in _TAGS:
        if text in everything:
            return tags
    return _found_around(shown[1] or "")


def _found_around(text: str) -> Tags | None:
    """The marks around the thought that was tried, whatever they are."""
    before, found, after = text.partition(_THOUGHT)
    mark = r"(<[^<>\s]+>|\[[^\[\]\s]+\])"
    start, end = re.search(rf"{mark}\s*$", before), re.match(rf"\s*{mark}", after)
    if not found or start is None or end is None or _ANSWER not in after or start[1] == end[1]:
        return None
    return Tags(start[1], end[1])


def find_thinking(source: str, found: Format | None, render: Render) -> Thinking:
    """Find what can be set about thoughts, and what the model does unasked."""
    if found is None:
        return Thinking()
    trial = _Trial(source, found, render)
    choices = trial.switch() or {}
    choices |= trial.efforts(choices.get("on", {}))
    if not choices:
        return Thinking(can_think=True, default="on")
    default = next((word for word in ("off", *_LEVELS, "on") if _is_unasked(trial, choices.get(word))), "on")
    if "on" not in choices:
        strongest = next((choices[level] for level in reversed(_LEVELS) if level in choices), {})
        choices["on"] = strongest if default == "off" else choices.get(default, {})
    return Thinking(can_think=True, choices=choices, default=default)


def _is_unasked(trial: _Trial, settings: dict[str, Variable] | None) -> bool:
    return settings is not None and trial.text(settings) == trial.text({})


class _Trial:
    """A template asked what a variable changes."""

    def __init__(self, source: str, found: Format, render: Render) -> None:
        self._source = source
        self._format = found
        self._render = render

    def text(self, settings: Variables) -> str | None:
        """The prompt for a question, None where the template refuses the settings."""
        return self._render(_USER, None, settings)

    def switch(self) -> dict[str, dict[str, Variable]]:
        """What sets thinking on and off, empty where nothing does."""
        for name, on, off in _SWITCHES:
            if not self._names(name):
                continue
            texts = self.text({name: on}), self.text({name: off})
            if None not in texts and texts[0] != texts[1]:
                return {"on": {name: on}, "off": {name: off}}
        return {}

    def efforts(self, on: dict[str, Variable]) -> dict[str, dict[str, Variable]]:
        """What sets how much the model thinks; `on` is what must be set for it to think at all."""
        for name, known_as in _EFFORTS:
            if not self._names(known_as):
                continue
            levels = {level: on | {name: level} for level in _LEVELS if self._knows(on, name, level)}
            if len({self.text(settings) for settings in ({}, *levels.values())}) < 2:
                levels = {}
            for word in () if on else _NO_EFFORT:
                off: dict[str, Variable] = {name: word}
                if self._begins_otherwise(off):
                    return {"off": off} | levels
            return levels
        return {}

    def _names(self, variable: str) -> bool:
        return re.search(rf"\b{variable}\b", self._source) is not None

    def _knows(self, on: dict[str, Variable], name: str, level: str) -> bool:
        """Whether a level is more to the template than any other text: it does something, or is named there."""
        text = self.text(on | {name: level})
        if text is None:
            return False
        named = re.search(rf"""(['"]){level}\1""", self._source) is not None
        return named or text != self.text(on | {name: _NONSENSE})

    def _begins_otherwise(self, settings: dict[str, Variable]) -> bool:
        """Whether the model's turn begins with its thought over, so that it is not only told something."""
        turn = self._turn(settings)
        if isinstance(self._format, Tags):
            return turn is not None and self._format.end in turn
        return turn not in (None, self._turn({}))

    def _turn(self, settings: Variables) -> str | None:
        text = self.text(settings)
        return None if text is None else text.rpartition(_USER)[2]
