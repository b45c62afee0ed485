"""llama.cpp's programs are built anew where they were built with other options."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmarks import peers


def test_programs_of_other_options_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "peers_folder", lambda: tmp_path)
    program = tmp_path / "bin" / "llama-bench"
    program.parent.mkdir()
    with pytest.raises(SystemExit, match="llama-bench is not built\nhint: scripts/peers"):
        peers.peer("llama-bench")
    program.touch()
    with pytest.raises(SystemExit, match="built with other options"):
        peers.peer("llama-bench")
    peers.write_stamp(tmp_path)
    assert peers.peer("llama-bench") == program
    monkeypatch.setattr(peers, "needed_options", lambda _: "-O1")
    assert not peers.is_current(tmp_path)
