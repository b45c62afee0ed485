"""Keys, rates, hosts, origins and limits of the server, as values."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import GGUFError, MisdirectedError, RateError, RefusedError, UsageError
from llmrun.server.families import problem_of
from llmrun.server.keys import Keys, make_key, parse_key, parse_keys, read_keys
from llmrun.server.limits import MAX_DEPTH, check_depth
from llmrun.server.origins import Doors, check_host, check_origin, is_loopback, parse_host, parse_origin
from llmrun.server.rates import Buckets, Rate, parse_rate

# ---- keys


def test_a_key_is_known_by_its_name_and_not_kept() -> None:
    text = make_key()
    keys = Keys(parse_keys(f"# ours\n\nanna: {text}\n  bert :  other-key  \n"))
    assert keys.owner_of(text) == "anna"
    assert keys.owner_of("other-key") == "bert"
    assert [keys.owner_of(wrong) for wrong in ("", "anna", text[:-1], text + "x", "\udcff")] == [None] * 5
    assert text not in repr([vars(keys), *keys._keys])


def test_no_two_keys_that_are_made_are_the_same() -> None:
    assert len({make_key() for _ in range(100)}) == 100
    assert len(make_key()) >= 40


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nobody",
        "a-key-alone",
        ": key",
        "anna:",
        "anna: a b",
        "anna: ключ",
        "a: k\na: l",
        "a: k\nb: k",
        "a: \x1bk",
    ],
)
def test_a_file_that_holds_no_keys_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_keys(text)


def test_a_file_of_keys_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("anna: key")
    file.chmod(0o600)
    assert [key.name for key in read_keys(file)] == ["anna"]
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(UsageError, match="others can get at it") as refused:
            read_keys(file)
        assert refused.value.hint == f"chmod 600 {file}"
    os.mkfifo(tmp_path / "pipe", 0o600)
    writer = os.open(tmp_path / "pipe", os.O_RDWR)  # so that nobody waits for one
    try:
        for other in (tmp_path, tmp_path / "none", tmp_path / "pipe"):
            with pytest.raises(UsageError):
                read_keys(other)
    finally:
        os.close(writer)


@pytest.mark.parametrize("text", ["", "  ", "a b", "a\nb", "\x00", "é", "k" * 513])
def test_what_no_client_could_send_is_no_key(text: str) -> None:
    with pytest.raises(UsageError):
        parse_key(text)


# ---- rates


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_read_as_people_write_it() -> None:
    assert [parse_rate(text) for text in ("60/min", " 5 / s ", "1000/HOUR", "1/day")] == [
        Rate(60, 60),
        Rate(5, 1),
        Rate(1000, 3600),
        Rate(1, 86400),
    ]
    for wrong in ("", "60", "0/min", "-1/min", "1.5/min", "60/week", "60/min/min", "٣/min"):
        with pytest.raises(UsageError):
            parse_rate(wrong)


def test_a_bucket_gives_what_it_holds_at_once_and_the_rest_evenly() -> None:
    clock = Clock()
    buckets = Buckets(Rate(3, 60), clock)
    for _ in range(3):
        buckets.take("anna")
    with pytest.raises(RateError, match="at most 3 a minute") as refused:
        buckets.take("anna")
    assert refused.value.retry_after == 20
    buckets.take("bert")
    clock.now += 20
    buckets.take("anna")
    with pytest.raises(RateError):
        buckets.take("anna")


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 5), st.integers(1, 60))
def test_no_more_pass_in_any_time_than_a_full_bucket_and_what_flows_in(
    waits: list[float], count: int, seconds: int
) -> None:
    clock = Clock()
    buckets = Buckets(Rate(count, seconds), clock)
    passed: list[float] = []
    for wait in waits:
        clock.now += wait
        if wait := buckets.wait_of("a"):
            with pytest.raises(RateError):
                buckets.take("a")
            clock.now += wait + 1e-6
        buckets.take("a")
        passed.append(clock.now)
    for first, begun in enumerate(passed):
        for last, ended in enumerate(passed[first:], first):
            assert last - first + 1 <= count + (ended - begun) * count / seconds + 1e-6


def test_names_that_strangers_choose_do_not_fill_the_memory() -> None:
    clock = Clock()
    buckets = Buckets(Rate(2, 60), clock)
    for number in range(100):
        buckets.take(str(number))
        buckets.prune(10)
    assert len(buckets._levels) <= 11


# ---- hosts and origins


def test_what_only_this_machine_sees_is_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")))
    assert not any(
        map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.example", "0x7f.1"))
    )


@given(st.text(max_size=40))
def test_whatever_a_host_is_it_is_one_of_ours_or_refused(text: str) -> None:
    try:
        check_host(text, Doors(frozenset({"llm.example"})), "192.168.1.5")
    except MisdirectedError:
        return
    name = text.strip().lower().rpartition(":")[0] or text.strip().lower()
    assert name.startswith(("localhost", "127.", "[", "llm.example", "192.168.1.5")) or is_loopback(text.strip())


def test_the_address_that_a_client_came_to_is_a_name_of_ours() -> None:
    check_host("192.168.1.5:8080", Doors(), "192.168.1.5")
    check_host("[fe80::1]:8080", Doors(), "fe80::1")
    with pytest.raises(MisdirectedError):
        check_host("192.168.1.6:8080", Doors(), "192.168.1.5")


def test_a_foreign_site_is_let_in_by_its_whole_name_only() -> None:
    doors = Doors(origins=frozenset({"https://app.example"}))
    assert check_origin("POST", {"origin": "https://app.example", "host": "localhost"}, doors) == "https://app.example"
    assert check_origin("POST", {"origin": "http://localhost:1", "host": "localhost:1"}, doors) is None
    assert check_origin("POST", {"host": "localhost"}, doors) is None
    for origin in (
        "https://app.example.evil",
        "http://app.example",
        "https://app.example:444",
        "null",
        "",
        "https://xapp.example",
    ):
        with pytest.raises(RefusedError):
            check_origin("GET", {"origin": origin, "host": "localhost"}, doors)


def test_hosts_and_sites_are_read_as_people_write_them() -> None:
    assert [parse_host(text) for text in ("LLM.Example.", "::1", "[fe80::1]", "10.0.0.1")] == [
        "llm.example",
        "::1",
        "fe80::1",
        "10.0.0.1",
    ]
    assert parse_origin("HTTPS://App.Example:443/") == "https://app.example"
    assert parse_origin("vscode-webview://abc") == "vscode-webview://abc"
    for wrong in ("http://x", "x:80", "", "a b", "*"):
        with pytest.raises(UsageError):
            parse_host(wrong)
    for wrong in ("app.example", "*", "https://*", "null", "https://x/path", "https://u@x", ""):
        with pytest.raises(UsageError):
            parse_origin(wrong)


# ---- limits

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(['[["\\', "{{{", '"']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def nested(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(nested, inner), default=0)


@given(_JSON, st.integers(90, 110))
def test_json_is_refused_exactly_where_it_is_nested_too_deep(value: Any, more: int) -> None:
    for _ in range(more):
        value = {"a": value, "[": ["}"]} if more % 2 else [value, [], "]"]
    body = json.dumps(value).encode()
    if nested(value) <= MAX_DEPTH:
        check_depth(body)
        return
    with pytest.raises(UsageError, match="nested more than"):
        check_depth(body)


@pytest.mark.parametrize("more", [49, 50, 51])
def test_objects_in_lists_count_as_both(more: int) -> None:
    body = b'[{"a":' * more + b"1" + b"}]" * more
    if 2 * more <= MAX_DEPTH:
        check_depth(body)
        return
    with pytest.raises(UsageError, match="nested more than"):
        check_depth(body)


# ---- errors


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/anna/My Models/x y.gguf: bad magic", "x y.gguf: bad magic"),
        ("'/a/b.gguf' ends, and /c/d/e.gguf too", "'b.gguf' ends, and e.gguf too"),
        (r"C:\Users\Anna B\x.gguf is empty", "x.gguf is empty"),
        ("/home/anna/.ollama/blobs/sha256-12ab is empty", "sha256-12ab is empty"),
        ("part 2 of 3 is missing: there is no file /m/x-00002-of-00003.gguf", None),
        ("no model is called 'a/b-GGUF' (GET /v1/models lists those that are here)", None),
        ("there is nothing at this path (GET /openapi.json lists what there is), 3/4 and and/or", None),
        ("send it as data:image/png;base64,… or http://localhost:8080/v1", None),
    ],
)
def test_clients_are_told_of_files_and_not_of_folders(text: str, told: str | None) -> None:
    expected = text.replace("/m/", "") if told is None else told
    assert problem_of(GGUFError(text)).message == expected
