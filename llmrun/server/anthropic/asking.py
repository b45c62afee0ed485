"""From what a client of Anthropic's API sends to an Ask. Pure, but for the files of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from llmrun.engine.protocol import Grammar
from llmrun.errors import UsageError
from llmrun.message import Message, Tool, ToolCall, ToolChoice
from llmrun.sampling import SamplingWish
from llmrun.server.anthropic.request import (
    Base64Source,
    Block,
    Conversation,
    DocumentBlock,
    ImageBlock,
    MessageRequest,
    PlainTextSource,
    RedactedBlock,
    TextBlock,
    ThinkingBlock,
    ToolChoiceSpec,
    ToolResultBlock,
    ToolSpec,
    ToolUseBlock,
    Turn,
)
from llmrun.server.ask import Ask
from llmrun.server.image_folder import parse_base64

Keep = Callable[[bytes], str]  # puts an image into a file and returns its path

_THINK = {"disabled": "off", "adaptive": None, "between_tools": None}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def ask_of(body: MessageRequest, keep: Keep) -> Ask:
    """Return what a request asks; raises UsageError for what cannot be done. keep: where images go."""
    return Ask(
        body.model,
        messages_of(body, keep),
        sampling=SamplingWish(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k),
        max_tokens=body.max_tokens,
        stop=_stop(body.stop_sequences or ()),
        grammar=_grammar(body),
        tools=tools_of(body),
        tool_choice=_tool_choice(body.tool_choice),
        think=_think(body),
    )


def messages_of(body: Conversation, keep: Keep) -> tuple[Message, ...]:
    """Return the conversation; raises UsageError for parts that no model here can be shown."""
    system = [] if body.system is None else [Message("system", _joined(body.system))]
    names: dict[str, str] = {}  # of the tools that were called, by the id of the call
    messages = [message for turn in body.messages for message in _messages(turn, names, keep)]
    if messages and messages[-1].role == "assistant":
        raise UsageError(
            "the last message is the assistant's, and a beginning of the answer cannot be given here",
            "let the last message be the user's",
        )
    return (*system, *messages)


def tools_of(body: Conversation) -> tuple[Tool, ...]:
    """Return the tools that may be asked for; raises UsageError for those that are not the client's own."""
    if body.tool_choice is not None and body.tool_choice.type == "none":
        return ()
    return tuple(_tool(spec) for spec in body.tools or ())


def _tool_choice(wish: ToolChoiceSpec | None) -> ToolChoice:
    if wish is None:
        return ToolChoice()
    if (wish.type == "tool") != (wish.name is not None):
        raise UsageError(f"tool_choice is of type {wish.type}, and a name goes with type tool alone")
    return ToolChoice(wish.type in ("any", "tool"), wish.name, not wish.disable_parallel_tool_use)


def _think(body: MessageRequest) -> str | None:
    """Return a wish about thoughts as thinking.WISHES has it; where they are on, effort says how much."""
    if body.thinking is None:
        return None
    effort = body.output_config.effort if body.output_config is not None else None
    return _EFFORTS.get(effort or "", "on") if body.thinking.type == "enabled" else _THINK[body.thinking.type]


def _tool(spec: ToolSpec) -> Tool:
    if spec.type not in (None, "custom"):
        raise UsageError(f"the tool {spec.name} is of type {spec.type}, which runs at Anthropic and not here")
    return Tool(spec.name, spec.description, json.dumps(spec.input_schema, ensure_ascii=False))


def _stop(texts: Sequence[str]) -> tuple[str, ...]:
    if not all(texts):
        raise UsageError("one of stop_sequences is empty", "leave it out")
    return tuple(texts)


def _grammar(body: Conversation) -> Grammar | None:
    wanted = None if body.output_config is None else body.output_config.format
    return None if wanted is None else Grammar("json_schema", json.dumps(wanted.schema, ensure_ascii=False))


def _messages(turn: Turn, names: dict[str, str], keep: Keep) -> Iterator[Message]:
    """Give a turn as messages: what came of calls is a message each, and what the user says follows it."""
    if isinstance(turn.content, str):
        yield Message(turn.role, turn.content)
        return
    results = [block for block in turn.content if isinstance(block, ToolResultBlock)]
    for block in results:
        if turn.role != "user":
            raise UsageError("a tool_result is in a message that is not the user's")
        yield _result(block, names, keep)
    rest = [block for block in turn.content if not isinstance(block, ToolResultBlock)]
    if rest or not results:
        yield _said(turn.role, rest, names, keep)


def _result(block: ToolResultBlock, names: dict[str, str], keep: Keep) -> Message:
    name = names.get(block.tool_use_id)
    if name is None:
        raise UsageError(f"no tool_use before it has the id of the tool_result {block.tool_use_id!r}")
    text = _joined(block.content) or ("error" if block.is_error else "")
    return Message("tool", text, images=_images(block.content, keep), call_id=block.tool_use_id, name=name)


def _said(role: str, blocks: Sequence[Block], names: dict[str, str], keep: Keep) -> Message:
    calls = tuple(_call(block) for block in blocks if isinstance(block, ToolUseBlock))
    thoughts = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    images = _images(blocks, keep)
    if role != "assistant" and (calls or thoughts):
        raise UsageError(f"a message of role {role} has a tool_use or a thinking block")
    if role != "user" and images:
        raise UsageError(f"a message of role {role} has an image")
    names |= {call.id: call.name for call in calls}
    # an answer comes back as the pieces of one text; what people send are texts of their own
    text = _joined(blocks, "" if role == "assistant" else "\n")
    return Message(role, text, thoughts, images, calls)


def _call(block: ToolUseBlock) -> ToolCall:
    return ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False))


def _joined(content: str | Sequence[Block], between: str = "\n") -> str:
    """Return the text of a content."""
    if isinstance(content, str):
        return content
    return between.join(text for block in content if (text := _text(block)) is not None)


def _text(block: Block) -> str | None:
    match block:
        case TextBlock(text=text):
            return text
        case DocumentBlock(source=PlainTextSource(data=text), title=title):
            return text if title is None else f"{title}\n\n{text}"
        case DocumentBlock():
            raise UsageError("a document is no plain text", "give its text: source {type: text}")
        case ImageBlock() | ToolUseBlock() | ToolResultBlock() | ThinkingBlock() | RedactedBlock():
            return None


def _images(content: str | Sequence[Block], keep: Keep) -> tuple[str, ...]:
    if isinstance(content, str):
        return ()
    return tuple(_image(block, keep) for block in content if isinstance(block, ImageBlock))


def _image(block: ImageBlock, keep: Keep) -> str:
    if not isinstance(block.source, Base64Source):
        raise UsageError("an image is only named, and nothing is fetched here", "give its bytes: source {type: base64}")
    return keep(parse_base64(block.source.data))
