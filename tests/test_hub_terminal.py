"""A download on a terminal: a bar that fits, what is said when it is stopped, and where it goes on."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pexpect
import pytest

from tests.hub_program import environment
from tests.hub_server.fault import Fault
from tests.hub_server.server import HubServer

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def pull(hub: HubServer, home: Path, columns: int) -> pexpect.spawn[str]:
    told = environment(hub, home) | {"COLUMNS": str(columns)}
    command = ["-P", "-m", "llmrun.cli.main", "pull", "guide/guide-GGUF:Q8_0"]
    return pexpect.spawn(sys.executable, command, env=told, dimensions=(24, columns), encoding="utf-8", timeout=60)


def lines(text: str) -> list[str]:
    """What stood in a line at any time, without what moves the cursor."""
    return [line for line in re.split(r"[\r\n]+", ESCAPES.sub("\r", text)) if line]


@pytest.mark.parametrize("columns", [80, 40])
def test_a_download_shows_a_bar_and_goes_on_after_ctrl_c(hub: HubServer, tmp_path: Path, columns: int) -> None:
    hub.faults.append(Fault("cdn", times=100, slow=0.1))
    stopped = pull(hub, tmp_path, columns)
    stopped.expect("MiB a sec")
    stopped.expect("MiB a sec")
    said = stopped.before or ""
    stopped.sendintr()
    stopped.expect(pexpect.EOF)
    stopped.close()
    assert "what came is kept: the same command goes on from there" in (stopped.before or "").replace("\r\n", " ")
    assert stopped.exitstatus == 130
    assert max(map(len, lines(said)), default=0) <= columns
    hub.faults.clear()
    again = pull(hub, tmp_path, columns)
    again.expect("going on at")
    again.expect(r"its\s+checksum\s+is\s+right")
    again.expect(pexpect.EOF)
