"""What a shell is offered, asked as bash asks."""

from __future__ import annotations

import pytest

from llmrun.cli.main import app


def completions(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the program offers for the last word of a line, which begins with "llmrun"."""
    monkeypatch.setenv("_LLMRUN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        app(prog_name="llmrun")
    monkeypatch.delenv("_LLMRUN_COMPLETE")
    return capsys.readouterr().out.split()
