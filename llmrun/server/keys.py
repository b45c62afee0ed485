"""The keys of a server: whose they are, and whether what a client sends is one of them.

Only hashes stay in memory. A comparison takes the same time whatever is wrong with a key, and however many there are.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import UsageError
from llmrun.secret_file import read_secret

_MAX_KEY = 512  # characters
SHORT = 16  # characters: a key of fewer could be guessed
_DEFAULT_NAME = "key"
_HOW = "write `name: key` into a file of mode 600, one a line"


@dataclass(frozen=True, slots=True)
class Key:
    """A key's name, which is told in logs and keeps its owner's prompts from others, and the SHA-256 of the key.

    is_short: whether it could be guessed.
    """

    name: str
    digest: bytes
    is_short: bool = False


class Keys:
    """The keys that a server takes."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def owner_of(self, text: str) -> str | None:
        """Return the name of the key that a client sent, None where it is none of ours."""
        digest = _digest(text)
        found: str | None = None
        for key in self._keys:  # all of them, so that time tells nothing
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        return found


def make_key() -> str:
    """Return a new key of 256 random bits."""
    return f"llmrun-{secrets.token_urlsafe(32)}"


def parse_key(text: str, name: str = _DEFAULT_NAME) -> Key:
    """Return a key as it was given; raises UsageError for what no client could send."""
    key = text.strip()
    if not key:
        which = "the API key is empty" if name == _DEFAULT_NAME else f"the API key of {name!r} is empty"
        raise UsageError(which, "`--api-key new` makes one")
    if len(key) > _MAX_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"the API key {name!r} is none: 1 to {_MAX_KEY} visible ASCII characters without a blank",
            "`--api-key new` makes one",
        )
    return Key(name, _digest(key), len(key) < SHORT)


def parse_keys(text: str) -> tuple[Key, ...]:
    """Return the keys of a file: one a line as `name: key`; # begins a comment. Raises UsageError with the line."""
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, key = line.partition(":")
        name = name.strip()
        if not colon or not name.isprintable() or not name:
            raise UsageError(f"line {number} of the API keys is not `name: key`", "one key a line, as in `anna: …`")
        if name in keys:
            raise UsageError(f"line {number} of the API keys names {name!r} again", "every key has a name of its own")
        keys[name] = parse_key(key, name)
    if not keys:
        raise UsageError("the file of API keys has none in it", "write `name: key` into it, one a line")
    if len({key.digest for key in keys.values()}) < len(keys):
        raise UsageError("two names have the same API key", "`llmrun serve --api-key new` shows what one looks like")
    return tuple(keys.values())


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file that only its owner can read; raises UsageError for any other."""
    data = read_secret(path, "API keys", _HOW)
    try:
        return parse_keys(data.decode())
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no file of API keys: it is not text in UTF-8", _HOW) from error


def _digest(text: str) -> bytes:
    # surrogates come from headers that are no text, and are part of no key
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
