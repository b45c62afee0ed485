"""Chat templates out of files that nobody checked: ordinary ones, broken ones, hostile ones."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import GGUFError
from llmrun.message import Message
from llmrun.worker.chat_format import apply_builtin
from llmrun.worker.template import (
    BUILTIN_BY_ARCHITECTURE,
    MAX_TEMPLATE_BYTES,
    BuiltinTemplates,
    ChatTemplate,
    load_template,
)
from llmrun.worker.template_limits import TEXT_ALLOWANCE, TEXT_FACTOR, join_limited

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
HELLO = (Message("user", "Hello"),)
WITH_SYSTEM = (Message("system", "Be brief."), *HELLO)
CHATML_HELLO = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def no_builtin(template: str, messages: Sequence[Message], add_generation_prompt: bool) -> str | None:
    """A llama.cpp that knows no template."""
    return None


def any_builtin(template: str, messages: Sequence[Message], add_generation_prompt: bool) -> str | None:
    """A llama.cpp that knows every template, and says what it was asked."""
    return f"{template}|{add_generation_prompt}|" + "|".join(message.content for message in messages)


def load(source: str | None, builtin: BuiltinTemplates = no_builtin, architecture: str = "llama") -> ChatTemplate:
    """A template with BOS <s>, EOS </s>, on the fourth of July 2026."""
    return load_template(
        source,
        bos_token="<s>",
        eos_token="</s>",
        architecture=architecture,
        builtin=builtin,
        clock=lambda: datetime(2026, 7, 4, 12, 0),
    )


def tail(expression: str) -> str:
    """What an expression of jinja gives, after the plain text of HELLO."""
    return load(PLAIN + expression).render(HELLO).removeprefix("[user]Hello")


def run_apart(source: str, setup: str = "") -> subprocess.CompletedProcess[str]:
    """Load a template in a process of its own, where it may kill."""
    code = f"""
from llmrun.errors import GGUFError
from llmrun.worker import template_limits
from llmrun.worker.template import load_template
{setup}
try:
    load_template({source!r}, bos_token="", eos_token="", architecture="", builtin=lambda *_: None)
except GGUFError as error:
    print("GGUFError", error)
else:
    print("loaded")
"""
    root = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)


# ---- ordinary templates


def test_the_files_own_template_is_used_without_a_word() -> None:
    """A template that works is the one in use, and there is nothing to say about it."""
    template = load(PLAIN)
    assert (template.source_name, template.notice) == ("gguf", None)
    assert template.render(WITH_SYSTEM) == "[system]Be brief.[user]Hello"


def test_bos_and_eos_are_the_vocabularys() -> None:
    """bos_token and eos_token are what the caller read from the file."""
    assert tail("{{ bos_token }}{{ eos_token }}") == "<s></s>"


@pytest.mark.parametrize(("wanted", "text"), [(True, "yes"), (False, "undefined")])
def test_the_generation_prompt_is_asked_for_or_not_defined(wanted: bool, text: str) -> None:
    """As in llama.cpp, add_generation_prompt is true or is not there."""
    template = load(PLAIN + "{{ 'yes' if add_generation_prompt else add_generation_prompt is defined or 'undefined' }}")
    assert template.render(HELLO, add_generation_prompt=wanted) == f"[user]Hello{text}"


def test_tools_are_not_defined_unless_given() -> None:
    """As in llama.cpp; templates ask `if tools is defined`."""
    template = load(PLAIN + "{{ tools | tojson if tools is defined }}")
    assert template.render(HELLO) == "[user]Hello"
    assert template.render(HELLO, tools=[{"name": "f"}]) == '[user]Hello[{"name": "f"}]'


def test_a_model_thinks_unless_told_otherwise() -> None:
    """enable_thinking is true where it changes how the model's turn begins; a caller's value wins."""
    template = load(PLAIN + "{{ '<think>' if enable_thinking }}")
    assert template.render(HELLO) == "[user]Hello<think>"
    assert template.render(HELLO, variables={"enable_thinking": False}) == "[user]Hello"


def test_thinking_that_is_only_a_word_to_the_model_is_left_off() -> None:
    """A template that only announces it (Apertus) keeps its default, as in llama.cpp."""
    assert load("{{ 'Thinking: ' ~ enable_thinking }}" + PLAIN).render(HELLO) == "Thinking: False[user]Hello"


def test_reasoning_variables_reach_templates_by_all_their_names() -> None:
    """preserve_reasoning and reasoning_effort go by other names in other families."""
    template = load(PLAIN + "{{ preserve_thinking }} {{ clear_thinking }} {{ reasoning_strength }}")
    assert template.render(HELLO) == "[user]HelloTrue False "
    variables = {"preserve_reasoning": False, "reasoning_effort": "low"}
    assert template.render(HELLO, variables=variables) == "[user]HelloFalse True low"


def test_a_system_message_joins_the_first_one_where_templates_do_not_take_it() -> None:
    """A template that refuses or ignores system messages gets them as the first lines of the user's."""
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
    ignoring = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    for source in (refusing, ignoring):
        template = load(source)
        assert template.source_name == "gguf"
        assert template.render(WITH_SYSTEM) == "[user]Be brief.\nHello"


