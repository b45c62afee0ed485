"""Commands that put something beside the next question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrun.chat.beside import unquoted_path
from llmrun.chat.commands.command import Command
from llmrun.errors import UsageError
from llmrun.images import read_image

if TYPE_CHECKING:
    from llmrun.chat.talk import Talk


def _file(talk: Talk, text: str) -> None:
    talk.check_typed("/file", "llmrun run --file attaches files")
    attachment = talk.beside.attach(unquoted_path(text, "/file notes.txt"))
    size = f"{len(attachment.text):,} characters"
    talk.console.say(f"{attachment.name}, {size}: it goes with the next question")


def _image(talk: Talk, text: str) -> None:
    path = unquoted_path(text, "/image photo.jpg")
    image = read_image(path)
    if not talk.can_see():
        raise UsageError(f"{talk.model_info().name} cannot see images", "/model NAME goes on with one that can")
    talk.beside.images.append(image.path)
    talk.console.say(f"{path.name}: it is shown with the next question")


COMMANDS: tuple[Command, ...] = (
    Command("/file", "PATH", "attach a text file to the next question", _file, "path"),
    Command("/image", "PATH", "show an image with the next question", _image, "path"),
)
