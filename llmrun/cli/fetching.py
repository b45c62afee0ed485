"""How fetching goes, on the screen: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun import pipeline
from llmrun.console import Console, one_line
from llmrun.hub.listening import FetchListener
from llmrun.units import format_bytes, format_seconds
from llmrun.variant import ModelFile

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY = 10.0  # seconds, where there is no terminal
_BAR_EVERY = 0.1
_SPEED_OVER = 15.0  # seconds that the speed is taken of


@dataclass(slots=True)
class Rate:
    """Bytes a second over the last seconds; changes as they come."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def add(self, now: float, done: int) -> None:
        """Note how many bytes are there."""
        self.seen.append((now, done))
        while len(self.seen) > 2 and now - self.seen[0][0] > _SPEED_OVER:
            del self.seen[0]

    def per_second(self) -> float | None:
        """Return bytes a second, None before there is anything to tell it by."""
        (first, before), (last, after) = self.seen[0], self.seen[-1]
        return (after - before) / (last - first) if last > first and after > before else None


def speed_text(done: int, size: int, per_second: float | None) -> str:
    """Return how fast it goes and how long it will take."""
    if per_second is None:
        return ""
    left = math.ceil((size - done) / per_second)
    return f"{format_bytes(int(per_second))} a second, {format_seconds(left) if left >= 10 else f'{left} s'} left"


class FetchScreen:
    """Shows the fetching of files one after the other; quiet is for nothing but errors."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._rate = Rate()
        self._told = -_LINE_EVERY  # the first line comes at once
        self._began = 0.0
        self._here: int | None = None  # bytes that were here, until that is said

    @contextlib.contextmanager
    def shown(self) -> Iterator[FetchListener]:
        """Give whom to tell; what is on the screen is finished afterwards, whatever happens."""
        try:
            yield FetchListener(
                started=self._started,
                waiting=self._waiting,
                checking=self._checking,
                progress=self._progressed,
                retrying=self._retrying,
                restarting=lambda file, why: self._say(f"{_name(file)}: {why}: fetching it from its begin"),
                slow=lambda host: self._say(f"{host} has not answered yet, waiting for it"),
                done=self._done,
            )
        except KeyboardInterrupt:
            self._end_bar()
            if self._began:
                self._say("what came is kept: the same command goes on from there")
            raise
        finally:
            self._end_bar()

    def _started(self, _: ModelFile, here: int) -> None:
        self._rate = Rate()
        self._told = self._began = time.monotonic()
        self._here = here

    def _announce(self, file: ModelFile, here: int) -> None:
        """Say what is being fetched, once something of it comes: what is refused was never begun."""
        if self._console.quiet:
            return
        if not sys.stderr.isatty():
            start = f", {format_bytes(here)} of it are here" if here else ""
            self._say(f"fetching {_name(file)}, {format_bytes(file.size)}{start}")
            return
        if here:
            self._say(f"{_name(file)}: going on at {here / max(1, file.size):.0%}")
        self._begin_bar(_name(file), file.size)

    def _begin_bar(self, name: str, size: int) -> None:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, Progress, TextColumn

        self._end_bar()
        self._console.clear_status()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        self._progress = Progress(*columns, console=Terminal(stderr=True), transient=True)
        self._task = self._progress.add_task(name if len(name) <= 28 else f"…{name[-27:]}", total=size, figures="")
        self._progress.start()

    def _end_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None

    def _checking(self, file: ModelFile, done: int, here: int) -> None:
        if done < here:
            self._console.status(f"checking what is here of {_name(file)}: {done / max(1, here):.0%}")

    def _progressed(self, file: ModelFile, done: int) -> None:
        if self._here is not None:
            self._announce(file, self._here)
            self._here = None
        now = time.monotonic()
        self._rate.add(now, done)
        figures = speed_text(done, file.size, self._rate.per_second())
        if self._progress is not None and self._task is not None:
            there = f"{format_bytes(done)}/{format_bytes(file.size)}"
            self._progress.update(self._task, completed=done, figures=f"{there} {figures}")
        elif now - self._told >= _LINE_EVERY:
            self._told = now
            self._say(f"{_name(file)}: {format_bytes(done)} of {format_bytes(file.size)}, {figures}")

    def _waiting(self, file: ModelFile, here: int) -> None:
        text = f"another process fetches {_name(file)}: {format_bytes(here)} so far, waiting for it"
        if sys.stderr.isatty():
            self._console.status(text)
        elif time.monotonic() - self._told >= _LINE_EVERY:
            self._told = time.monotonic()
            self._say(text)

    def _retrying(self, file: ModelFile, why: str, seconds: float) -> None:
        self._say(f"{_name(file)}: {why}: trying again in {seconds:.0f} s")

    def _done(self, file: ModelFile, _: Path, checked: bool) -> None:
        self._end_bar()
        self._console.clear_status()
        if self._began:
            took = format_seconds(time.monotonic() - self._began)
            sums = "its checksum is right" if checked else "and nobody says what its checksum is"
            self._say(f"{_name(file)}: {format_bytes(file.size)} in {took}, {sums}")
        self._began = 0.0

    def _say(self, text: str) -> None:
        if self._progress is not None and not self._console.quiet:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            self._console.say(text)


def listener_of(console: Console) -> pipeline.Listener:
    """Return a listener that tells of a model's finding, not of its fetching."""
    return pipeline.Listener(
        note=lambda text: console.say(f"note: {one_line(text)}"),
        slow=lambda host: console.say(f"{one_line(host)} has not answered yet, waiting for it"),
    )


def _name(file: ModelFile) -> str:
    return one_line(file.name.rpartition("/")[2])
