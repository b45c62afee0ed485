"""What the user typed for MODEL: the grammar, and nothing of whether it exists.

    guide[:Q]                                        the embedded model
    NAME[:Q]  family:size[:Q]  family:size-q4_K_M    a short name
    owner/repo[:Q | :file.gguf][@revision]           a repository of the Hub; also hf:…, hf.co/…, huggingface.co/…
    https://huggingface.co/owner/repo[/tree/revision[/folder] | /blob/revision/file | /resolve/revision/file]
    ollama:NAME  lmstudio:NAME                       a model in another program's folder
    ./path  /path  ~/path  C:\\path  any.gguf        a file or folder of this machine

A path iff it starts with `/`, `./`, `../`, `~` or a drive letter, or ends in `.gguf` with no `owner/repo:` before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from llmrun.errors import UsageError
from llmrun.quant import find_label, parse_label
from llmrun.repo_path import why_unsafe

GUIDE = "guide"
GUIDE_QUANTS = ("Q8_0", "F16", "Q4_K_M")  # the first is the default: nothing lost, and the fastest to load

Shelf = Literal["ollama", "lmstudio"]

_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"})
_PORTS = {"http": 80, "https": 443}

_PATH_START = re.compile(r"/|\./|\.\./|~|[A-Za-z]:[\\/]|\.\.?\\|\\\\")
_BARE_HUB = re.compile(r"(?:www\.)?(?:hf\.co|huggingface\.co)/", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PASSWORD = re.compile(r"[^/]*@(?:www\.)?(?:hf\.co|huggingface\.co)/", re.IGNORECASE)
_HF = re.compile(r"hf:(?://)?", re.IGNORECASE)  # hf:// is how the Hub's own library writes it
_SHELF = re.compile(r"(ollama|lmstudio):", re.IGNORECASE)
# The Hub's rules (huggingface_hub's validate_repo_id): 1 to 96 letters, digits, `-`, `_`, `.`; no `--` and no `..`
_REPO_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_REPO_PART}/{_REPO_PART}")
_REPO_START = re.compile(rf"({_REPO_PART}/{_REPO_PART})(?=[:@]|$)")
_REPO_FILE = re.compile(rf"({_REPO_PART}/{_REPO_PART})(?=/.+\.gguf(?:@|$))", re.IGNORECASE)
_MAX_REPO_ID = 96
_NO_MODELS = frozenset({"api", "blog", "collections", "datasets", "docs", "models", "papers", "spaces"})
# What Git allows in a branch's name, as far as anybody uses it (git help check-ref-format)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?(?::[a-z0-9][a-z0-9._-]*)?")
_SHELF_NAME = re.compile(r"[A-Za-z0-9_][^\s\x00-\x1f\x7f-\x9f\\]*")

_PAGES = {"tree": "folder", "blob": "file", "resolve": "file", "raw": "file"}
_OTHER_PAGES = frozenset({"commit", "commits", "community", "discussions", "edit", "settings"})

_PASTED = " \t\r\n\"'"  # what comes along where a name is copied from a text

_FORMS = f"`{GUIDE}` is the embedded model, `owner/repo` one of the Hub, ./FILE.gguf a file"


@dataclass(frozen=True, slots=True)
class LocalRef:
    """A file or folder on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class GuideRef:
    """The embedded model, in one of its quantizations; None leaves it to the planner."""

    quant: str | None = None


@dataclass(frozen=True, slots=True)
class HubRef:
    """A repository of the Hub; what is None is left open.

    quant: a label as it is written here, or what else tells one file from another. filename: the path of a file in the
    repository, of a split model any part; there is never both.
    """

    repo_id: str
    revision: str | None = None
    quant: str | None = None
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class NameRef:
    """A short name, in lower case, with a quantization or None; whether anybody knows it is for the catalog to say.

    typed: the name as it was typed, where it was.
    """

    name: str
    quant: str | None = None
    typed: str | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ShelfRef:
    """A model in the folder of another program, by the name it has there."""

    shelf: Shelf
    name: str


ModelRef = LocalRef | GuideRef | HubRef | NameRef | ShelfRef


def parse_reference(text: str, endpoint: str | None = None) -> ModelRef:
    """Read what was typed for MODEL; raises UsageError for what is no reference.

    endpoint: the address of the Hub where it is not the usual one, whose addresses are then understood too.
    """
    if not text.strip():
        raise UsageError("MODEL is empty", _FORMS)
    if not _is_path(text):
        text = text.strip(_PASTED).removesuffix("/") or text
    if match := _SHELF.match(text):
        return _parse_shelf(match[1], text[match.end() :])
    if match := _HF.match(text):
        rest = text[match.end() :]
        return _parse_address(rest, endpoint) if _SCHEME.match(rest) else _parse_repo(rest)
    if _SCHEME.match(text):
        return _parse_address(text, endpoint)
    if _BARE_HUB.match(text) or _PASSWORD.match(text):
        return _parse_address(f"https://{text}", endpoint)
    if _is_path(text):
        return LocalRef(Path(text))
    return _parse_repo(text) if "/" in text and " " not in text.split("/")[0] else _parse_name(text)