def test_content_is_typed_where_a_template_takes_only_that() -> None:
    """A template that reads content[0].text gets a list of parts."""
    template = load("{% for m in messages %}{% for part in m.content %}{{ part.text }};{% endfor %}{% endfor %}")
    assert template.source_name == "gguf"
    assert template.render(WITH_SYSTEM) == "Be brief.;Hello;"


def test_developer_is_another_word_for_system() -> None:
    """All templates but gpt-oss's know only "system"."""
    assert load(PLAIN).render((Message("developer", "Be brief."), *HELLO)) == "[system]Be brief.[user]Hello"


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("{% generation %}answer{% endgeneration %}", "answer"),
        ("{% for i in '0123' %}{% if i == '1' %}{% continue %}{% endif %}{{ i }}{% endfor %}", "023"),
        ("{% for i in '0123' %}{% if i == '2' %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ {'b': '<é>', 'a': 1} | tojson(sort_keys=true, ensure_ascii=true) }}", '{"a": 1, "b": "<\\u00e9>"}'),
        ("{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}", '[1,{"a":2}]'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ strftime_now('%Y-%m-%d') }}|{{ date_string }}|{{ datetime }}", "2026-07-04|04 Jul 2026|Jul 04 2026"),
        ("{% if true %}\n  {% set x = 1 %}\n{{ x }}{% endif %}", "1"),
        ("{{ nothing.at['all'] }}{{ nothing + '!' }}{{ '!' + nothing }}", "!!"),
    ],
)
def test_templates_get_what_transformers_and_llama_cpp_give_them(expression: str, text: str) -> None:
    """Generation tag, loop controls, JSON without HTML escaping, dates, block trimming, lenient undefined values."""
    assert tail(expression) == text


@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=60),
    st.sampled_from(["{{ 7*7 }}", "{% x %}", "{#", "<|im_end|>"]),
)
def test_what_people_write_is_never_a_template(text: str, lure: str) -> None:
    """Content reaches the text as it is, whatever it looks like."""
    content = f"{lure}{text}{lure}"
    assert SHARED.render((Message("user", content),)) == f"[user]{content}"


SHARED = load(PLAIN)


# ---- the chain


@pytest.mark.parametrize(("architecture", "name"), [("gemma", "gemma"), ("gemma3", "gemma"), ("gpt-oss", "gpt-oss")])
@pytest.mark.parametrize("source", [None, ""])
def test_a_model_without_a_template_gets_its_architectures_built_in_one(
    source: str | None, architecture: str, name: str
) -> None:
    """llama.cpp is asked for it by name, and the notice says so."""
    template = load(source, any_builtin, architecture)
    assert template.source_name == f"builtin:{name}"
    assert template.notice == f"the model has no chat template; using llama.cpp's built-in one ({name})"
    assert template.render(HELLO) == f"{name}|True|Hello"


@pytest.mark.parametrize("architecture", [*BUILTIN_BY_ARCHITECTURE, "llama4", "command-r", "deepseek2"])
def test_the_engine_knows_every_built_in_template_that_we_name(architecture: str) -> None:
    """The installed llama.cpp formats with it; a name that it lost would mean ChatML without need."""
    template = load(None, apply_builtin, architecture)
    assert template.source_name == f"builtin:{BUILTIN_BY_ARCHITECTURE.get(architecture, architecture)}"
    assert "Hello" in template.render(WITH_SYSTEM)


