"""reference: what was typed for MODEL, read without asking the disk or the network."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.quant import parse_label
from llmrun.reference import (
    GUIDE,
    GUIDE_QUANTS,
    GuideRef,
    HubRef,
    LocalRef,
    ModelRef,
    NameRef,
    ShelfRef,
    format_reference,
    hub_spelling,
    parse_reference,
)
from llmrun.repo_path import why_unsafe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "text",
    [
        "/a/b",
        "./x",
        "../x",
        "~/m.gguf",
        "m.gguf",
        "M.GGUF",
        "C:\\m",
        "d:/m",
        "d://m",
        ".\\m",
        "\\\\host\\m",
        "a b.gguf",
    ],
)
def test_a_path_is_known_by_its_looks(text: str) -> None:
    assert parse_reference(text) == LocalRef(Path(text))


@pytest.mark.parametrize(
    ("text", "quant"), [("guide", None), ("Guide", None), ("guide:F16", "F16"), ("guide:q4_k_m", "Q4_K_M")]
)
def test_guide_can_be_had_in_each_quantization_or_any(text: str, quant: str | None) -> None:
    assert parse_reference(text) == GuideRef(quant)


@pytest.mark.parametrize(
    ("text", "name", "quant"),
    [
        ("qwen3:8b", "qwen3:8b", None),
        ("Qwen3-8B", "qwen3-8b", None),
        ("qwen3", "qwen3", None),
        ("qwen3:latest", "qwen3", None),
        ("qwen3:8b:Q4_K_M", "qwen3:8b", "Q4_K_M"),
        ("qwen3-8b:q4_k_m", "qwen3-8b", "Q4_K_M"),
        ("qwen3:8b-q4_K_M", "qwen3:8b", "Q4_K_M"),
        ("gemma3:4b-it-qat", "gemma3:4b-it-qat", None),
        ("llama3.1:8b-instruct-fp16", "llama3.1:8b-instruct", "F16"),
        ("gpt-oss:20b-mxfp4", "gpt-oss:20b", "MXFP4"),
        ("my-q8", "my-q8", None),
    ],
)
def test_a_short_name_may_carry_a_quantization(text: str, name: str, quant: str | None) -> None:
    """Behind one more colon, or at the end of the size as Ollama writes it; a name of one word is left whole."""
    assert parse_reference(text) == NameRef(name, quant)


@pytest.mark.parametrize(
    ("rest", "ref"),
    [
        ("", HubRef("Qwen/Qwen3-8B-GGUF")),
        (":Q4_K_M", HubRef("Qwen/Qwen3-8B-GGUF", quant="Q4_K_M")),
        (":ud-q4_k_xl", HubRef("Qwen/Qwen3-8B-GGUF", quant="UD-Q4_K_XL")),
        (":latest", HubRef("Qwen/Qwen3-8B-GGUF")),
        (":balanced", HubRef("Qwen/Qwen3-8B-GGUF", quant="balanced")),
        ("@v1.0", HubRef("Qwen/Qwen3-8B-GGUF", "v1.0")),
        (":Q8_0@v1.0", HubRef("Qwen/Qwen3-8B-GGUF", "v1.0", "Q8_0")),
        ("@v1.0:Q8_0", HubRef("Qwen/Qwen3-8B-GGUF", "v1.0", "Q8_0")),
        (f"@{COMMIT}", HubRef("Qwen/Qwen3-8B-GGUF", COMMIT)),
        (":Q8_0@refs/pr/3", HubRef("Qwen/Qwen3-8B-GGUF", "refs/pr/3", "Q8_0")),
        ("@refs%2Fpr%2F3:Q8_0", HubRef("Qwen/Qwen3-8B-GGUF", "refs/pr/3", "Q8_0")),
        (":x.gguf", HubRef("Qwen/Qwen3-8B-GGUF", filename="x.gguf")),
        (":Q8_0/x 1-00001-of-00002.gguf", HubRef("Qwen/Qwen3-8B-GGUF", filename="Q8_0/x 1-00001-of-00002.gguf")),
        (":x@2.gguf", HubRef("Qwen/Qwen3-8B-GGUF", filename="x@2.gguf")),
        (":x@2.gguf@main", HubRef("Qwen/Qwen3-8B-GGUF", "main", filename="x@2.gguf")),
    ],
)
def test_a_repository_may_be_followed_by_what_is_wanted_of_it(rest: str, ref: HubRef) -> None:
    for prefix in ("", "hf:", "hf://", "hf.co/", "huggingface.co/", "www.hf.co/", "https://huggingface.co/"):
        assert parse_reference(f"{prefix}Qwen/Qwen3-8B-GGUF{rest}") == ref


@pytest.mark.parametrize("prefix", ["hf:", "HF.co/", "https://huggingface.co/"])
def test_behind_a_prefix_a_file_may_follow_a_slash(prefix: str) -> None:
    """Without one it would be a path of this machine."""
    assert parse_reference(f"{prefix}a/b/c/d.gguf@v2") == HubRef("a/b", "v2", filename="c/d.gguf")
    assert parse_reference("a/b/c/d.gguf") == LocalRef(Path("a/b/c/d.gguf"))


@pytest.mark.parametrize(
    ("path", "meant"),
    [("a/b/c.gguf", "a/b:c.gguf"), ("a/b/c/d.gguf", "a/b:c/d.gguf"), ("a/b.gguf", None), ("/a/b/c.gguf", None)],
)
def test_a_path_may_look_like_a_file_of_the_hub(path: str, meant: str | None) -> None:
    assert hub_spelling(Path(path)) == meant


@pytest.mark.parametrize(
    ("path", "ref"),
    [
        ("a/b/", HubRef("a/b")),
        ("a/b/tree/main", HubRef("a/b", "main")),
        ("a/b/tree/main/UD-Q4_K_XL/", HubRef("a/b", "main", "UD-Q4_K_XL")),
        ("a/b/tree/refs%2Fpr%2F3", HubRef("a/b", "refs/pr/3")),
        ("a/b/tree/refs/pr/3/Q8_0", HubRef("a/b", "refs/pr/3", "Q8_0")),
        ("a/b/blob/main/c%20d.gguf", HubRef("a/b", "main", filename="c d.gguf")),
        ("a/b/resolve/main/c/d.gguf?download=true#top", HubRef("a/b", "main", filename="c/d.gguf")),
    ],
)
def test_the_address_of_a_page_says_what_is_on_it(path: str, ref: HubRef) -> None:
    for host in ("https://huggingface.co", "http://hf.co", "https://www.huggingface.co:443", "hf.co"):
        assert parse_reference(f"{host}/{path}") == ref


def test_addresses_of_the_hub_that_is_set_are_understood_below_its_prefix() -> None:
    mirror = "http://localhost:8080/hf/"
    assert parse_reference("http://localhost:8080/hf/a/b/tree/main", mirror) == HubRef("a/b", "main")
    assert parse_reference("http://hub.lan:80/a/b", "http://HUB.lan") == HubRef("a/b")
    for other in ("http://localhost:8081/hf/a/b", "https://localhost:8080/hf/a/b", "http://localhost:8080/hfx/a/b"):
        with pytest.raises(UsageError, match="localhost is not the Hugging Face Hub"):
            parse_reference(other, mirror)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("ollama:qwen3:8b", ShelfRef("ollama", "qwen3:8b")),
        ("Ollama:hf.co/a/b:Q8_0", ShelfRef("ollama", "hf.co/a/b:Q8_0")),
        ("lmstudio:a/b/c.gguf", ShelfRef("lmstudio", "a/b/c.gguf")),
    ],
)
def test_models_of_other_programs_have_their_names_there(text: str, ref: ShelfRef) -> None:
    assert parse_reference(text) == ref


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "MODEL is empty", "`guide` is the embedded model"),
        (" ", "MODEL is empty", "`guide` is the embedded model"),
        ("guide:", "guide has no quantization ''", "`guide` alone is Q8_0"),
        ("guide:Q3", "guide has no quantization 'Q3'; it has Q8_0, F16, Q4_K_M", "`guide` alone is Q8_0"),
        ("-", "'-' is written like no short name", "`owner/repo` one of the Hub"),
        ("what is vram?", "is written like no short name", 'the model comes first: `llmrun run guide "what is vram?"`'),
        ("is 3/4 a lot?", "is written like no short name", 'the model comes first: `llmrun run guide "is 3/4 a lot?"`'),
        ("a/b/Q4_K_M", "'a/b/Q4_K_M' is no repository", "behind a colon: `a/b:Q4_K_M`"),
        ("a/b--c", "a/b--c is no repository", "owner/repo"),
        ("a/b..c", "a/b..c is no repository", "owner/repo"),
        ("a/b.git", "a/b.git is no repository", "owner/repo"),
        (f"a/{'b' * 95}", "96 characters at most, this has 97", "owner/repo"),
        ("a/b:", "'a/b:' ends where", "`llmrun show a/b`"),
        ("a/b@", "'a/b@' ends where", "`llmrun show a/b`"),
        ("a/b:Q4_K_M@", "'a/b:Q4_K_M@' ends where", "`llmrun show a/b`"),
        ("a/b@x..y", "'x..y' is no revision", "`llmrun show a/b`"),
        ("a/b@-x", "'-x' is no revision", "`llmrun show a/b`"),
        ("a/b:?", "'?' in 'a/b:?' is no quantization", "`owner/repo` one of the Hub"),
        ("a/b:../c.gguf", "leads out of its repository", "`llmrun show a/b`"),
        ("a/b:/etc/c.gguf", "is an absolute path", "`llmrun show a/b`"),
        ("a/b:c\\d.gguf", "Windows", "`llmrun show a/b`"),
        ("a/b:c:d.gguf", "Windows", "`llmrun show a/b`"),
        ("a/b:c\x1b.gguf", "control characters", "`llmrun show a/b`"),
        ("a/b:c/d.bin", "'c/d.bin' is no GGUF file", "`llmrun show a/b`"),
        ("https://huggingface.co/a/b/blob/main/README.md", "'README.md' is no GGUF file", "`llmrun show a/b`"),
        ("https://huggingface.co/a/b/blob/main", "'' has a name that is none", "`llmrun show a/b`"),
        ("https://huggingface.co/a/b/resolve/main/%2e%2e/c.gguf", "leads out of its repository", "`llmrun show a/b`"),
        ("https://huggingface.co/a/b/discussions/3", "is no repository", "`llmrun chat a/b`"),
        ("https://huggingface.co/datasets/a/b", "the Hub has its datasets there", "`llmrun search"),
        ("https://huggingface.co/", "'' is no repository", "owner/repo"),
        ("https://example.org/a/b.gguf", "example.org is not the Hugging Face Hub", "./FILE.gguf"),
        ("https://huggingface.co.example.org/a/b", "is not the Hugging Face Hub", "./FILE.gguf"),
        ("https://huggingface.co:99999/a/b", "cannot be read", "owner/repo"),
        ("https://[::1/a/b", "cannot be read", "owner/repo"),
        ("https:///a/b", "cannot be read", "owner/repo"),
        ("ftp://huggingface.co/a/b", "begins with https://, not with ftp://", "owner/repo"),
        ("ollama:", "is followed by a model's name there, not by ''", "ollama:NAME"),
        ("lmstudio:../x", "is followed by a model's name there", "lmstudio:NAME"),
    ],
)
def test_anything_else_is_refused_with_what_to_type(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "https://me:s3cret@huggingface.co/a/b",
        "https://s3cret@evil.example/a",
        "ftp://s3cret@x/",
        "http://s3cret@[",
        "me:s3cret@hf.co/a/b",
        "hf:https://s3cret@hf.co/a/b",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


WORD = st.from_regex(r"[A-Za-z0-9]{1,12}", fullmatch=True)
REPOS = st.builds("of-{}/{}".format, WORD, WORD)  # no page of the Hub begins like this
REVISIONS = st.one_of(st.none(), WORD, st.just("refs/pr/3"), st.just(COMMIT), st.just("v1.0-rc+1"))
QUANTS = st.one_of(st.none(), st.sampled_from(["Q4_K_M", "UD-Q4_K_XL", "F16", "3.7bpw"]), WORD).filter(
    lambda quant: quant is None or (quant.lower() != "latest" and parse_label(quant) in (None, quant))
)
FILES = st.from_regex(r"([A-Za-z0-9_]{4,9}/)?[A-Za-z0-9_@. -]{0,9}[A-Za-z0-9_]{4}\.gguf", fullmatch=True).filter(
    lambda path: why_unsafe(path) is None
)
NAMES = st.from_regex(r"[a-z0-9]{1,5}(-[a-z]{1,5})?(:[a-z0-9]{1,4})?", fullmatch=True)


def _is_sayable(ref: NameRef) -> bool:
    """Behind a name without a size only a label is a quantization: `qwen3:8b` is a size; no size is a label."""
    family, _, size = ref.name.partition(":")
    label = ref.quant and parse_label(ref.quant)
    return family != GUIDE and not parse_label(size) and bool(size or ref.quant is None or label)


REFERENCES = st.one_of(
    st.sampled_from((None, *GUIDE_QUANTS)).map(GuideRef),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(
        lambda text: LocalRef(Path(text))
    ),
    st.builds(HubRef, REPOS, REVISIONS, QUANTS),
    st.builds(HubRef, REPOS, REVISIONS, st.none(), FILES),
    st.builds(NameRef, NAMES, QUANTS).filter(_is_sayable),
    st.builds(ShelfRef, st.sampled_from(["ollama", "lmstudio"]), st.builds("{}/{}:{}".format, WORD, WORD, WORD)),
)


@given(REFERENCES)
def test_a_reference_parses_back_to_itself(reference: ModelRef) -> None:
    assert parse_reference(format_reference(reference)) == reference


@given(st.text() | st.text("ab/:@.%~\\ ") | st.text("ab/:@.%?#[]").map("https://huggingface.co/{}".format))
def test_every_text_is_a_reference_or_refused_with_a_hint(text: str) -> None:
    """And what was read is written so that it is read again."""
    with contextlib.suppress(UsageError):
        reference = parse_reference(text)
        assert parse_reference(format_reference(reference)) == reference


@pytest.mark.parametrize("text", ["acme/x-GGUF/", " acme/x-GGUF ", '"acme/x-GGUF"', "'acme/x-GGUF'", "acme/x-GGUF\n"])
def test_what_comes_along_when_a_name_is_copied_is_passed_over(text: str) -> None:
    assert parse_reference(text) == HubRef("acme/x-GGUF")
