"""Where this llmrun was installed from, as pip can find it again. Pure.

Source: PEP 610, "Recording the Direct URL Origin of installed distributions".
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit, urlunsplit


def requirement_of(version: str, direct_url: str | None) -> str | None:
    """Return what pip installs the same from; None where it was a folder or a file of this machine.

    direct_url: the text of direct_url.json, None where it came from an index. No password stays in an address.
    """
    if direct_url is None:
        return f"llmrun=={version}"
    origin = json.loads(direct_url)
    url = _without_password(str(origin["url"]))
    if urlsplit(url).scheme not in ("http", "https", "ssh"):
        return None
    if vcs := origin.get("vcs_info"):
        return f"llmrun @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f"llmrun @ {url}"


def wheel_name(version: str) -> str:
    """Return the name of the wheel that `pip wheel` makes of llmrun."""
    return f"llmrun-{version}-py3-none-any.whl"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    name = parts.username if parts.scheme == "ssh" else None
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{name}@{host}" if name else host))
