"""The Hub's own client as we use it: its settings, deadlines for every request, and its errors as ours.

Knows nothing of what is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmrun.errors import GatedError, HubError, NotFoundError, UnreachableError

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

CONNECT_SECONDS = 2.0  # a Hub that is down is said to be within this
ANSWER_SECONDS = 10.0  # without a byte; the Hub's client has the same (HF_HUB_DOWNLOAD_TIMEOUT)


@functools.cache
def hub_api() -> HfApi:
    """Return the Hub's client, imported when it is first needed: its settings are read at import."""
    # Xet transfers neither resume nor can be checked on the way; our own byte loop does both
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import huggingface_hub

    from llmrun import __version__

    huggingface_hub.set_client_factory(_client)
    return huggingface_hub.HfApi(library_name="llmrun", library_version=__version__)


def hub_session() -> httpx2.Client:
    """Return the connections all requests go through; no token goes along by itself."""
    hub_api()
    import huggingface_hub

    return huggingface_hub.get_session()


def endpoint() -> str:
    """Return the address of the Hub, without a slash at its end."""
    return hub_api().endpoint


def is_offline() -> bool:
    """Return whether no request may be made, without importing the Hub's client."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in {"1", "ON", "YES", "TRUE"} for value in values)


def _client() -> httpx2.Client:
    import httpx2
    from huggingface_hub.utils._http import hf_request_event_hook

    return httpx2.Client(
        event_hooks={"request": [hf_request_event_hook]},
        follow_redirects=True,
        timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
    )


@contextlib.contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Raise what goes wrong with the Hub as errors of ours; what: the repository or file that is asked for."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise GatedError(f"{what} is gated: its owner decides who may have it", _gate_hint(what)) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFoundError(
            f"{what} does not exist on the Hub, or is private", "`llmrun search WORDS` finds models"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(f"{what} has no such revision") from error
    except errors.EntryNotFoundError as error:
        raise NotFoundError(f"{what} has no such file") from error
    except errors.OfflineModeIsEnabled as error:
        raise UnreachableError(f"{what} is not here, and HF_HUB_OFFLINE forbids to ask the Hub for it") from error
    except errors.HfHubHTTPError as error:
        raise HubError(f"the Hub answered {error.response.status_code} when asked for {what}") from error
    except (httpx2.HTTPError, OSError) as error:
        raise UnreachableError(
            f"the Hub at {endpoint()} cannot be reached: {type(error).__name__}", "`--offline` uses what is here"
        ) from error


def _gate_hint(what: str) -> str:
    return f"ask for it at {endpoint()}/{what}, then set HF_TOKEN or run `hf auth login`"
