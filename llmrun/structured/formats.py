"""The formats of strings that can be written for sure, as expressions of GBNF. Pure.

Each is a subset of what its standard takes: of RFC 3339 (dates and times, years 1000 to 9999, no leap seconds), RFC
4122 (uuid), RFC 5321 (email), RFC 1123 (hostname), RFC 3986 (uri: http and https), ISO 8601 (duration).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """An expression for what stands between the quotes, and how many characters that can be; most None: no end."""

    expression: str
    least: int
    most: int | None


_DAYS = (
    '[1-9] [0-9]{3} "-" ('
    '("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30")'
    ' | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_LEAP_DAY = '([1-9] [0-9] ("0" [48] | [2468] [048] | [13579] [26]) | ([2468] [048] | [13579] [26]) "00") "-02-29"'
_DATE = f"({_DAYS} | {_LEAP_DAY})"
_CLOCK = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_CLOCK} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [+-] {_CLOCK})'
_TIME_MOST = 8 + 7 + 6
_NUMBER = '("0" | [1-9] [0-9]{0,5})'
_LABEL = "[a-z0-9] ([a-z0-9-]{0,30} [a-z0-9])?"
_HOST = f'({_LABEL} "."){{1,3}} [a-z]{{2,12}}'
_BYTE = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9]{2} | [1-9]? [0-9])'
_HEX = "[0-9a-fA-F]"
_DURATION_TIME = (
    f'"T" ({_NUMBER} "H" ({_NUMBER} "M" ({_NUMBER} "S")?)? | {_NUMBER} "M" ({_NUMBER} "S")? | {_NUMBER} "S")'
)
_DURATION_DATE = f'({_NUMBER} "D" | {_NUMBER} "M" ({_NUMBER} "D")? | {_NUMBER} "Y" ({_NUMBER} "M" ({_NUMBER} "D")?)?)'

FORMATS = {
    "date": Format(_DATE, 10, 10),
    "time": Format(_TIME, 9, _TIME_MOST),
    "date-time": Format(f'{_DATE} "T" {_TIME}', 20, 11 + _TIME_MOST),
    "duration": Format(f'"P" ({_DURATION_DATE} ({_DURATION_TIME})? | {_DURATION_TIME} | {_NUMBER} "W")', 3, 45),
    "uuid": Format(f'{_HEX}{{8}} "-" ({_HEX}{{4}} "-"){{3}} {_HEX}{{12}}', 36, 36),
    "email": Format(f'[A-Za-z0-9_] ([A-Za-z0-9._+-]{{0,40}} [A-Za-z0-9_])? "@" {_HOST}', 6, None),
    "hostname": Format(_HOST, 4, None),
    "ipv4": Format(f'{_BYTE} ("." {_BYTE}){{3}}', 7, 15),
    "ipv6": Format(f'{_HEX}{{1,4}} (":" {_HEX}{{1,4}}){{7}}', 15, 39),
    "uri": Format(f'"http" "s"? "://" {_HOST} ("/" [A-Za-z0-9._~-]+)* "/"? ("?" [A-Za-z0-9=&._~-]+)?', 11, None),
}
