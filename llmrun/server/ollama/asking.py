"""From what a client of Ollama's API sends to an Ask. Pure, but for the files of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from llmrun.engine.protocol import Grammar
from llmrun.errors import UsageError
from llmrun.message import Message, RawPrompt, Tool, ToolCall
from llmrun.sampling import MAX_SEED, Penalties, SamplingWish
from llmrun.server.ask import Ask
from llmrun.server.image_folder import parse_base64
from llmrun.server.keeping import parse_keep_alive
from llmrun.server.ollama.request import CallSpec, ChatRequest, Common, GenerateRequest, Number, Options, ToolSpec, Turn

Keep = Callable[[bytes], str]  # puts an image into a file and returns its path

_ROLES = ("system", "user", "assistant", "tool")
_WINDOW = 64  # tokens that a repeat penalty looks at, in Ollama unasked and here always
_ANY_OBJECT = '{"type": "object"}'  # Ollama's "json", which its grammar holds to an object too (llm/server.go)


def ask_of_chat(body: ChatRequest, keep: Keep) -> Ask:
    """Return what a conversation asks; raises UsageError for what cannot be done. keep: where images go."""
    messages = tuple(messages_of(body.messages or (), keep))
    return _ask(body, messages=messages, tools=tuple(map(_tool, body.tools or ())))


def ask_of_text(body: GenerateRequest, keep: Keep) -> Ask:
    """Return what a text asks; raises UsageError for what cannot be done."""
    if body.template:
        raise UsageError("template is there, and a model is asked by its own", "raw: true takes the prompt as it is")
    if body.context:
        raise UsageError("context is there, and no answer of this server gave one", "ask /api/chat with the messages")
    prompt = body.prompt or ""
    if body.raw or body.suffix:
        if body.system or body.images:
            raise UsageError(f"{'raw' if body.raw else 'suffix'} is there with system or images, which need a template")
        return _ask(body, raw=RawPrompt(prompt, body.suffix or None))
    system = (Message("system", body.system),) if body.system else ()
    return _ask(body, messages=(*system, Message("user", prompt, images=_images(body.images, keep))))


def is_empty(body: ChatRequest | GenerateRequest) -> bool:
    """Tell whether nothing is asked, so that the model is only loaded, or unloaded where keep_alive is 0."""
    return not body.messages if isinstance(body, ChatRequest) else not (body.prompt or body.suffix or body.images)


def keep_alive_of(wish: Number | str | None) -> float | None:
    """Return for how many seconds a model is kept, below 0 is forever; raises UsageError for no time."""
    return parse_keep_alive(wish) if isinstance(wish, str) else wish


def messages_of(turns: Sequence[Turn], keep: Keep) -> Iterator[Message]:
    """Give the conversation; raises UsageError for a role there is not, or a result of no call."""
    calls: list[ToolCall] = []  # that have no result yet
    for number, turn in enumerate(turns):
        if turn.role not in _ROLES:
            raise UsageError(f"the role of message {number + 1} is {turn.role[:40]!r}", f"one of {', '.join(_ROLES)}")
        made = tuple(_call(spec, f"call_{number}_{index}") for index, spec in enumerate(turn.tool_calls or ()))
        calls += made
        answered = _answered(turn, calls) if turn.role == "tool" else None
        yield Message(
            turn.role,
            turn.content or "",
            turn.thinking or "",
            _images(turn.images, keep),
            made,
            answered.id if answered else "",
            answered.name if answered else "",
        )


def _answered(turn: Turn, calls: list[ToolCall]) -> ToolCall:
    """Return the call that a tool's message is the result of, and take it from those that have none.

    Ollama's clients name the tool, or nothing: results then come in the order of the calls.
    """
    fits = [call for call in calls if turn.tool_call_id == call.id]
    fits = fits or [call for call in calls if turn.tool_name in (None, "", call.name)]
    if not fits:
        if turn.tool_name:  # an older part of the conversation may have been left away
            return ToolCall(turn.tool_call_id or "", turn.tool_name, "{}")
        raise UsageError("a message of role tool is the result of no call before it", "give its tool_name")
    calls.remove(fits[0])
    return fits[0]


def _call(spec: CallSpec, usual_id: str) -> ToolCall:
    called = spec.function
    return ToolCall(spec.id or usual_id, called.name, json.dumps(called.arguments, ensure_ascii=False))


def _tool(spec: ToolSpec) -> Tool:
    told = spec.function
    return Tool(
        told.name, told.description or "", json.dumps(told.parameters or {"type": "object"}, ensure_ascii=False)
    )


def _images(texts: Sequence[str] | None, keep: Keep) -> tuple[str, ...]:
    return tuple(keep(parse_base64(text)) for text in texts or ())


def _ask(
    body: Common, messages: tuple[Message, ...] = (), raw: RawPrompt | None = None, tools: tuple[Tool, ...] = ()
) -> Ask:
    options = body.options or Options()
    _check(options)
    stop = [options.stop] if isinstance(options.stop, str) else options.stop or []
    return Ask(
        body.model,
        messages,
        raw=() if raw is None else (raw,),
        sampling=_sampling(options),
        penalties=Penalties(options.frequency_penalty or 0.0, options.presence_penalty or 0.0),
        max_tokens=_length(options.num_predict),
        stop=tuple(text for text in stop if text),
        grammar=_grammar(body.format),
        tools=tools,
        think=_think(body.think),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        keep_alive=keep_alive_of(body.keep_alive),
    )


def _check(options: Options) -> None:
    """Raise UsageError for what would change answers and is not had here."""
    for name, neutral in (("mirostat", 0), ("typical_p", 1), ("tfs_z", 1)):
        value = getattr(options, name)
        if value not in (None, neutral):
            raise UsageError(f"the option {name} is {value}, and is not had here", "leave it out, or try min_p")
    window = options.repeat_last_n
    if options.repeat_penalty not in (None, 1) and window not in (None, _WINDOW):
        raise UsageError(
            f"the option repeat_last_n is {window}: repeat_penalty looks at {_WINDOW} tokens", "leave it out"
        )


def _sampling(options: Options) -> SamplingWish:
    seed = _whole("seed", options.seed)
    top_k = _whole("top_k", options.top_k)
    return SamplingWish(
        options.temperature,
        None if top_k is None else max(0, top_k),
        options.top_p,
        options.min_p,
        options.repeat_penalty,
        None if seed is None or seed == -1 else seed % (MAX_SEED + 1),
    )


def _length(wish: Number | None) -> int | None:
    """Return how many tokens an answer may have; Ollama's -1 and -2 are until it ends or the context is full."""
    number = _whole("num_predict", wish)
    return None if number is None or number <= 0 else number


def _whole(name: str, value: Number | None) -> int | None:
    """Return a whole number, which clients in JavaScript may write as 40.0."""
    if value is not None and value != int(value):
        raise UsageError(f"the option {name} is {value}, and must be a whole number")
    return None if value is None else int(value)


def _grammar(wanted: str | dict[str, object] | None) -> Grammar | None:
    if wanted is None or wanted == "":
        return None
    if isinstance(wanted, dict):
        return Grammar("json_schema", json.dumps(wanted, ensure_ascii=False))
    if wanted != "json":
        raise UsageError(f"format is {wanted[:40]!r}", 'it can be "json" or a JSON schema')
    return Grammar("json_schema", _ANY_OBJECT)


def _think(wish: bool | str | None) -> str | None:
    if wish is None or wish == "":
        return None
    if isinstance(wish, bool):
        return "on" if wish else "off"
    if wish not in ("low", "medium", "high"):
        raise UsageError(f"think is {wish[:40]!r}", "it can be true, false, low, medium or high")
    return wish
