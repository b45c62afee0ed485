"""The environment of the worker: what the user has set of it stays."""

from __future__ import annotations

import pytest

from llmrun.engine.spawn import environment_of, with_huge_pages


def test_waiting_threads_sleep_sooner_than_libgomp_has_it() -> None:
    assert int(environment_of({"PATH": "/bin"})["GOMP_SPINCOUNT"]) < 300_000


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}])
def test_who_has_a_wait_policy_keeps_it(own: dict[str, str]) -> None:
    found = environment_of(own)
    assert {name: found[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in found} == own


def test_the_engines_memory_is_in_huge_pages_unless_malloc_is_set_up_otherwise() -> None:
    assert with_huge_pages({"PATH": "/bin"}) == {"PATH": "/bin", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    own = {"GLIBC_TUNABLES": "glibc.malloc.check=1"}
    assert with_huge_pages(own) == own