def format_reference(ref: ModelRef) -> str:
    """Write a reference so that it parses back to itself."""
    match ref:
        case LocalRef(path):
            return str(path) if _is_path(str(path)) else f"./{path}"
        case GuideRef(quant):
            return GUIDE if quant is None else f"{GUIDE}:{quant}"
        case NameRef(name, quant):
            return name if quant is None else f"{name}:{quant}"
        case ShelfRef(shelf, name):
            return f"{shelf}:{name}"
        case HubRef(repo_id, revision, quant, filename):
            wanted = quant or filename
            return repo_id + (f":{wanted}" if wanted else "") + (f"@{revision}" if revision else "")


def hub_spelling(path: Path) -> str | None:
    """Return how a file of the Hub is written, for a path that looks like an owner, a repository and a file."""
    match = _REPO_FILE.match(path.as_posix())
    return f"{match[1]}:{path.as_posix()[match.end(1) + 1 :]}" if match else None


def _is_path(text: str) -> bool:
    if any(start.match(text) for start in (_SCHEME, _SHELF, _BARE_HUB, _PASSWORD, _HF)):
        return False
    return bool(_PATH_START.match(text)) or (text.lower().endswith(".gguf") and not _REPO_START.match(text))


def _parse_shelf(shelf: str, name: str) -> ShelfRef:
    if not _SHELF_NAME.fullmatch(name) or ".." in name.split("/"):
        raise UsageError(f"{shelf.lower()}: is followed by a model's name there, not by {name!r}", f"{shelf}:NAME")
    return ShelfRef("ollama" if shelf.lower() == "ollama" else "lmstudio", name)


def _parse_name(text: str) -> NameRef | GuideRef:
    name, quant = _split_name(text)
    if name == GUIDE:
        return _parse_guide(quant)
    if not _NAME.fullmatch(name):
        raise UsageError(f"{text!r} is written like no short name, no repository and no path", _hint(text))
    if quant is None or quant.lower() == "latest":
        return NameRef(name, typed=text[: len(name)])
    return NameRef(name, _parse_quant(text, quant), text[: len(name)])


def _split_name(text: str) -> tuple[str, str | None]:
    """Return the name in lower case and the quantization behind it: a label after a colon, or at the end of a size."""
    name, *tags = text.split(":")
    name = name.lower()
    if not tags:
        return name, None
    if len(tags) > 1:
        return f"{name}:{tags[0].lower()}", ":".join(tags[1:])
    (tag,) = tags
    if name == GUIDE or parse_label(tag) or tag.lower() == "latest":
        return name, tag
    found = find_label(tag)
    if found and found.end == len(tag) and tag[found.start - 1] == "-":
        return f"{name}:{tag[: found.start - 1].lower()}", found.label
    return f"{name}:{tag.lower()}", None


def _parse_guide(quant: str | None) -> GuideRef:
    if quant is None:
        return GuideRef()
    label = parse_label(quant)
    if label not in GUIDE_QUANTS:
        raise UsageError(
            f"{GUIDE} has no quantization {quant!r}; it has {', '.join(GUIDE_QUANTS)}",
            f"`{GUIDE}` alone is {GUIDE_QUANTS[0]}",
        )
    return GuideRef(label)


def _parse_repo(text: str) -> HubRef:
    """Read `owner/repo` and what may follow it; a file may also follow a slash."""
    match = _REPO_START.match(text) or _REPO_FILE.match(text)
    if match is None:
        _check_owner(text)
        raise UsageError(f"{text!r} is no repository of the Hub: that is an owner, a slash and a name", _hint(text))
    repo_id, rest = match[1], text[match.end(1) :]
    _check_repo(repo_id)
    wanted, revision = _split_tag(rest)
    if rest and (wanted == "" or revision == ""):
        raise UsageError(f"{text!r} ends where a quantization or a revision should follow", _see(repo_id))
    return _hub_ref(repo_id, unquote(revision) if revision else None, wanted)


def _split_tag(rest: str) -> tuple[str | None, str | None]:
    """Return what is wanted and the revision, from what stands behind a repository: `:Q@revision` or `@revision:Q`.

    What ends in `.gguf` is a file, an `@` in its name with it.
    """
    if not rest:
        return None, None
    if rest[0] == "@":
        revision, colon, wanted = rest[1:].partition(":")
        return (wanted if colon else None), revision
    wanted, at, revision = rest[1:].rpartition("@")
    if not at or rest.lower().endswith(".gguf"):
        return rest[1:], None
    return wanted, revision


def _hub_ref(repo_id: str, revision: str | None, wanted: str | None) -> HubRef:
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise UsageError(f"{revision!r} is no revision: a branch, a tag or a commit", _see(repo_id))
    if wanted is None or wanted.lower() == "latest":
        return HubRef(repo_id, revision)
    if "/" in wanted or wanted.lower().endswith(".gguf"):
        return HubRef(repo_id, revision, filename=_parse_filename(repo_id, wanted))
    return HubRef(repo_id, revision, quant=_parse_quant(f"{repo_id}:{wanted}", wanted))


