"""Whether the Hub answers just now: asked once, within a deadline, while other things are done."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from llmrun.errors import LLMRunError
from llmrun.hub.address import is_address
from llmrun.hub.client import is_offline, new_session
from llmrun.hub.setback import SetbackError

if TYPE_CHECKING:
    import httpx2

_USUAL = "https://huggingface.co"


class Presence:
    """Asks at once, in a thread of its own: for one model's name, which no page of a network's login looks like."""

    def __init__(self, seconds: float) -> None:
        """seconds: from now on, after which an answer comes too late."""
        self._deadline = 0.0
        self._answered = threading.Event()
        self._asking: threading.Thread | None = None
        address = os.environ.get("HF_ENDPOINT") or _USUAL
        if is_offline() or not is_address(address):
            return
        try:
            session = new_session()
        except LLMRunError:  # who wants something of the Hub is told what is wrong with the settings
            return
        self._deadline = time.monotonic() + seconds
        url = f"{address.rstrip('/')}/api/models?limit=1"
        self._asking = threading.Thread(target=self._ask, args=(session, url, seconds), daemon=True)
        self._asking.start()

    def _ask(self, session: httpx2.Client, url: str, seconds: float) -> None:
        import httpx2

        # whatever of it happens, there was no answer: nobody there, no connection of ours, no JSON
        no_answer = (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, SetbackError, LLMRunError)
        with contextlib.suppress(*no_answer), session:
            answer = session.get(url, timeout=seconds, follow_redirects=False)
            if answer.status_code == 200 and isinstance(answer.json(), list):
                self._answered.set()

    def answers(self) -> bool:
        """Return whether it did, waiting no longer than until the deadline."""
        if self._asking is None:
            return False
        self._asking.join(max(0.0, self._deadline - time.monotonic()))
        return self._answered.is_set()
