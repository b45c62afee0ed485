"""A conversation to the tokens of its prompt, such that what people wrote can never act as a control token.

The template's own control tokens are meant; the same text inside a message is only text. So where a message holds
such text, a mark is put into it before rendering, and afterwards the marked stretches are tokenized as plain text.
Everything else is tokenized in one piece, exactly as llama.cpp does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmrun.engine.protocol import Generate, Grammar
from llmrun.errors import UsageError
from llmrun.message import Message, Tool, ToolCall, ToolChoice
from llmrun.structured.characters import literal
from llmrun.structured.convert import parse_schema
from llmrun.thinking import Variables
from llmrun.worker.reasoning import CONTROL, Splitter
from llmrun.worker.spans import Pieces, Span
from llmrun.worker.template import ChatTemplate
from llmrun.worker.tools.fields import arguments_of, map_texts, schemas_of, tool_fields
from llmrun.worker.tools.finder import CallFinder
from llmrun.worker.tools.grammar import calls_grammar
from llmrun.worker.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llmrun.worker.vision import Vision

_HARMLESS_KEPT = 1000  # messages
# Unicode noncharacters: never assigned, so no honest text has them; the last of the block is reasoning.CONTROL
_MARKS = tuple(chr(code) for code in range(0xFDD0, 0xFDEF))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation: `text` as rendered, marks included, and the tokens it became.

    A negative token stands for a position of an image. extra_cells: how many entries of the KV cache images take beyond
    their positions. written: how many characters and how many tokens at the end were written by the model.
    """

    text: str
    tokens: tuple[int, ...]
    extra_cells: int = 0
    written: tuple[int, int] = (0, 0)

    def with_answer(self, answer: str, tokens: Sequence[int]) -> Prompt:
        """Return the conversation with its answer: thoughts and the texts of control tokens included."""
        all_tokens = self.tokens + tuple(tokens)
        return Prompt(self.text + answer, all_tokens, self.extra_cells, (len(answer), len(tokens)))


