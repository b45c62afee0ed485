"""The Hub's own client as we use it: its settings, deadlines for every request, and its errors as ours.

Knows nothing of what is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmrun import __version__
from llmrun.errors import UnreachableError, UsageError
from llmrun.hub.address import host_of, is_same_origin
from llmrun.hub.failure import Asked, led_away, offline, refused, unreachable
from llmrun.hub.setback import SetbackError, setback_of
from llmrun.hub.settings import check_settings, is_token, unusable_certificates, unusable_proxy, unusable_token
from llmrun.hub.waiting import ANSWER_SECONDS, CONNECT_SECONDS, watch, watch_body

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi


@dataclass(frozen=True, slots=True)
class Hub:
    """Whom files are asked of.

    endpoint: its address, without a slash at its end. token: sent to the endpoint and to nobody else. session: the
    connections. answer_seconds: without a byte, after which a request has failed.
    """

    endpoint: str
    session: httpx2.Client
    token: str | None = None
    answer_seconds: float = ANSWER_SECONDS

    def request(self, method: str, url: str, start: int = 0, end: int | None = None) -> httpx2.Request:
        """Return a request for the bytes from start to before end, with the token if it goes to the endpoint."""
        import httpx2

        headers = {"accept-encoding": "identity", "user-agent": f"llmrun/{__version__}"}
        if start or end is not None:
            headers["range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if self.token is not None and is_same_origin(url, self.endpoint):
            headers["authorization"] = f"Bearer {self.token}"
        timeout = httpx2.Timeout(self.answer_seconds, connect=CONNECT_SECONDS)
        return self.session.build_request(method, url, headers=headers, timeout=timeout)


@functools.cache
def hub_api() -> HfApi:
    """Return the Hub's client, imported when it is first needed: its settings are read at import.

    Raises UsageError for settings that are none.
    """
    check_settings(os.environ)
    # Xet transfers neither resume nor can be checked on the way; our own byte loop does both
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what it would warn of is told by us
    import huggingface_hub

    api = huggingface_hub.HfApi(library_name="llmrun", library_version=__version__)
    huggingface_hub.set_client_factory(functools.partial(new_session, api.endpoint))
    return api


def hub_session() -> httpx2.Client:
    """Return the connections all requests go through; no token goes along by itself."""
    hub_api()
    import huggingface_hub

    return huggingface_hub.get_session()


def this_hub() -> Hub:
    """Return the Hub the environment names, with the token of the user."""
    session = hub_session()
    from huggingface_hub import constants

    return Hub(endpoint(), session, _token(), float(constants.HF_HUB_DOWNLOAD_TIMEOUT))


def _token() -> str | None:
    """Return the token of the user, None where there is none, or none is to be sent; raises UsageError."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    path = str(constants.HF_TOKEN_PATH)
    try:
        token = get_token()
    except OSError as error:
        raise unusable_token(path, (error.strerror or "it cannot be read").lower()) from error
    except UnicodeError as error:
        raise unusable_token(path, "it is no text") from error
    if token is not None and not is_token(token):
        raise unusable_token(path, "it has characters that no token has")
    return token


def endpoint() -> str:
    """Return the address of the Hub, without a slash at its end."""
    return hub_api().endpoint


def is_offline() -> bool:
    """Return whether no request may be made, without importing the Hub's client."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def new_session(endpoint: str | None = None) -> httpx2.Client:
    """Return connections of our own kind: with deadlines, and none while we are to be offline.

    endpoint: the only server that the Hub's client may ask through them, None is any.
    """
    import httpx2

    class Session(httpx2.Client):
        """Says at once that nobody is there, which the Hub's client would try five times more."""

        def request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Response:
            """Ask as the Hub's client does, which sends the token to wherever a list is said to go on."""
            if endpoint is not None and not is_same_origin(str(url), endpoint):
                raise led_away(host_of(endpoint), host_of(str(url)))
            return super().request(method, url, **options)

        def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            try:
                return super().send(request, **options)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                raise setback_of(error, host_of(str(request.url))) from error
            except UnicodeError as error:  # a server that sent on to a host with a name that no host has
                raise SetbackError(f"{host_of(str(request.url))} sends on to what is no address") from error

    try:
        return Session(
            event_hooks={"request": [_refuse_offline, watch], "response": [watch_body]},
            follow_redirects=True,
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )
    except OSError as error:
        raise unusable_certificates(os.environ) from error
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        raise unusable_proxy(os.environ) from error


def _refuse_offline(request: httpx2.Request) -> None:
    if is_offline():
        raise UnreachableError(
            f"{request.url.host} is not asked: HF_HUB_OFFLINE forbids it", "unset HF_HUB_OFFLINE, or use what is here"
        )


@contextlib.contextmanager
def hub_errors(repo_id: str, path: str | None = None) -> Iterator[None]:
    """Raise what goes wrong with the Hub as errors of ours; path: of the file in the repository that is asked for."""
    address = endpoint()  # before anything is imported of the Hub's client, which then reads its settings
    import httpx2
    from huggingface_hub import errors

    hub_session()  # what cannot be made as the environment says is not the Hub's failure
    asked = Asked(address, repo_id, path, has_token=_token() is not None)
    try:
        yield
    except errors.HfHubHTTPError as error:
        raise refused(error.response.status_code, error.response.headers, asked) from error
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is no name of a repository", "write it as owner/name") from error
    except errors.OfflineModeIsEnabled as error:
        raise offline(asked.what) from error
    except (httpx2.HTTPError, OSError) as error:
        raise unreachable(setback_of(error, host_of(asked.endpoint)).reason) from error
    except SetbackError as error:
        raise unreachable(error.reason) from error
