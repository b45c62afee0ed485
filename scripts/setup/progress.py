"""What the person sees while waiting: talk on stderr, and a build's progress out of its output."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

NINJA = re.compile(r"\s*\[(\d+)/(\d+)\] ")
MAKE = re.compile(r"\s*\[ *(\d+)%\] ")
FEWEST_STEPS = 20  # CMake's own probes and the install step count too: "[1/2]", "[0/1]"


def say(text: str) -> None:
    """Print for a person; stdout stays free for what is run afterwards."""
    print(text, file=sys.stderr, flush=True)


def parse_percent(line: str) -> int | None:
    """Percent done by a line of ninja's ("[37/197] …") or make's ("[ 18%] …"), None where the line says nothing."""
    if match := NINJA.match(line):
        done, total = int(match[1]), int(match[2])
        return 100 * done // total if total >= FEWEST_STEPS else None
    if match := MAKE.match(line):
        return int(match[1])
    return None


def format_minutes(seconds: float) -> str:
    """Minutes and seconds as on a clock."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """One line that is rewritten on a terminal, a line every 10 % elsewhere."""

    def __init__(self, what: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.what = what
        self.stream = stream
        self.clock = clock
        self.start = clock()
        self.percent = 0
        self.live = stream.isatty()

    def read(self, line: str) -> None:
        """Take one line of the build's output."""
        percent = parse_percent(line)
        if percent is None or percent <= self.percent:
            return
        next_ten = percent // 10 > self.percent // 10
        self.percent = percent
        if not (self.live or next_ten):
            return
        text = f"{self.what}: {percent} % after {format_minutes(self.clock() - self.start)}"
        if self.live:
            self.stream.write(f"\r{text}")
            self.stream.flush()
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """End the rewritten line."""
        if self.live and self.percent:
            print(file=self.stream, flush=True)