def test_chatml_is_the_last_resort() -> None:
    """Where llama.cpp has none either, the commonest format is used, and the notice says so."""
    template = load(None)
    assert template.source_name == "chatml"
    assert template.notice == "the model has no chat template; using ChatML, the most common format"
    assert template.render(HELLO) == CHATML_HELLO


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% if %}", "Expected an expression, got 'end of statement block'"),
        ("{{ raise_exception('only for tools') }}", "only for tools"),
        ("{{ messages[0].content | nonsense }}", "No filter named 'nonsense'."),
        ("{{ messages[0].content + 1 }}", 'can only concatenate str (not "int") to str'),
        ("chatml", "it leaves out what the user says"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth exceeded"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big."),
        ("{{ '(' }}" + "{{ " + "(" * 50_000, "maximum recursion depth exceeded"),
    ],
)
def test_a_template_that_does_not_work_gives_way_and_the_notice_says_why(source: str, why: str) -> None:
    """First to llama.cpp's reading of the same text, then to ChatML."""
    detected, last = load(source, any_builtin), load(source)
    problem = f"the model's own chat template does not work ({why}"
    assert detected.source_name == "builtin:detected"
    assert detected.render(HELLO) == f"{source}|True|Hello"
    assert last.source_name == "chatml"
    assert last.render(HELLO) == CHATML_HELLO
    assert detected.notice is not None
    assert detected.notice.startswith(problem)
    assert last.notice is not None
    assert last.notice.startswith(problem)


def test_a_refusal_reaches_the_user_in_the_templates_own_words() -> None:
    """raise_exception in a conversation that the template does not allow."""
    template = load(PLAIN + "{% if messages | length > 4 %}{{ raise_exception('Too much talk!') }}{% endif %}")
    with pytest.raises(GGUFError) as caught:
        template.render(HELLO * 5)
    assert caught.value.message == "the model's chat template refuses this conversation: Too much talk!"


def test_a_failure_in_the_middle_of_a_chat_is_an_error_of_the_file() -> None:
    """A template that passed its self-test can still fail later."""
    template = load(PLAIN + "{{ 1 // (4 - messages | length) }}")
    with pytest.raises(GGUFError) as caught:
        template.render(HELLO * 4)
    assert caught.value.message.startswith("the model's chat template fails on this conversation: ")
    assert "by zero" in caught.value.message


# ---- hostile templates


@pytest.mark.parametrize(
    ("expression", "attribute"),
    [
        ("''.__class__", "'__class__' of str"),
        ("''['__class__']", "'__class__' of str"),
        ("''|attr('__class__')", "'__class__' of str"),
        ("messages.append(1)", "'append' of list"),
        ("messages[0].update({'role': 'system'})", "'update' of dict"),
        ("raise_exception.__globals__", "'__globals__' of function"),
        ("self.__init__", "'__init__' of TemplateReference"),
        ("cycler.__init__.__globals__", "'__init__' of type"),
        ("'{0.__class__}'.format('')", "'__class__' of str"),
        ("'{x.__class__}'.format_map({'x': ''})", "'__class__' of str"),
    ],
)
def test_nothing_leads_out_of_the_sandbox(expression: str, attribute: str) -> None:
    """Dunder names, and methods that change what was given, are refused by name."""
    template = load(PLAIN + "{{ " + expression + " }}")
    assert template.notice is not None
    assert f"({attribute} is not for templates)" in template.notice


def test_a_template_cannot_read_files() -> None:
    """There is no loader: include and import find nothing."""
    notice = load(PLAIN + "{% include '/etc/passwd' %}").notice
    assert notice is not None
    assert "no loader for this environment specified" in notice


def test_a_template_may_have_256_kib_and_no_byte_more() -> None:
    """The size counts in bytes of UTF-8; a larger one is refused unread."""
    comment = "{# é" + " " * (MAX_TEMPLATE_BYTES - len(PLAIN) - len("{# é#}".encode())) + "#}"
    assert load(PLAIN + comment).source_name == "gguf"
    with pytest.raises(GGUFError) as caught:
        load(PLAIN + comment + "x", any_builtin)
    assert caught.value.message == "the model's chat template has 262,145 bytes, at most 262,144 are allowed"
    assert caught.value.hint is not None


