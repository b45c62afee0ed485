"""One file as servers have it: where its bytes are at the moment, and the bytes from any position on.

The Hub says what the file is and sends on to another server, which has the bytes and is given no token. The address it
sends to is signed, and serves for about an hour.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from llmrun.hub.address import file_url, host_of, is_address, is_same_origin
from llmrun.hub.answer import LATER, asked_wait, bytes_to_skip, is_web_page
from llmrun.hub.checksum import Checksum, parse_checksum
from llmrun.hub.client import Hub
from llmrun.hub.failure import Asked, contradicted, refused, web_page
from llmrun.hub.setback import SetbackError, setbacks
from llmrun.hub.waiting import answered
from llmrun.variant import ModelFile, RemoteFile

if TYPE_CHECKING:
    import httpx2

_MAX_HOPS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Location:
    """Where the bytes of a file are, for some time; checksum, size: as the Hub says, None where it does not."""

    url: str
    checksum: Checksum | None
    size: int | None


class Source:
    """The bytes of a file of the Hub, from any position on; changes where it has to be found anew.

    slow: told the host that takes long to answer.
    """

    def __init__(self, hub: Hub, file: ModelFile, slow: Callable[[str], None] = lambda _: None) -> None:
        assert isinstance(file.origin, RemoteFile), "it is here already"
        self._hub = hub
        self._remote = file.origin
        self._size = file.size
        self._checksum = Checksum("sha256", file.sha256) if file.sha256 else None
        self._slow = slow
        self._location: Location | None = None
        self._takes_ranges = True
        self._asked = Asked(hub.endpoint, self._remote.repo_id, self._remote.path, hub.token is not None)

    @property
    def host(self) -> str:
        """Who has it, as people are told: the Hub, until that has said where it is."""
        return host_of(self._hub.endpoint if self._location is None else self._location.url)

    def location(self) -> Location:
        """Return where the file is, asking the Hub where that is not known.

        Raises SetbackError, or what will not pass: GatedError, NotFoundError, ChecksumError for a Hub that contradicts
        itself.
        """
        if self._location is None:
            self._location = self._agreed(self._ask_hub())
        return self._location

    def forget(self) -> None:
        """Have it found anew: its address no longer serves."""
        self._location = None

    @contextlib.contextmanager
    def opened(self, start: int, end: int | None = None) -> Iterator[Iterator[bytes]]:
        """Give the bytes from start to before end as they come, None is the file's end.

        Raises SetbackError where they do not come, or are not the file's.
        """
        url = self.location().url
        with setbacks(host_of(url)), contextlib.closing(self._send("GET", url, start, end)) as answer:
            skipped = self._checked(answer, start)
            yield _after(answer.iter_raw(), skipped)

    def _send(self, method: str, url: str, start: int = 0, end: int | None = None) -> httpx2.Response:
        request = self._hub.request(method, url, *((start, end) if self._takes_ranges else (0, None)))
        return answered(
            lambda: self._hub.session.send(request, stream=True, follow_redirects=method == "GET"),
            host_of(url),
            slow=self._slow,
            seconds=self._hub.answer_seconds,
        )

    def _checked(self, answer: httpx2.Response, start: int) -> int:
        """Return how many bytes to pass over before those that were asked for."""
        host, status = host_of(str(answer.url)), answer.status_code
        if status == 416:
            self._takes_ranges = False  # what is here is kept, and the rest comes after it
        if status in LATER:
            raise SetbackError(f"{host} answered {status}", asked_wait(answer.headers, datetime.now(UTC)))
        if status not in (200, 206):  # a used-up signature, mostly: another can be had at once
            raise SetbackError(f"{host} refused the bytes from {start:,} on ({status})", wait=0.0)
        return bytes_to_skip(status, answer.headers, start, self._size, host)

    def _ask_hub(self) -> Location:
        """Follow the Hub until it sends elsewhere, or has the bytes itself."""
        url = file_url(self._hub.endpoint, self._remote)
        checksum, size = None, None
        for _ in range(_MAX_HOPS):
            with setbacks(host_of(url)), contextlib.closing(self._send("HEAD", url)) as answer:
                self._check_hub(answer)
                checksum = checksum or parse_checksum(_tag(answer.headers.get("x-linked-etag", "")))
                size = size or _size(answer.headers.get("x-linked-size", ""))
                if answer.status_code not in _REDIRECTS:
                    return Location(url, checksum or _git_checksum(answer), size)
                url = _led_to(url, answer.headers.get("location", ""))
            if not is_same_origin(url, self._hub.endpoint):
                return Location(url, checksum, size)
        raise SetbackError(f"{host_of(url)} sends from one address to the next")

    def _check_hub(self, answer: httpx2.Response) -> None:
        status, headers = answer.status_code, answer.headers
        if status in LATER:
            wait = asked_wait(headers, datetime.now(UTC))
            raise SetbackError(f"{host_of(self._hub.endpoint)} answered {status}", wait)
        if status >= 400:
            raise refused(status, headers, self._asked)
        if is_web_page(headers) and status not in _REDIRECTS:
            raise web_page(host_of(self._hub.endpoint), self._asked.what)

    def _agreed(self, location: Location) -> Location:
        """Return a location if what the Hub says there is what its list of files says."""
        said = location.checksum
        if self._checksum is not None and said is not None and said != self._checksum:
            raise contradicted(self._asked.what, f"{_short(self._checksum)}", f"{_short(said)}")
        if location.size not in (None, self._size):
            raise contradicted(self._asked.what, f"{self._size:,} bytes", f"{location.size:,} bytes")
        return location


def _led_to(url: str, location: str) -> str:
    """Return where an answer sends to, which is not told to people: it may be signed."""
    with contextlib.suppress(ValueError):
        if is_address(found := urljoin(url, location)):
            return found
    raise SetbackError(f"{host_of(url)} sends on to what is no address")


def _after(pieces: Iterator[bytes], skipped: int) -> Iterator[bytes]:
    """Yield what comes after the first bytes."""
    for piece in pieces:
        if skipped >= len(piece):
            skipped -= len(piece)
            continue
        yield piece[skipped:]
        skipped = 0


def _tag(header: str) -> str:
    return header.removeprefix("W/").strip('"')


def _size(header: str) -> int | None:
    return int(header) if header.isascii() and header.isdigit() and len(header) < 19 else None


def _git_checksum(answer: httpx2.Response) -> Checksum | None:
    """Return what the Hub calls a small file, which it has itself; a sha256 here would be another server's own name."""
    found = parse_checksum(_tag(answer.headers.get("etag", "")))
    return found if found is not None and found.kind == "git" else None


def _short(checksum: Checksum) -> str:
    return f"{checksum.kind} {checksum.value[:12]}…"