def _parse_quant(text: str, quant: str) -> str:
    if not _QUANT.fullmatch(quant):
        raise UsageError(f"{quant!r} in {text!r} is no quantization, which is written like Q4_K_M", _hint(text))
    return parse_label(quant) or quant


def _parse_filename(repo_id: str, path: str) -> str:
    if reason := why_unsafe(path):
        raise UsageError(f"{path!r} {reason}", _see(repo_id))
    if not path.lower().endswith(".gguf"):
        raise UsageError(f"{path!r} is no GGUF file: its name would end in .gguf", _see(repo_id))
    return path


def _check_repo(repo_id: str) -> None:
    """Raise UsageError where the Hub would not take the name of a repository."""
    _check_owner(repo_id)
    if len(repo_id) > _MAX_REPO_ID:
        raise UsageError(f"a repository's name has {_MAX_REPO_ID} characters at most, this has {len(repo_id)}", _FORMS)
    if "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        raise UsageError(
            f"{repo_id} is no repository of the Hub: no name there has `--` or `..` in it, or ends in .git",
            "give owner/repo as the model's page shows it",
        )


def _check_owner(text: str) -> None:
    owner = text.split("/")[0]
    if owner in _NO_MODELS:
        raise UsageError(f"{text!r} is no model: the Hub has its {owner} there", "`llmrun search WORDS` finds models")


def _parse_address(text: str, endpoint: str | None) -> HubRef:
    parts = _hub_path(_split_address(text), endpoint).strip("/").split("/")
    if len(parts) > 2 and parts[2] in _PAGES and not re.search("[:@]", parts[1]):
        return _parse_page([unquote(part) for part in parts])
    return _parse_repo(unquote("/".join(parts)))


def _parse_page(parts: list[str]) -> HubRef:
    """Read a page below a repository; the address of a folder stands for the quantization it holds."""
    repo_id, page, rest = "/".join(parts[:2]), parts[2], parts[3:]
    if not _REPO.fullmatch(repo_id):
        raise UsageError(f"{repo_id!r} is no repository of the Hub", _FORMS)
    _check_repo(repo_id)
    length = 3 if rest[:1] == ["refs"] else 1  # refs/pr/3 is one revision
    revision, path = "/".join(rest[:length]), rest[length:]
    if _PAGES[page] == "folder":
        return _hub_ref(repo_id, revision or None, path[-1] if path else None)
    return replace(_hub_ref(repo_id, revision, None), filename=_parse_filename(repo_id, "/".join(path)))


def _split_address(text: str) -> SplitResult:
    """Return the parts of an address; no error repeats it: a password or a signature may be in it."""
    try:
        url = urlsplit(text)
        is_read = bool(url.hostname) and text.isprintable() and url.port != 0
    except ValueError:  # brackets that do not close, a port that is none
        is_read = False
    if not is_read:
        raise UsageError("the address cannot be read: its host or its port is none", _FORMS)
    if url.scheme not in _PORTS:
        raise UsageError(f"an address begins with https://, not with {url.scheme}://", _FORMS)
    if "@" in url.netloc:
        raise UsageError(
            "the address has a user name or a password in it, and addresses end up in histories and logs",
            "set HF_TOKEN, or run `hf auth login`, and give the address without it",
        )
    return url


def _hub_path(url: SplitResult, endpoint: str | None) -> str:
    """Return the path an address has on the Hub; raises UsageError for any other host."""
    if url.hostname in _HUB_HOSTS and url.port in (None, 80, 443):
        return url.path
    if endpoint is not None:
        own = urlsplit(endpoint)
        prefix = own.path.rstrip("/") + "/"
        if _origin(url) == _origin(own) and f"{url.path}/".startswith(prefix):
            return url.path[len(prefix) :]
    raise UsageError(
        f"{url.hostname} is not the Hugging Face Hub: only there the size and the checksum of a file are known before "
        "it is fetched",
        "download the .gguf file, and give its path: `llmrun chat ./FILE.gguf`; for a mirror set HF_ENDPOINT",
    )


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or _PORTS.get(url.scheme)


def _see(repo_id: str) -> str:
    return f"`llmrun show {repo_id}` lists what there is"


def _hint(text: str) -> str:
    """Return what to type in the place of a text, by the likeliest slip."""
    words = text.split()
    if len(words) > 1:
        return f'the model comes first: `llmrun run {GUIDE} "{" ".join(words)}"`'
    parts = text.split("/")
    if len(parts) > 2 and parts[2] in _OTHER_PAGES:
        return f"for the model itself: `llmrun chat {parts[0]}/{parts[1]}`"
    if len(parts) > 2 and _REPO.fullmatch("/".join(parts[:2])):
        return f"a file or quantization is written behind a colon: `{parts[0]}/{parts[1]}:{parts[-1]}`"
    return _FORMS
