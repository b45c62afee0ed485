"""The formats in which models ask for tools, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmrun.worker.tools.reading import Reader, read_hermes, read_llama, read_mistral, read_qwen_xml

Style = Literal["hermes", "llama3", "mistral_list", "mistral_named", "mistral_id", "qwen_xml"]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One format. name: what users read of it; style: how exactly calls are written, where it has several ways.

    starts: marks that a call may begin with; bare: it may begin an answer without one. marks: all that may be control
    tokens in a vocabulary. read: from what follows a mark to the calls.
    """

    name: str
    style: Style
    starts: tuple[str, ...]
    read: Reader
    bare: bool = False
    others: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All its marks."""
        return self.starts + self.others


HERMES = ToolFormat("hermes", "hermes", ("<tool_call>",), read_hermes, others=("</tool_call>",))
QWEN_XML = ToolFormat("qwen-xml", "qwen_xml", ("<tool_call>", "<function="), read_qwen_xml, others=("</tool_call>",))
LLAMA3 = ToolFormat("llama3", "llama3", ("<|python_tag|>",), read_llama, bare=True)
_MISTRAL_MARKS = ("[ARGS]", "[CALL_ID]")
MISTRAL_LIST = ToolFormat("mistral", "mistral_list", ("[TOOL_CALLS]",), read_mistral, others=_MISTRAL_MARKS)
MISTRAL_NAMED = ToolFormat("mistral", "mistral_named", ("[TOOL_CALLS]",), read_mistral, others=_MISTRAL_MARKS)
MISTRAL_ID = ToolFormat("mistral", "mistral_id", ("[TOOL_CALLS]",), read_mistral, others=_MISTRAL_MARKS)


@dataclass(frozen=True, slots=True)
class CallShape:
    """How a chat template wants the calls of earlier messages.

    text_arguments: their arguments as text, not as objects. one_call: a message has one at most. short_ids: their ids
    are nine letters and digits. in_words: it shows none, so that calls and results are told as ordinary messages.
    """

    text_arguments: bool = False
    one_call: bool = False
    short_ids: bool = False
    in_words: bool = False
