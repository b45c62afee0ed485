"""What may be gone at the next try, and which errors of the HTTP client are such. Makes no request."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2


class SetbackError(Exception):
    """A request that failed, and may not at the next try.

    reason: who did what, as people are told. wait: seconds until the next try, None where nobody said. unreachable:
    nobody answered.
    """

    def __init__(self, reason: str, wait: float | None = None, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.unreachable = unreachable


def setback_of(error: Exception, host: str) -> SetbackError:
    """Return an error of the HTTP client as a setback, without the address, which is signed; host: who was asked."""
    import httpx2

    if isinstance(error, httpx2.ProxyError):
        return SetbackError(f"the proxy does not let us through to {host}", unreachable=True)
    if isinstance(error, httpx2.ConnectError):
        return SetbackError(f"{host} cannot be reached: {_why(error)}", unreachable=True)
    if isinstance(error, httpx2.ConnectTimeout):
        return SetbackError(f"{host} cannot be reached within {_limit(error, 'connect')} s", unreachable=True)
    if isinstance(error, httpx2.TimeoutException):
        return SetbackError(f"{host} sent nothing for {_limit(error, 'read')} s", unreachable=True)
    if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return SetbackError(f"{host} broke off the connection")
    return SetbackError(f"{host} cannot be used: {type(error).__name__}", unreachable=True)


def _limit(error: httpx2.TimeoutException, step: str) -> str:
    return f"{error.request.extensions['timeout'][step]:.0f}"


def _why(error: BaseException) -> str:
    """Return what the system said, which the HTTP client has wrapped several times."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message}); SSL_CERT_FILE names those that are"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return "no connection came about"


@contextlib.contextmanager
def setbacks(host: str) -> Iterator[None]:
    """Raise errors of the HTTP client as setbacks."""
    import httpx2

    try:
        yield
    except httpx2.HTTPError as error:
        raise setback_of(error, host) from error
