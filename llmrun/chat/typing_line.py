"""The line a person types at: editing, history, completion, and what the line below it shows."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrun.chat.completing import Names, argument_of, completions
from llmrun.chat.lines import clean_text, is_complete, unquote

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


def _nothing() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class LineWish:
    """What the line needs to know of the chat.

    was_stopped: whether the last answer was stopped with Ctrl-C. tell: shows a line. draft: what the next line begins
    with. below: what the line below it shows, as wide as it may be. keeps_history: whether what is typed is kept for
    the next chat.
    """

    was_stopped: Callable[[], bool]
    tell: Callable[[str], None]
    draft: Callable[[], str] = _nothing
    below: Callable[[int], str] | None = None
    names: Names = field(default_factory=Names)
    keeps_history: bool = True


def read_typed(wish: LineWish) -> Iterator[str]:
    """Yield messages typed at a prompt with editing and history; ends at Ctrl-D.

    Enter sends, Alt-Enter makes a new line, and so does Enter between triple quotes; what is pasted is never sent by
    itself. Ctrl-C raises KeyboardInterrupt if it is the second: the first stopped an answer, or was told here what it
    does. So one that was meant for an answer that has just ended costs nothing.
    """
    session = _prompt_session(wish)
    warned = False
    while True:
        try:
            text: str = session.prompt(default=wish.draft())
        except EOFError:
            return
        except KeyboardInterrupt:
            if warned or wish.was_stopped():
                raise
            warned = True
            wish.tell("(Ctrl-C again, or Ctrl-D, leaves)")
            continue
        warned = False
        if unquote(text).strip():
            yield clean_text(unquote(text))


def typed_lines_file() -> Path:
    """Return the file that keeps what was typed, made so that only its owner can read it."""
    import platformdirs

    folder = platformdirs.user_state_path("llmrun", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "chat_history"
    path.touch(mode=0o600)
    return path


def _prompt_session(wish: LineWish) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output

    output = create_output(None if sys.stdout and sys.stdout.isatty() else sys.stderr)
    below = wish.below
    return PromptSession(
        ">>> ",
        history=_history(wish.keeps_history),
        completer=_completer(wish.names),
        complete_while_typing=False,
        multiline=True,
        prompt_continuation="... ",
        bottom_toolbar=None if below is None else lambda: below(output.get_size().columns),
        style=_style(),
        key_bindings=_key_bindings(),
        output=output,
        enable_open_in_editor=bool(os.environ.get("VISUAL") or os.environ.get("EDITOR")),
    )


def _style() -> Any:
    from prompt_toolkit.styles import Style

    return Style.from_dict({"bottom-toolbar": "noreverse dim"})


def _history(kept: bool) -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    with contextlib.suppress(OSError):  # a home that cannot be written to is no reason not to chat
        if kept:
            return FileHistory(str(typed_lines_file()))
    return InMemoryHistory()


def _completer(names: Names) -> Completer:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    paths = PathCompleter(expanduser=True)

    class ChatCompleter(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            text = document.text_before_cursor
            name, space, rest = text.partition(" ")
            if argument_of(text) == "path":
                yield from paths.get_completions(Document(rest, len(rest)), complete_event)
            for word in completions(text, names):
                yield Completion(word, start_position=-len(rest if space else name))

    return ChatCompleter()


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
