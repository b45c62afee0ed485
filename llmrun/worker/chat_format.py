"""Which chat template a loaded model gets: its own, else one that llama.cpp has built in, else ChatML."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from llama_cpp import llama_cpp as lib

from llmrun.message import Message
from llmrun.worker.llama import Model
from llmrun.worker.template import ChatTemplate, load_template


def load_chat_template(model: Model) -> ChatTemplate:
    """Make the template of a model and try it out; its `notice` says if it is not the file's own."""
    vocabulary = model.vocabulary
    return load_template(
        model.chat_template(),
        bos_token=vocabulary.text(vocabulary.bos),
        eos_token=vocabulary.text(vocabulary.eos),
        architecture=model.metadata("general.architecture") or "",
        builtin=apply_builtin,
        tool_source=model.chat_template("tool_use"),
    )


def apply_builtin(template: str, messages: Sequence[Message], add_generation_prompt: bool) -> str | None:
    """Format messages by llama.cpp's built-in formats; `template` is a name of one or a template's source.

    Returns None where llama.cpp recognizes none (llama_chat_apply_template, llama.h).
    """
    kept = [(message.role.encode(), message.content.encode("utf-8", "replace")) for message in messages]
    chat = (lib.llama_chat_message * len(kept))(*(lib.llama_chat_message(*pair) for pair in kept))
    room = 2 * sum(len(role) + len(content) for role, content in kept) + 4096
    while True:
        buffer = ctypes.create_string_buffer(room)
        n = lib.llama_chat_apply_template(template.encode(), chat, len(kept), add_generation_prompt, buffer, room)
        if n < 0:
            return None
        if n <= room:
            return buffer.raw[:n].decode("utf-8", "replace")
        room = n
