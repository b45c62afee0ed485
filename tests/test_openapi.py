"""The OpenAPI document, and the server held to it by schemathesis; the real program."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from llmrun.server.endpoints import ENDPOINTS
from llmrun.server.openapi import document_of
from tests.serving import Server, serving

_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

_SHORT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"max_tokens": 3},
    "/v1/completions": {"max_tokens": 3, "best_of": None},
    "/v1/messages": {"max_tokens": 3},
    "/v1/responses": {"max_output_tokens": 3},
    "/api/chat": {"options": {"num_predict": 3}},
    "/api/generate": {"options": {"num_predict": 3}},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # a short context, so that an answer without another end has one
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1", "--ctx", "256") as running:
        yield running


schema = schemathesis.openapi.from_dict(document_of(ENDPOINTS, "0"))
# not "coverage", which takes each field through all its bounds: minutes, where bodies have a hundred of them
schema.config.phases.update(phases=["examples", "fuzzing"])


@schema.parametrize()
@hypothesis.settings(
    max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_whatever_fits_the_schema_is_answered_as_the_schema_says(case: Case[Any], server: Server) -> None:
    case.call_and_validate(base_url=server.url, checks=_CHECKS, timeout=60)
    if isinstance(case.body, dict):  # most names are of no model: the same again of one that is there, and not for long
        case.body |= {"model": "guide"} | _SHORT.get(case.path, {}) | ({"n": 1} if "n" in case.body else {})
        case.call_and_validate(base_url=server.url, checks=_CHECKS, timeout=60)


def test_every_endpoint_is_told_with_all_it_may_answer(server: Server) -> None:
    status, document = server.ask("/openapi.json")
    assert status == 200
    told = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert told == {(endpoint.method, endpoint.path.replace(":path}", "}")) for endpoint in ENDPOINTS}
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert {"200", "400", "401", "403", "404", "408", "413", "415", "421", "429", "500", "503"} <= set(
        chat["responses"]
    )
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert document["paths"]["/health"]["get"]["security"] == []


class _Outside(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {name}" for name, _ in attrs if name in ("src", "onload", "onclick", "srcset")]
        self.found += [tag] * (tag in ("script", "link", "iframe", "img", "object"))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_of_endpoints_needs_nothing_from_elsewhere(server: Server) -> None:
    status, page = server.ask("/docs")
    assert status == 200
    parsed = _Outside()
    parsed.feed(page)
    assert parsed.found == []
    assert all(endpoint.summary in parsed.text for endpoint in ENDPOINTS)
    assert "messages" in parsed.text


def test_figures_are_those_of_prometheus(server: Server) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    body = {"messages": [{"role": "user", "content": "What is a KV cache?"}], "max_tokens": 3}
    before = _figures(server, text_string_to_metric_families)
    assert server.ask("/v1/chat/completions", body)[0] == 200
    after = _figures(server, text_string_to_metric_families)
    written = ("llmrun_completion_tokens_total", "guide")
    assert after[written] - before.get(written, 0) == 3
    assert after["llmrun_slots", "guide"] >= 1
    assert after["llmrun_slots_busy", "guide"] == 0
    assert after["llmrun_model_bytes", "guide"] > 1 << 20
    assert after["llmrun_time_to_first_token_seconds_count", "guide"] >= 1


def _figures(server: Server, parse: Any) -> dict[tuple[str, str], float]:
    families = parse(server.ask("/metrics")[1])
    return {(one.name, one.labels.get("model", "")): one.value for family in families for one in family.samples}


def test_the_plan_is_what_the_command_line_prints(server: Server) -> None:
    status, answer = server.ask("/v1/plan")
    assert status == 200
    assert [model["name"] for model in answer["models"]] == ["guide"]
    plan = answer["models"][0]["plan"]
    assert (plan["model"]["name"], plan["n_ctx"], plan["fits"]) == ("guide", 256, True)
    assert sum(pool["used"]["total"] for pool in plan["pools"]) == plan["total"]
    assert answer["hardware"]["host"]["memory"]["total"] > 1 << 28
    assert server.ask("/v1/plan?model=guide")[1]["models"] == answer["models"]
    assert server.ask("/v1/plan?model=/etc/passwd")[0] == 404