def test_a_text_may_be_four_times_its_input_and_a_mebibyte() -> None:
    """The limit is exact, and the pieces after it are not asked for."""
    limit = TEXT_FACTOR * 10 + TEXT_ALLOWANCE
    assert len(join_limited(["x" * limit], 10)) == limit

    def too_long() -> Iterator[str]:
        yield "x" * limit
        yield "x"
        pytest.fail("went on after the limit")

    with pytest.raises(GGUFError, match="makes over 1,048,616 characters out of 10"):
        join_limited(too_long(), 10)


def test_a_template_that_writes_without_end_is_refused() -> None:
    """At a mebibyte more than its due, not when memory is full."""
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'spam and eggs ' * 9 }}{% endfor %}{% endfor %}"
    with pytest.raises(GGUFError, match="characters out of"):
        load(PLAIN + endless, any_builtin)


@pytest.mark.skipif(sys.platform != "linux", reason="the address space can only be limited on Linux")
@pytest.mark.parametrize(
    "bomb",
    [
        "{{ ('a' * 10**10) | length }}",
        "{% set n = messages | length %}{{ ('a' * (n * 10**10)) | length }}",
        "{{ '%99999999999d' % 1 }}",
        "{% set ns = namespace(x='spam') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    ],
)
def test_a_memory_bomb_is_refused_before_the_machine_feels_it(bomb: str) -> None:
    """At once or by doubling, compiled or rendered: over 1 GiB is an error of the file, and the process lives on."""
    refused = run_apart(PLAIN + bomb, "template_limits.RENDER_SECONDS = 50")  # a busy machine must not get there first
    assert refused.stdout == "GGUFError the model's chat template takes over 1.0 GiB of memory\n"
    assert (refused.returncode, refused.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="the address space can only be limited on Linux")
def test_the_limits_are_gone_after_a_render() -> None:
    """The engine's own memory must not run into a template's limit, nor its time."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    load(PLAIN).render(HELLO)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    outlived = run_apart(
        PLAIN, "import atexit, time; atexit.register(time.sleep, template_limits.RENDER_SECONDS + 0.5)"
    )
    assert (outlived.returncode, outlived.stdout) == (0, "loaded\n")


NO_MEMORY_LIMIT = """
import contextlib
template_limits._address_space_limit = lambda extra: contextlib.nullcontext()
"""


@pytest.mark.parametrize(
    ("bomb", "setup"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", ""),
        ("{{ 9 ** (9 ** 9) }}", ""),
        ("{% set n = messages | length %}{{ (9 * n) ** (9 ** 9) }}", ""),
        ("{{ ('a' * 10**10) | length }}", NO_MEMORY_LIMIT),
        ("{{ lipsum(n=100000) }}", ""),
    ],
    ids=["nested loops", "one operation at compile time", "one operation", "one huge string", "endless function"],
)
def test_a_template_that_takes_over_two_seconds_ends_the_process(bomb: str, setup: str) -> None:
    """Even inside one operation in C that never gives the interpreter back."""
    begin = time.monotonic()
    ended = run_apart(PLAIN + bomb, setup)
    # faulthandler prints the frames of a thread that runs on: seldom it falls over one, and the process ends with that
    assert ended.returncode in (1, -11)
    assert ended.stdout == ""
    assert ended.stderr.startswith("Timeout (0:00:02)!\n")
    assert 2 <= time.monotonic() - begin < 20


def test_a_watchdog_that_did_not_fire_says_nothing() -> None:
    """An ordinary template leaves no trace on stderr."""
    ended = run_apart(PLAIN)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "loaded\n", "")


@given(st.text(alphabet="{}%#-+ '\"abmessages[]().|~0123456789\n", max_size=40))
def test_any_text_is_a_template_or_gives_way(source: str) -> None:
    """Loading never fails in a way of its own: the file's template, or ChatML with a notice."""
    template = load(source)
    assert template.source_name in ("gguf", "chatml")
    assert (template.notice is None) == (template.source_name == "gguf")
    assert json.dumps(template.render(HELLO))