class PromptEncoder:
    """Makes prompts, and remembers the last conversation so that its tokens are taken over as they were."""

    def __init__(self, vocabulary: Vocabulary, template: ChatTemplate, vision: Vision | None = None) -> None:
        self._vocabulary = self.vocabulary = vocabulary
        self._vision = vision
        self._template = template
        self._remembered = Prompt("", ())
        self._mark, self._image_mark = _MARKS[:2]
        self._shown: dict[str, Pieces] = {}  # the images of the conversation at hand, by what is between their marks
        self._harmless: set[str] = set()  # messages known to hold no control text, so that a turn looks only at its own

    def render(
        self,
        messages: Sequence[Message],
        variables: Variables | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Return a conversation as text up to where the answer begins, with marks where messages hold control texts.

        Runs the model's template, which may take time or end the process.
        """
        return self._template.render(messages, variables=variables, tools=tools)

    def neutralize_all(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), shown: Sequence[str] = ()
    ) -> tuple[list[Message], list[dict[str, Any]]]:
        """Put marks into messages as `neutralize` does, and into tools, which come as templates want them.

        Raises UsageError for tools where no format is known in which the model asks for them, and for what is none.
        """
        if not tools:
            return self.neutralize(messages, shown), []
        if self._template.tools is None:
            raise UsageError(
                "this model's chat template shows no way to call tools that llmrun knows",
                "the formats are Hermes (Qwen, Granite), Llama 3, Mistral and Qwen3-Coder; leave out tools for others",
            )
        fields = tool_fields(tools, schemas_of(tools))
        neutral = self.neutralize(messages, shown, tuple(_texts_of(fields)))
        return neutral, map_texts(fields, self._harmless_text)

    def neutralize(
        self, messages: Sequence[Message], shown: Sequence[str] = (), others: Sequence[str] = ()
    ) -> list[Message]:
        """Put marks into what people wrote, wherever it would become a control token, and where its images are.

        shown: images of other conversations, which are not to be forgotten for these. others: texts that will stand
        beside the messages.

        Raises UsageError for images where nothing sees, for what is none, and for arguments of a call that are no JSON;
        NotFoundError for an image there is not.
        """
        self._mark, self._image_mark = _unused_marks(messages, others)
        self._shown.clear()
        if self._vision is not None:
            self._vision.keep([*shown, *(path for message in messages for path in message.images)])
        return [self._with_images(self._neutralized(message), message.images) for message in messages]

    def _with_images(self, message: Message, paths: Sequence[str]) -> Message:
        """Put a mark for each image before a message's text, as llama.cpp's server does with its own."""
        if not paths:
            return message
        if self._vision is None:
            raise UsageError("the model was loaded without its projector for images", "load it with --image")
        marks = []
        for path in paths:
            pieces = self._vision.pieces(path)
            name = ".".join(f"{piece.id:x}" for piece in pieces if isinstance(piece, Span))
            self._shown[name] = pieces
            marks.append(f"{self._image_mark}{name}{self._image_mark}")
        content = message.content.replace(self._image_mark, "")  # only one that has every mark has this one
        return replace(message, content="\n".join(filter(None, (*marks, content))))

    def tokenize(self, text: str, known: Prompt | None = None) -> Prompt:
        """Return the tokens of a rendered conversation; those of the last one are taken over as far as it is the same.

        That may be up to its last answer only, where the template leaves out the thoughts before it. known: what is
        taken in the place of the last one.
        """
        known = self._remembered if known is None else known
        taken = self._gone_on_with(known, text) or self._gone_on_with(self._shared(known, text), text)
        if taken is not None:
            return taken
        tokens, extra = self._encoded(text)
        return Prompt(text, tuple(self._with_bos(tokens)), extra)

    def _gone_on_with(self, known: Prompt, text: str) -> Prompt | None:
        """The tokens of a text that begins as a known one does, None where it does not or must not be parted there."""
        if not known.text or not text.startswith(known.text):
            return None
        rest, extra = self._encoded(text[len(known.text) :])
        # SentencePiece puts a space before text that begins a piece: only a control token can follow
        if rest and rest[0] >= 0 and self._vocabulary.piece(rest[0]) == b"":
            return Prompt(text, known.tokens + tuple(rest), known.extra_cells + extra)
        return None

    def _shared(self, known: Prompt, text: str) -> Prompt:
        """What is known, up to the last control token before the answer that both texts have in the same place.

        Not within the answer: there the text of a control token may be only text, which it never is in what was
        rendered.
        """
        vocabulary = self._vocabulary
        if self._shown or any(token < 0 for token in known.tokens):  # images have no text
            return Prompt("", ())
        n_characters, n_tokens = known.written
        common, at = common_length(known.text, text), len(known.text) - n_characters
        for index in reversed(range(len(known.tokens) - n_tokens)):
            if vocabulary.piece(known.tokens[index]) != b"":
                continue
            control = vocabulary.text(known.tokens[index])
            at = known.text.rfind(control, 0, at)
            if at <= 0:  # none but the one that _with_bos put there
                break
            if at + len(control) <= common:
                return Prompt(text[:at], known.tokens[:index])
        return Prompt("", ())

    @property
    def remembered(self) -> Prompt:
        """The conversation whose tokens will be taken over; empty at first."""
        return self._remembered

    def recall(self, prompt: Prompt) -> None:
        """Remember a conversation: the same text need not become the same tokens again."""
        self._remembered = prompt

    def splitter(self, prompt: Prompt) -> Splitter:
        """Return what parts thoughts from the answer that follows a prompt; the marks of calls are left in it."""
        controls = [self._vocabulary.text(token) for token in self._mark_tokens]
        return self._template.format.splitter(prompt.text, controls)

    def finder(self, tools: Sequence[Tool], choice: ToolChoice) -> CallFinder | None:
        """Return what finds calls of tools in an answer; None without tools."""
        if not tools or self._template.tools is None:
            return None
        controls = [self._vocabulary.text(token) for token in self._tool_tokens]
        return CallFinder(self._template.tools, schemas_of(tools), controls, parallel=choice.parallel)

    def grammar(self, request: Generate) -> Grammar | None:
        """Return what the answer must look like: the request's own grammar, calls where they are required, or either.

        Raises UsageError for a choice that is no tool, and for a schema that cannot be kept to.
        """
        wanted, choice, own = self._template.tools, request.tool_choice, request.grammar
        is_required = choice.required or choice.name is not None
        if not request.tools or wanted is None or (not is_required and (own is None or own.kind == "gbnf")):
            return own
        answer = None if is_required or own is None else parse_schema(own.text)
        return Grammar("gbnf", calls_grammar(wanted, schemas_of(request.tools), choice, self._part_of_grammar, answer))

    def _part_of_grammar(self, mark: str) -> str:
        tokens = self._vocabulary.tokenize(mark, parse_special=True)
        return f"<[{tokens[0]}]>" if self._tool_tokens.issuperset(tokens) and len(tokens) == 1 else literal(mark)

    def closing(self) -> list[int]:
        """Return the tokens that end a thought and begin the answer, for a model that writes none."""
        return self._vocabulary.tokenize(self._template.format.closing, parse_special=True)

    @cached_property
    def opening(self) -> frozenset[int]:
        """The token that begins a thought, where it is one alone."""
        tokens = self._vocabulary.tokenize(self._template.format.opening, parse_special=True)
        return frozenset(tokens if len(tokens) == 1 and self._template.thinking.can_think else ())

    def is_mark(self, token: int) -> bool:
        """Tell whether marks around thoughts have this control token in them."""
        return token in self._mark_tokens

    def written(self, token: int, *, with_tools: bool = False) -> bytes:
        """Return what a token stands for to the splitter: its bytes, or for a control token of the marks its text.

        with_tools: the marks of calls are among them.
        """
        if token in self._mark_tokens or (with_tools and token in self._tool_tokens):
            return (CONTROL + self._vocabulary.text(token)).encode()
        return self._vocabulary.piece(token)

    @cached_property
    def _mark_tokens(self) -> frozenset[int]:
        return self._controls_of(self._template.format.marks)

    @cached_property
    def _tool_tokens(self) -> frozenset[int]:
        return self._controls_of(self._template.tools.marks if self._template.tools else ())

    def _controls_of(self, marks: Sequence[str]) -> frozenset[int]:
        vocabulary = self._vocabulary
        tokens = {token for mark in marks for token in vocabulary.tokenize(mark, parse_special=True)}
        return frozenset(token for token in tokens if vocabulary.piece(token) == b"")

    def _neutralized(self, message: Message) -> Message:
        content, thoughts = self._harmless_text(message.content), self._harmless_text(message.thoughts)
        call_id, name = self._harmless_text(message.call_id), self._harmless_text(message.name)
        calls = tuple(map(self._neutralized_call, message.calls))
        return replace(message, content=content, thoughts=thoughts, call_id=call_id, name=name, calls=calls)

    def _neutralized_call(self, call: ToolCall) -> ToolCall:
        """Put marks into the texts of the arguments, not between them: an escape may hide a control text."""
        arguments = json.dumps(map_texts(arguments_of(call), self._harmless_text), ensure_ascii=False)
        return ToolCall(self._harmless_text(call.id), self._harmless_text(call.name), arguments)

    def _harmless_text(self, text: str) -> str:
        vocabulary = self._vocabulary
        if not text or text in self._harmless:
            return text
        if vocabulary.tokenize(text, parse_special=False) == vocabulary.tokenize(text, parse_special=True):
            if len(self._harmless) >= _HARMLESS_KEPT:
                self._harmless.clear()
            self._harmless.add(text)
            return text
        pattern = _any_of(vocabulary.control_texts)
        return pattern.sub(lambda m: m[0][:1] + self._mark + m[0][1:], text)

    def _encoded(self, text: str) -> tuple[list[int], int]:
        """Return the tokens of a rendered text with its images, and how many cells these take beyond them."""
        if not self._shown:
            return self._tokens(text), 0
        tokens: list[int] = []
        extra = 0
        for number, part in enumerate(text.split(self._image_mark)):
            if number % 2 == 0:
                tokens += self._tokens(part) if part else []
                continue
            for piece in self._shown.get(part, ()):
                tokens += [piece.id] * piece.n_pos if isinstance(piece, Span) else [piece]
                extra += piece.n_cells - piece.n_pos if isinstance(piece, Span) else 0
        return tokens, extra

    def _tokens(self, text: str) -> list[int]:
        vocabulary = self._vocabulary
        if self._mark not in text:
            return vocabulary.tokenize(text, parse_special=True)
        tokens: list[int] = []
        for part in re.split(f"({_any_of(vocabulary.control_texts).pattern})", text):
            if self._mark in part:
                tokens += vocabulary.tokenize(part.replace(self._mark, ""), parse_special=False)
            elif part:
                tokens += vocabulary.tokenize(part, parse_special=True)
        return tokens

    def _with_bos(self, tokens: list[int]) -> list[int]:
        """Put the beginning-of-sequence token first where the model wants one and the template wrote none."""
        vocabulary = self._vocabulary
        if vocabulary.adds_bos and vocabulary.bos >= 0 and tokens[:1] != [vocabulary.bos]:
            return [vocabulary.bos, *tokens]
        return tokens


def common_length(one: str, other: str) -> int:
    """Return how many first characters two texts share; slices are compared, as a character each would take long."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in texts) or "(?!)")


def _unused_marks(messages: Sequence[Message], others: Sequence[str]) -> tuple[str, str]:
    """Return two marks that no message contains; the choice is the same for every turn of an honest conversation."""
    everything = "".join((*others, *(text for message in messages for text in _texts_of_message(message))))
    unused = [mark for mark in _MARKS if mark not in everything]
    first, second = (*unused, *(mark for mark in _MARKS if mark not in unused))[:2]
    return first, second


def _texts_of_message(message: Message) -> Iterator[str]:
    yield from (message.content, message.thoughts, message.call_id, message.name)
    for call in message.calls:
        yield from (call.id, call.name, *_texts_of(arguments_of(call)))


def _texts_of(value: Any) -> list[str]:
    """Return the texts in a value of JSON."""
    texts: list[str] = []
    map_texts(value, lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]
    return texts
