"""Texts that mean something else to whoever reads them without care."""

from __future__ import annotations

from hypothesis import strategies as st

NASTY = (
    "a b", 'say "yes"', "it's", "100%", "%h", "%%", "$HOME", "${HOME}", "$$", "back\\slash", "\\", "", ";", "a;b",
    "#no", "tab\there", "line\nbreak", "é", "日本 語", "\x01", "\x7f", "\x85", "\ufeff", "end\\", "-x", "@y", "+z", "'",
    '"', " ", "\udcff", "🦙", "a\\x41", "*", "~", "!", "|", "&", "<>", "`id`", "(", "{a,b}", "\u2028",
)  # fmt: skip
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)
