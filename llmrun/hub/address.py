"""Addresses of servers, as far as it matters who is behind them. Pure."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from llmrun.variant import RemoteFile

_PORTS = {"http": 80, "https": 443}


def host_of(url: str) -> str:
    """Return who an address belongs to, as people are told: never what is in it, for it may be signed."""
    parts = urlsplit(url)
    name = parts.hostname or "?"
    return name if parts.port in (None, _PORTS.get(parts.scheme)) else f"{name}:{parts.port}"


def is_same_origin(url: str, other: str) -> bool:
    """Return whether two addresses are of one server: scheme, host and port."""
    return _origin(url) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def file_url(endpoint: str, file: RemoteFile) -> str:
    """Return where the Hub says what a file is, and where its bytes are."""
    return f"{endpoint}/{file.repo_id}/resolve/{file.commit}/{quote(file.path)}"
