"""The server held under load and faults for a while; scripts/bench soak does it for two minutes with 64 clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmarks.serving.soak import Load, soak
from tests.serving import serving


@pytest.mark.slow
def test_what_must_hold_holds_while_clients_leave_and_the_engine_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "guide", "--threads", "1", "--parallel", "4", "--ctx", "1024") as server:
        seen = soak(server.url, server.process.pid, Load(n_clients=12, seconds=15, kill_every=5))
    assert seen.wrong == []
    assert seen.outcomes["completed"] > 10
    assert seen.outcomes["left"] > 0
    assert seen.outcomes["nonsense refused"] > 0
    assert seen.outcomes["too large a body refused"] > 0
    assert seen.recoveries
