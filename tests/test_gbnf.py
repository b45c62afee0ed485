"""structured.gbnf, structured.rules: what llama.cpp would hang at, die of or misread is refused, with its line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.structured.gbnf import GrammarFacts, check_grammar

JSON = r"""
root   ::= object # a comment
value  ::= object | array | string | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def test_a_grammar_that_llama_cpp_ships_passes() -> None:
    assert check_grammar(JSON) == GrammarFacts(names_tokens=False)


def test_tokens_among_characters_are_told_of() -> None:
    assert check_grammar("root ::= <think> [^<]* !<[7]>").names_tokens


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rule `root`"),
        ("start ::= [a]", "no rule `root`"),
        ("root ::= a\n\nb ::= [b]", "line 1: the rule 'a' is used and not there"),
        ("root ::= (\n[a]", "line 1: this ( has no )"),
        ('root ::= "a', 'line 1: a text must end with "'),
        ("root ::= [a]\nroot2 := [b]", "line 2: ::= must follow the name 'root2'"),
        ("root ::= [a", "a class of characters must end with ]"),
        ("root ::= []", "a class of characters is empty"),
        (r'root ::= "\d"', r"the escape \d is unknown"),
        ("root ::= *", "nothing to repeat"),
        ("root ::= [a]{3,2}", "ends before it begins"),
        ("root ::= [a]{2001}", "at most 2,000 times"),
        ("root ::= [a]{0,99999999999999999999}", "at most 2,000 times"),
        ("root ::= ([a]? [b]?){1000}", "parts of groups counted"),
        ("root ::= [a] %", "'%' is not understood here"),
        ("root ::= [a]\0", "NUL"),
        ('root ::= "x" root', "rule 'root' never ends"),
        ('root ::= root "x" | "y"', "rule 'root' can call itself before it has written anything"),
        ('root ::= a root "c" | "b"\na ::= b\nb ::= ""', "rule 'root' can call itself"),
        ("root ::= ([a]?)*", "rule 'root' can call itself"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_grammar(text)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "root ::= " + "(" * 200 + "[a]" + ")" * 200,
        'root ::= "' + "a" * 1000 + '"{1000}',
        "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1} | a{i + 1} [x]\n" for i in range(30)) + "a30 ::= [y]",
        "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1}\n" for i in range(25_000)) + "a25000 ::= [y]",
        "root ::= [a]\n" * 200_000,
    ],
    ids=["nested", "repeated", "ways", "chain", "long"],
)
def test_what_would_take_the_machine_is_refused_at_once(text: str) -> None:
    with pytest.raises(UsageError):
        check_grammar(text)


@given(st.text(alphabet='root:=|()[]{}"*+?ab,12 \n\\<>!.#^-', max_size=40))
def test_no_text_is_a_bug(text: str) -> None:
    """A text is a grammar or a UsageError."""
    with contextlib.suppress(UsageError):
        check_grammar("root ::= " + text)
