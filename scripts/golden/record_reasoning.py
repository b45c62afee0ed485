"""Record tests/golden/reasoning.json: answers of thinking models, and what llama.cpp's parsers make of them.

They are the cases of llama.cpp's own tests/test-chat.cpp (MIT licence) that have to do with no tools, schemas or
continued answers: outputs in the format of each model, with the thoughts and the content that are expected.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "reasoning.json"

_LITERAL = r'"(?:[^"\\]|\\.)*"'
_LITERALS = rf"{_LITERAL}(?:\s*{_LITERAL})*"
_NAMED = {
    "message_assist": ("Hello, world!\nWhat's up?", ""),
    "message_assist_thoughts": ("Hello, world!\nWhat's up?", "I'm\nthinking"),
    "message_assist_thoughts_no_content": ("", "I'm\nthinking"),
}
_OTHERWISE = (".tools(", ".json_schema(", ".messages(", ".continue_final_message(", "FORMAT_NONE")


def main() -> None:
    """Read llama.cpp's tests and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", type=Path, help="llama.cpp's tests/test-chat.cpp")
    cases = list(read_cases(parser.parse_args().tests.read_text(encoding="utf-8")))
    GOLDEN.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases in {GOLDEN.name}")


def read_cases(source: str) -> Iterator[dict[str, object]]:
    """Yield the cases: template, text as the model writes it, thinking, content, thoughts."""
    template = ""
    for found in re.finditer(
        rf'peg_tester\("models/templates/([^"]+)"|\btst\.test\(\s*({_LITERALS})\s*\)(.*?)\.run\(\)', source, re.DOTALL
    ):
        if found[1]:
            template = found[1]
            continue
        text, chain = literal(found[2]), found[3]
        expected = read_expected(chain)
        if expected is None or any(word in chain for word in _OTHERWISE):
            continue
        if not template or (
            "reasoning_format(" not in chain and re.search(r"[<\[]", "".join(expected))
        ):  # thoughts are left in the content
            continue
        thinking = "enable_thinking(false)" not in chain
        content, thoughts = expected
        yield {"template": template, "text": text, "thinking": thinking, "content": content, "thoughts": thoughts}


def read_expected(chain: str) -> tuple[str, str] | None:
    """Return content and thoughts that a case expects, None where it expects something else."""
    if named := re.search(r"\.expect\((\w+)\)", chain):
        return _NAMED.get(named[1])
    if made := re.search(rf"simple_assist_msg\(({_LITERALS})(?:,\s*({_LITERALS}))?\)\)", chain):
        return literal(made[1]), literal(made[2] or '""')
    content = re.search(rf"\.expect_content\(({_LITERALS})\)", chain)
    thoughts = re.search(rf"\.expect_reasoning\(({_LITERALS})\)", chain)
    if content is None and thoughts is None:
        return None
    return literal(content[1] if content else '""'), literal(thoughts[1] if thoughts else '""')


def literal(text: str) -> str:
    """Return what literals of C++, one behind the other, stand for; those of these tests are JSON's too."""
    return "".join(json.loads(part, strict=False) for part in re.findall(_LITERAL, text))


if __name__ == "__main__":
    main()
