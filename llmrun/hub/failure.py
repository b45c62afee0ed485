"""What went wrong with the Hub, as people are told. Pure: no request is made, no client imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from llmrun.errors import ChecksumError, GatedError, HubError, LLMRunError, NotFoundError, UnreachableError
from llmrun.hub.address import host_of, shown_address
from llmrun.hub.answer import asked_wait
from llmrun.hub.retries import MAX_ASKED_WAIT
from llmrun.hub.setback import SetbackError
from llmrun.units import format_bytes, format_seconds

_NO_MIRROR = "try again later; where HF_ENDPOINT names a mirror, unset it"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the Hub was asked for. endpoint: its address. path: of a file, None is the repository itself."""

    endpoint: str
    repo_id: str
    path: str | None = None
    has_token: bool = False

    @property
    def what(self) -> str:
        """As people are told."""
        return self.repo_id if self.path is None else f"{self.path} of {self.repo_id}"

    @property
    def page(self) -> str:
        """The repository's page."""
        return f"{shown_address(self.endpoint)}/{self.repo_id}"


def refused(status: int, headers: Mapping[str, str], asked: Asked) -> LLMRunError:
    """Return what a status of 4xx or 5xx means; headers: with small letters."""
    code = headers.get("x-error-code", "")
    if code == "GatedRepo":
        return _gated(asked)
    if status == 401 and "Invalid credentials" in headers.get("x-error-message", ""):
        return HubError(
            f"{host_of(asked.endpoint)} does not know the token that was sent along",
            "set HF_TOKEN to a valid one or run `hf auth login`; public models need none: unset HF_TOKEN",
        )
    if code == "RevisionNotFound":
        return NotFoundError(f"{asked.repo_id} has no such revision", f"see {asked.page}/commits/main")
    if code == "EntryNotFound":
        return NotFoundError(f"{asked.repo_id} has no file {asked.path or 'of that name'}", f"see {asked.page}")
    if code == "RepoNotFound" or status in (401, 404):
        return _not_found(asked)
    if status == 429:
        return _too_often(asked, asked_wait(headers, datetime.now(UTC)))
    if status == 403:
        return GatedError(f"{host_of(asked.endpoint)} does not give {asked.what} to us (403)", f"see {asked.page}")
    return HubError(f"{host_of(asked.endpoint)} answered {status} when asked for {asked.what}", "try again later")


def _gated(asked: Asked) -> GatedError:
    if asked.has_token:
        message = f"{asked.repo_id} is gated: its owner has not given it to the owner of this token"
        return GatedError(message, f"ask for it at {asked.page}")
    message = f"{asked.repo_id} is gated: its owner gives it to those who ask, and no token says who asks"
    return GatedError(message, f"ask for it at {asked.page}, then set HF_TOKEN or run `hf auth login`")


def _not_found(asked: Asked) -> NotFoundError:
    """The Hub makes no difference between what is not there and what is not shown."""
    if asked.has_token:
        message = f"{asked.repo_id} does not exist on the Hub, or this token may not see it"
        return NotFoundError(message, "`llmrun search WORDS` finds models")
    return NotFoundError(
        f"{asked.repo_id} does not exist on the Hub, or is private",
        "`llmrun search WORDS` finds models; a private one needs HF_TOKEN or `hf auth login`",
    )


def _too_often(asked: Asked, wait: float | None) -> HubError:
    pause = "a while" if wait is None else format_seconds(wait)
    hint = (
        "wait, and type the same again" if asked.has_token else "wait, or set HF_TOKEN: more is given to those who do"
    )
    return HubError(f"{host_of(asked.endpoint)} was asked too often (429): it asks for a pause of {pause}", hint)


def unreachable(reason: str) -> UnreachableError:
    """Return that nobody answers; reason: who, and why."""
    return UnreachableError(
        reason, "`llmrun list` shows what needs no network; HTTPS_PROXY names a proxy, HF_ENDPOINT a mirror"
    )


def offline(what: str) -> UnreachableError:
    """Return that something is not here and may not be asked for."""
    return UnreachableError(
        f"{what} is not here, and we are to be offline",
        "`llmrun list` shows what is here; leave out `--offline`, or unset HF_HUB_OFFLINE",
    )


def web_page(host: str, what: str) -> HubError:
    """Return that a page for people came where the Hub should have answered."""
    return HubError(
        f"{host} sent a web page when asked for {what}: a login page, or a proxy's",
        "log in with a browser if the network asks for it; HF_ENDPOINT names another server",
    )


def no_list(host: str, what: str) -> HubError:
    """Return that what came is not what a Hub answers."""
    return HubError(f"{host} was asked for {what}, and what it answered is no list of them", _NO_MIRROR)


def without_end(host: str, n_requests: int) -> HubError:
    """Return that a list went on for longer than any has."""
    return HubError(f"{host} was asked {n_requests} times for one list, which did not end", _NO_MIRROR)


def led_away(host: str, other: str) -> HubError:
    """Return that a list is said to go on at another server, which is not asked: it would be given the token."""
    return HubError(f"{host} says its list goes on at {other}, which is not asked: it is another server", _NO_MIRROR)


def contradicted(what: str, listed: str, offered: str) -> ChecksumError:
    """Return that the Hub says one thing in its list of files, and another when asked for one."""
    return ChecksumError(
        f"the Hub contradicts itself about {what}: {listed} in its list, {offered} when asked for it",
        _NO_MIRROR,
    )


def given_up(name: str, setback: SetbackError, times: int, kept: int, size: int) -> HubError:
    """Return that a file was tried often enough; times: in a row. kept, size: bytes that are here, and of the file."""
    go_on = "try again later"
    if kept:
        go_on = f"type the same again later: the {format_bytes(kept)} that came ({100 * kept // size} %) are kept"
    kind = UnreachableError if setback.unreachable else HubError
    if setback.wait is not None and setback.wait > MAX_ASKED_WAIT:
        return kind(f"{name} was not fetched: {setback.reason}, and asks to wait {format_seconds(setback.wait)}", go_on)
    return kind(f"{name} was not fetched: {setback.reason}, {times} times in a row", go_on)
