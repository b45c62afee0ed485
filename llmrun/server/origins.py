"""Which pages in a browser may ask this server, and by which names it may be asked. Pure.

A page of any site can send requests to an address of this machine. Three things give it away, and a page can set none:
Host is the name that the browser was sent to (a foreign one that was made to resolve to this machine: DNS rebinding),
Origin is the page's own site, and Sec-Fetch-Site says how the two are related where no Origin is sent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmrun.errors import MisdirectedError, RefusedError, UsageError

# RFC 9110, 7.2: uri-host [":" port]; of names only what DNS and hosts files have
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]{0,252}))(?::([0-9]{1,5}))?")
_LONGEST_TOLD = 100  # characters of a name in a hint
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")


@dataclass(frozen=True, slots=True)
class Doors:
    """hosts: names, beside this machine's own, that the server may be asked by. origins: sites whose pages may ask."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()


def parse_host(text: str) -> str:
    """Return a name for --allow-host; raises UsageError for what is none."""
    host = text.strip().lower().rstrip(".")
    found = _HOST.fullmatch(f"[{host}]" if ":" in host and not host.startswith("[") else host)
    if found is None or found[2]:
        raise UsageError(f"{text!r} is no host's name", "write it without http:// and port, as in llm.example.org")
    return found[1].strip("[]")


def parse_origin(text: str) -> str:
    """Return a site for --allow-origin; raises UsageError for what is none."""
    origin = text.strip().lower().rstrip("/")
    if not _ORIGIN.fullmatch(origin) or "*" in origin:
        raise UsageError(
            f"{text!r} is no site whose pages could ask", "name each as its address bar does: https://app.example.org"
        )
    scheme, _, rest = origin.partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme)  # browsers leave it out
    return origin.removesuffix(default) if default and rest.endswith(default) else origin


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is this machine's own, seen by nobody else."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_host(header: str | None, doors: Doors, local: str | None) -> None:
    """Raise MisdirectedError where a request's Host is none of this server's names.

    local: the address of this machine that the connection came to, which may be what a client typed.
    """
    found = _HOST.fullmatch((header or "").strip().lower())
    host = found[1].strip("[]").rstrip(".") if found else None
    if host is not None and (is_loopback(host) or host in doors.hosts or (local is not None and host == local.lower())):
        return
    said = "no Host" if header is None else f"Host {header[:100]!r}"
    where = local if local and not is_loopback(local) else "localhost"
    name = host if host is not None and len(host) <= _LONGEST_TOLD else "NAME"
    raise MisdirectedError(
        f"this server does not answer to {said}", f"ask it at {where}, or start it with --allow-host {name}"
    )


def check_origin(method: str, headers: Mapping[str, str], doors: Doors) -> str | None:
    """Return the foreign site that may ask, None where none is involved; raises RefusedError for all other sites."""
    origin = headers.get("origin")
    if origin is None:
        _check_relation(method, headers)
        return None
    if origin.lower() == f"http://{headers.get('host', '').lower()}":
        return None
    if origin.lower() in doors.origins:
        return origin
    raise RefusedError(
        f"pages of {origin[:100]!r} may not ask this server", "if they should: llmrun serve --allow-origin URL"
    )


def _check_relation(method: str, headers: Mapping[str, str]) -> None:
    """Refuse what another site's page loads as an image, a script or a frame; a link to us may be followed."""
    if headers.get("sec-fetch-site") not in ("cross-site", "same-site"):
        return
    follows_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if method not in ("GET", "HEAD") or not follows_link:
        raise RefusedError(
            "pages of other sites may not ask this server", "if they should: llmrun serve --allow-origin URL"
        )
