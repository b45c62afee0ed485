"""One question with its right answer. Knows how an answer is judged; knows nothing of files or models."""

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question, the answer to learn, and what any right answer must contain.

    `expect` holds strings of which every one must occur, ignoring case; "a|b" accepts either.
    `topic` names the file or family the exchange comes from, for tables.
    """

    question: str
    answer: str
    expect: tuple[str, ...]
    topic: str

    def asked(self, question: str) -> "Exchange":
        """The same exchange in other words."""
        return replace(self, question=question)

    def of_topic(self, topic: str) -> "Exchange":
        """The same exchange in another row of the table."""
        return replace(self, topic=topic)


def is_right(answer: str, expect: tuple[str, ...]) -> bool:
    """Whether `answer` contains every expected string (one of its alternatives), ignoring case."""
    lowered = answer.lower()
    return all(any(choice in lowered for choice in entry.lower().split("|")) for entry in expect)


def normalized(text: str) -> str:
    """`text` without case, punctuation and extra spaces: equal results are the same wording."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("'", "")))
