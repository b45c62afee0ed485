"""waiting: what still comes is waited for, within limits; what nobody waits for is not asked for either."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest

from llmrun.errors import HubError
from llmrun.hub.client import new_session
from llmrun.hub.setback import SetbackError
from llmrun.hub.waiting import MOST_REQUESTS, answered
from tests.hub_server.fault import Fault
from tests.hub_server.server import HubServer

if TYPE_CHECKING:
    import httpx2

PIECE = 1 << 18  # bytes; a fault's `slow` seconds go before each


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as started:
        yield started


@pytest.fixture
def session() -> Iterator[httpx2.Client]:
    with new_session() as made:
        yield made


def slow_body(server: HubServer, n_pieces: int, seconds: float) -> None:
    server.faults.append(Fault("hub", status=200, body=bytes(n_pieces * PIECE), slow=seconds))


def test_a_body_that_comes_slowly_arrives(server: HubServer, session: httpx2.Client) -> None:
    slow_body(server, 6, 0.3)
    assert len(answered(lambda: session.get(server.url).content, "hub", seconds=1)) == 6 * PIECE


def test_a_body_that_comes_slowly_for_ever_is_given_up(server: HubServer, session: httpx2.Client) -> None:
    slow_body(server, 6, 0.2)
    with pytest.raises(SetbackError) as caught:
        answered(lambda: session.get(server.url), "hub", whole_seconds=0.5)
    assert caught.value.unreachable
    assert caught.value.reason.startswith("hub took more than")


def test_what_nobody_waits_for_is_not_asked_for(server: HubServer, session: httpx2.Client) -> None:
    slow_body(server, 1, 0.5)
    ended: SimpleQueue[str] = SimpleQueue()

    def ask() -> None:
        session.get(server.url)
        try:
            session.get(server.url)
        except SetbackError as error:
            ended.put(error.reason)

    with pytest.raises(SetbackError):
        answered(ask, "hub", whole_seconds=0.2)
    assert ended.get(timeout=10) == "hub is not waited for any more"
    assert len(server.log) == 1


def test_a_question_that_takes_requests_without_end_is_given_up(server: HubServer, session: httpx2.Client) -> None:
    def ask() -> None:
        while True:
            session.get(server.url)

    with pytest.raises(HubError, match="hub was asked 200 times for one list, which did not end"):
        answered(ask, "hub")
    assert len(server.log) == MOST_REQUESTS
