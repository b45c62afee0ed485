"""What a server says before the bytes: whether they are the file's, from where on, or when to come back.

Pure: nothing is asked and nothing read here. Headers have small letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from llmrun.hub.setback import SetbackError

LATER = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be gone at the next try

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:([0-9]{1,18})|\*)")
# e.g. "resolvers";r=0;t=55: nothing remains, and 55 seconds until there is more
_RATE_LIMIT = re.compile(r"r\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,9})(?![0-9])")


def bytes_to_skip(status: int, headers: Mapping[str, str], start: int, size: int, host: str) -> int:
    """Return how many bytes that are here already an answer of 200 or 206 begins with.

    start: from where on was asked. size: of the file. host: who answered. Raises SetbackError where what follows is not
    the file, before any of it is written.
    """
    if is_web_page(headers):
        raise SetbackError(f"{host} sent a web page in place of the file: a login page, or a proxy's")
    if headers.get("content-encoding", "identity") != "identity":
        raise SetbackError(f"{host} sent the file packed as {headers['content-encoding'][:20]!r}")
    if status == 206:
        return _range_to_skip(headers.get("content-range", ""), start, size, host)
    length = headers.get("content-length")
    if length is not None and length != str(size):
        raise _other_size(host, length, size)
    return start


def _range_to_skip(content_range: str, start: int, size: int, host: str) -> int:
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) > start:
        raise SetbackError(f"{host} sent {content_range[:60]!r} when asked for the bytes from {start:,} on")
    if match[2] not in (None, str(size)):
        raise _other_size(host, match[2], size)
    return start - int(match[1])


def _other_size(host: str, told: str, size: int) -> SetbackError:
    length = f"{int(told):,}" if re.fullmatch("[0-9]{1,18}", told) else repr(told[:20])
    return SetbackError(f"{host} offers {length} bytes, and the file has {size:,}")


def is_web_page(headers: Mapping[str, str]) -> bool:
    """Return whether what follows is a page for people: no model is one."""
    return "text/html" in headers.get("content-type", "").lower()


def asked_wait(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds a server asks to be left alone, None where it does not say."""
    after = headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]{1,9}", after):
        return float(after)
    if limit := _RATE_LIMIT.search(headers.get("ratelimit", "")):
        return float(limit[1])
    try:
        until = parsedate_to_datetime(after)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
