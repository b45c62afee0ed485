"""Models that think, each with one thing to say: what they write after a token depends on that token alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.synthetic import FIRST_FILLER, TINY, write_model

NEWLINE = 3 + ord("\n")  # the token of a byte: the three of ChatML come before them
IM_END = 2

# Qwen3's, without what concerns tools: an empty thought in the prompt switches thinking off, earlier thoughts are cut
QWEN3 = """\
{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' and (preserve_thinking or loop.last) and message.reasoning_content %}
{%- set content = '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

# gpt-oss's: each message in a channel, of earlier answers only the final one. Its model would write the first header
# itself, but these models can write no token twice.
HARMONY = """\
{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort if reasoning_effort is defined else "medium") }}
{{- '<|end|>' }}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}
{%- else %}{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|channel|>analysis<|message|>\\n' }}{%- endif %}"""


def write_script(path: Path, template: str, script: Sequence[str], controls: Sequence[str] = ()) -> Path:
    """Write a model that writes the pieces of a script, all different, after a prompt that ends with a newline.

    Each is a token of its own, or a control token if it is one of `controls`; then the model ends its turn.
    """
    tokens = {piece: FIRST_FILLER + index for index, piece in enumerate(dict.fromkeys([*script, *controls]))}
    order = [NEWLINE, *(tokens[piece] for piece in script)]
    stored = {token: piece.replace(" ", "Ġ").replace("\n", "Ċ") for piece, token in tokens.items()}
    return write_model(
        path,
        replace(TINY, tied=False),
        template=template,
        pieces={token: text for token, text in stored.items() if text not in controls},
        controls={token: text for token, text in stored.items() if text in controls},
        chain=dict(zip(order, [*order[1:], IM_END], strict=True)),
    )
