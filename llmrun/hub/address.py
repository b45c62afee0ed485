"""Addresses of servers, as far as it matters who is behind them. Pure."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from llmrun.variant import RemoteFile

_PORTS = {"http": 80, "https": 443}
_LONGEST_NAME, _LONGEST_LABEL = 253, 63  # characters of a host (RFC 1035, 2.3.4)


def host_of(url: str) -> str:
    """Return who an address belongs to, as people are told: never what is in it, for it may be signed."""
    try:
        parts = urlsplit(url)
        name = parts.hostname or "?"
        return name if parts.port in (None, _PORTS.get(parts.scheme)) else f"{name}:{parts.port}"
    except ValueError:
        return "?"


def shown_address(url: str) -> str:
    """Return an address as people may see it: without the name and the password that may stand in it."""
    scheme, separator, rest = url.rpartition("://")
    server, slash, path = rest.partition("/")
    return f"{scheme}{separator}{server.rpartition('@')[2]}{slash}{path}"


def is_same_origin(url: str, other: str) -> bool:
    """Return whether two addresses are of one server: scheme, host and port."""
    origin = _origin(url)
    return origin is not None and origin == _origin(other)


def is_address(url: str) -> bool:
    """Return whether a server can be asked at this address."""
    origin = _origin(url)
    if origin is None or origin[0] not in _PORTS or not url.isascii() or not url.isprintable() or " " in url:
        return False
    name = origin[1] or ""
    return 0 < len(name) <= _LONGEST_NAME and all(len(label) <= _LONGEST_LABEL for label in name.split("."))


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None


def file_url(endpoint: str, file: RemoteFile) -> str:
    """Return where the Hub says what a file is, and where its bytes are."""
    return f"{endpoint}/{file.repo_id}/resolve/{file.commit}/{quote(file.path)}"
