"""A conversation to the tokens of its prompt, such that what people wrote can never act as a control token.

The template's own control tokens are meant; the same text inside a message is only text. So where a message holds
such text, a mark is put into it before rendering, and afterwards the marked stretches are tokenized as plain text.
Everything else is tokenized in one piece, exactly as llama.cpp does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmrun.engine.protocol import Message
from llmrun.worker.template import ChatTemplate
from llmrun.worker.vocabulary import Vocabulary

# Unicode noncharacters: never assigned, so no honest text has them
_MARKS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation: `text` as rendered, marks included, and the tokens it became."""

    text: str
    tokens: tuple[int, ...]


class PromptEncoder:
    """Makes prompts, and remembers the last conversation so that its tokens are taken over as they were."""

    def __init__(self, vocabulary: Vocabulary, template: ChatTemplate) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._remembered = Prompt("", ())

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Render and tokenize a conversation, up to where the model's answer begins."""
        mark = _unused_mark(messages)
        text = self._template.render([self._neutralize(message, mark) for message in messages])
        known = self._remembered
        if known.text and text.startswith(known.text):
            rest = self._tokenize(text[len(known.text) :], mark)
            return Prompt(text, known.tokens + tuple(rest))
        return Prompt(text, tuple(self._with_bos(self._tokenize(text, mark))))

    def remember(self, prompt: Prompt, answer: str, answer_tokens: Sequence[int]) -> None:
        """Keep the tokens of a conversation with its answer: the same text need not become the same tokens again."""
        self._remembered = Prompt(prompt.text + answer, prompt.tokens + tuple(answer_tokens))

    def _neutralize(self, message: Message, mark: str) -> Message:
        content, vocabulary = message.content, self._vocabulary
        plain = vocabulary.tokenize(content, parse_special=False)
        if plain == vocabulary.tokenize(content, parse_special=True):
            return message
        pattern = _any_of(vocabulary.control_texts)
        return replace(message, content=pattern.sub(lambda m: m[0][:1] + mark + m[0][1:], content))

    def _tokenize(self, text: str, mark: str) -> list[int]:
        vocabulary = self._vocabulary
        if mark not in text:
            return vocabulary.tokenize(text, parse_special=True)
        tokens: list[int] = []
        for part in re.split(f"({_any_of(vocabulary.control_texts).pattern})", text):
            if mark in part:
                tokens += vocabulary.tokenize(part.replace(mark, ""), parse_special=False)
            elif part:
                tokens += vocabulary.tokenize(part, parse_special=True)
        return tokens

    def _with_bos(self, tokens: list[int]) -> list[int]:
        """Put the beginning-of-sequence token first where the model wants one and the template wrote none."""
        vocabulary = self._vocabulary
        if vocabulary.adds_bos and vocabulary.bos >= 0 and tokens[:1] != [vocabulary.bos]:
            return [vocabulary.bos, *tokens]
        return tokens


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in texts) or "(?!)")


def _unused_mark(messages: Sequence[Message]) -> str:
    """Return a mark that no message contains; the choice is the same for every turn of an honest conversation."""
    everything = "".join(message.content for message in messages)
    return next((mark for mark in _MARKS if mark not in everything), _MARKS[0])
