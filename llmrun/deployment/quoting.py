"""Text as systemd and YAML read it back: nothing in a path or a name may mean something else there. Pure.

Sources: systemd.syntax(7), "Quoting"; systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers"; YAML 1.2.2,
5.7 and 7.3.1; the Compose Specification, "Interpolation".
"""

from __future__ import annotations

import re

from llmrun.errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./^~#$-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LOW_SURROGATES = range(0xDC80, 0xDD00)  # bytes of a path that are no UTF-8, as Python has them


def systemd_word(text: str) -> str:
    """Return a word of a setting that is a list of words, in quotes where it must be; % begins a specifier there."""
    doubled = text.replace("%", "%%")
    if _PLAIN.fullmatch(doubled):
        return doubled
    return f'"{"".join(map(_escaped, doubled))}"'


def systemd_argument(text: str) -> str:
    """Return an argument of a command line, where $ begins a variable as well."""
    return systemd_word(text.replace("$", "$$"))


def systemd_path(text: str) -> str:
    """Return a path where systemd takes the rest of the line, without quotes; raises UsageError for one it cannot."""
    if not text.isprintable() or text != text.strip() or text.endswith("\\"):
        raise UsageError(f"systemd cannot be told of the path {text!r}", "give the file a plainer name")
    return text.replace("%", "%%")


def yaml_text(text: str) -> str:
    """Return a text in double quotes, for a file of Docker Compose, where $ begins a variable."""
    return f'"{"".join(map(_yaml_escaped, text.replace("$", "$$")))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if ord(character) in _LOW_SURROGATES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable() or ord(character) > 0xFF:
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def _yaml_escaped(character: str) -> str:
    code = ord(character)
    if 0xD800 <= code < 0xE000:
        raise UsageError("a path that is not UTF-8 cannot stand in a Compose file", "give the file another name")
    if character in '\\"':
        return f"\\{character}"
    if character.isprintable():
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
