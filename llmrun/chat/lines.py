"""Where messages come from: a terminal with editing and history, or lines of a pipe. Triple quotes hold many lines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

QUOTES = '"""'


def join_quoted(lines: Iterable[str]) -> Iterator[str]:
    """Turn lines into messages: one each, but what stands between triple quotes is one; blank ones are left out.

    Quotes that are never closed end with the input.
    """
    rows: list[str] | None = None
    for line in lines:
        if rows is None and not line.lstrip().startswith(QUOTES):
            if line.strip():
                yield line.strip("\r\n")
            continue
        rows = [] if rows is None else rows
        rows.append(line.rstrip("\r\n"))
        if is_complete("\n".join(rows)):
            yield unquote("\n".join(rows))
            rows = None
    if rows:
        yield unquote("\n".join(rows))


def is_complete(text: str) -> bool:
    """Tell whether a text that begins with triple quotes also ends them; any other text is complete."""
    stripped = text.strip()
    return not stripped.startswith(QUOTES) or (len(stripped) >= 2 * len(QUOTES) and stripped.endswith(QUOTES))


def unquote(text: str) -> str:
    """Return what stands between triple quotes; any other text as it is."""
    stripped = text.strip()
    if not stripped.startswith(QUOTES):
        return text
    return stripped.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")


def clean_text(text: str) -> str:
    """Return a text from outside as text: bytes that were none (they arrive as lone surrogates) become "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_piped() -> Iterator[str]:
    """Yield the messages of standard input, which is no terminal."""
    if sys.stdin is None:
        return
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    yield from join_quoted(sys.stdin)


def read_typed(commands: Iterable[str], was_stopped: Callable[[], bool], tell: Callable[[str], None]) -> Iterator[str]:
    """Yield messages typed at a prompt with editing and history; ends at Ctrl-D.

    Enter sends, Alt-Enter makes a new line, and so does Enter between triple quotes. Ctrl-C raises KeyboardInterrupt if
    it is the second: the first stopped an answer (`was_stopped`), or was told here what it does. So one that was meant
    for an answer that has just ended costs nothing.
    """
    session = _prompt_session(list(commands))
    warned = False
    while True:
        try:
            text: str = session.prompt()
        except EOFError:
            return
        except KeyboardInterrupt:
            if warned or was_stopped():
                raise
            warned = True
            tell("(Ctrl-C again, or Ctrl-D, leaves)")
            continue
        warned = False
        if unquote(text).strip():
            yield clean_text(unquote(text))


def history_file() -> Path:
    """Return the file that keeps what was typed, made so that only its owner can read it."""
    import platformdirs

    folder = platformdirs.user_state_path("llmrun", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "chat_history"
    path.touch(mode=0o600)
    return path


def _prompt_session(commands: list[str]) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.output import create_output

    history: History = InMemoryHistory()
    with contextlib.suppress(OSError):  # a home that cannot be written to is no reason not to chat
        history = FileHistory(str(history_file()))
    return PromptSession(
        ">>> ",
        history=history,
        completer=WordCompleter(commands, sentence=True),
        complete_while_typing=False,
        multiline=True,
        prompt_continuation="... ",
        key_bindings=_key_bindings(),
        output=create_output(None if sys.stdout and sys.stdout.isatty() else sys.stderr),
        enable_open_in_editor=bool(os.environ.get("EDITOR")),
    )


def _key_bindings() -> KeyBindings:
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # and not searching the history

    @bindings.add("enter", filter=typing)
    def send(event: KeyPressEvent) -> None:
        buffer: Any = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @bindings.add("escape", "enter", filter=typing)
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c", filter=typing)
    def clear_or_leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return bindings
