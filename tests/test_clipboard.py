"""chat.clipboard: /copy finds a clipboard, or says that there is none."""

from __future__ import annotations

import base64

import pyperclip
import pytest

from llmrun.chat.clipboard import copy_text
from llmrun.errors import UsageError


@pytest.fixture
def no_clipboard(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise pyperclip.PyperclipException("none")

    monkeypatch.setattr(pyperclip, "copy", fail)


def test_the_systems_clipboard_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    sent: list[str] = []
    monkeypatch.setattr(pyperclip, "copy", copied.append)
    copy_text("grüße", sent.append)
    assert (copied, sent) == (["grüße"], [])


@pytest.mark.usefixtures("no_clipboard")
def test_the_terminal_is_handed_the_text_where_the_system_has_no_clipboard() -> None:
    sent: list[str] = []
    copy_text("grüße\x07\x1b[2J", sent.append)
    (sequence,) = sent
    assert sequence.startswith("\x1b]52;c;")
    assert sequence.endswith("\x07")
    data = sequence.removeprefix("\x1b]52;c;").removesuffix("\x07")
    assert base64.b64decode(data, validate=True).decode("utf-8") == "grüße\x07\x1b[2J"


@pytest.mark.usefixtures("no_clipboard")
def test_it_is_told_where_there_is_neither() -> None:
    with pytest.raises(UsageError, match="no clipboard here"):
        copy_text("x", None)
    with pytest.raises(UsageError, match="no clipboard here"):
        copy_text("x" * 100_000, print)
