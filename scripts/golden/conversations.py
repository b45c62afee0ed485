"""The conversations that every chat template is recorded with.

In eight the roles alternate, as any template may demand; two more a template may refuse.
"""

from __future__ import annotations

Conversation = list[dict[str, str]]


def _talk(*contents: str, system: str | None = None) -> Conversation:
    """Messages of user and assistant in turn, after a system message where there is one."""
    roles = ("user", "assistant")
    messages = [] if system is None else [{"role": "system", "content": system}]
    return messages + [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


CONVERSATIONS: dict[str, Conversation] = {
    "user": _talk("How much memory does a 7B model need at 4 bits?"),
    "system": _talk("Hello!", system="You are a terse assistant."),
    "three turns": _talk("Hi", "Hello, what can I do for you?", "Name a prime."),
    "many turns": _talk(
        "What is 2 + 2?", "4", "And times 3?", "12", "Minus 1?", system="You are a calculator. Answer with a number."
    ),
    "blanks": _talk(
        "  \n Grüße aus Köln, 你好,\n\n\tпривет 🦙\u00a0!  \n",
        "\n Ça va? \n\n",
        " naïve\r\ncafé \n",
        system=" \nSei höflich. \n",
    ),
    "empty answer": _talk("Say nothing.", "", "Why?"),
    "template text": _talk(
        "What does {{ bos_token }}{% if x %} do? <|im_end|></s>[/INST]",
        "<think>It is jinja: {{ x }}</think>It prints {{ x }}. </think> {# done #}",
        "So \"quotes\", 'more', \\n and <|user|> are text?",
        system="Explain {{ templates }} & <tags>.",
    ),
    "long": _talk(
        *("Tell me more about layers, please. " * 12, "Each layer holds attention and a feed-forward part. " * 8) * 2,
        "Thank you. Now in one sentence.",
        system="You explain how language models work. " * 5,
    ),
    "user twice": [{"role": "user", "content": "Hello?"}, {"role": "user", "content": "Anybody there?"}],
    "late system": [
        *_talk("Hi", "Hello!"),
        {"role": "system", "content": "Speak French now."},
        {"role": "user", "content": "How are you?"},
    ],
}
