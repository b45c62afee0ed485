"""What people set of the Hub in the environment: whether it can be meant.

The Hub's client reads the same when it is imported, and then fails with errors that name no variable.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from llmrun.errors import UsageError
from llmrun.hub.address import is_address, shown_address

_SECONDS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def hub_address() -> str | None:
    """Return the address of the Hub where it is not the usual one, for references that are addresses.

    What is set for it and cannot be one is for whoever asks the Hub to complain of: a model that is here needs none.
    """
    address = os.environ.get("HF_ENDPOINT")
    return address if address is not None and is_address(address) else None


def check_settings(environment: Mapping[str, str]) -> None:
    """Raise UsageError for an address, a number of seconds or a token that is none; no password or token is shown."""
    address = environment.get("HF_ENDPOINT")
    if address is not None and not is_address(address):
        raise UsageError(
            f"HF_ENDPOINT is {shown_address(address)!r}, which is no address of a server",
            "set it to one as https://huggingface.co, or unset it",
        )
    for name in _SECONDS:
        value = environment.get(name, "").strip()
        if value and not (value.isascii() and value.isdigit() and len(value) < 10):
            raise UsageError(f"{name} is {value!r}, which is no number of seconds", f"set it to 10, or unset {name}")
    for name in _TOKENS:
        if not is_token(environment.get(name, "").strip()):
            raise UsageError(
                f"{name} has characters that no token has", f"copy the token into it once more, or unset {name}"
            )


def is_token(text: str) -> bool:
    """Return whether a token can be sent: its letters, digits and signs are ASCII."""
    return text.isascii() and text.isprintable()


def unusable_token(path: str, why: str) -> UsageError:
    """Return that no token can be had of the file where the Hub's client keeps it."""
    return UsageError(f"the token in {path} cannot be used: {why}", "run `hf auth login`, set HF_TOKEN, or remove it")


def unusable_proxy(environment: Mapping[str, str]) -> UsageError:
    """Return that no connection can be made through what is set; it may have a password in it, so it is not shown."""
    names = _set_of(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), environment)
    return UsageError(
        f"{names} names no proxy that can be used", "write it as http://proxy.example:3128, or unset the variable"
    )


def unusable_certificates(environment: Mapping[str, str]) -> UsageError:
    """Return that what is set has no certificates in it."""
    names = _set_of(("SSL_CERT_FILE", "SSL_CERT_DIR"), environment)
    return UsageError(f"{names} names no certificates that can be read", "name a file of them, or unset the variable")


def _set_of(names: tuple[str, ...], environment: Mapping[str, str]) -> str:
    return " or ".join(name for name in environment if name.upper() in names and environment[name]) or "the system"
