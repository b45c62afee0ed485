"""Files of the Hub onto this machine: what is here costs no request, what is not is fetched, resumed and checked.

Knows the order: look, see that there is room, take the lock, take over what others left, fetch, check, put in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from llmrun.errors import HubError, UsageError
from llmrun.hub.checksum import Checksum, parse_checksum
from llmrun.hub.client import Hub, is_offline, this_hub
from llmrun.hub.disk import check_room, disk_errors, is_same_disk
from llmrun.hub.failure import given_up, offline, unreachable
from llmrun.hub.listening import FetchListener as FetchListener
from llmrun.hub.part import Part, is_that_file
from llmrun.hub.retries import Retries
from llmrun.hub.setback import SetbackError
from llmrun.hub.settle import (
    bytes_here,
    copy_from,
    held,
    link,
    mark_as_cache,
    namesakes,
    remember_revision,
    settle,
    take_over,
)
from llmrun.hub.source import Source
from llmrun.hub.store import Place, cache_folder, is_whole, place_in_cache, place_in_folder, snapshot_path
from llmrun.hub.transfer import Transfer, TransferListener
from llmrun.variant import ModelFile, RemoteFile


@dataclass(frozen=True, slots=True)
class FetchWish:
    """How files are wanted.

    revision: the name the commit was found under, remembered for when nobody can be asked. folder: the cache's, None is
    the usual. local_dir: where the files go in place of it. offline: ask nobody.
    """

    revision: str | None = None
    folder: Path | None = None
    local_dir: Path | None = None
    offline: bool = False


def fetch(
    files: Sequence[ModelFile],
    wish: FetchWish = FetchWish(),
    listener: FetchListener = FetchListener(),
    hub: Hub | None = None,
    retries: Callable[[], Retries] = Retries,
) -> tuple[Path, ...]:
    """Return where files of the Hub lie, in their order, fetching those that are not here.

    files: of one repository and commit. hub: who is asked, None is the one the environment names. retries: made anew
    for each file. Raises NotFoundError, GatedError, UnreachableError, DiskFullError before the first byte where all of
    them together have no room, ChecksumError, HubError; what came by then is kept.
    """
    fetching = _Fetching(wish, listener, hub, retries)
    with disk_errors(wish.local_dir or fetching.folder):
        fetching.prepare(files)
        paths = tuple(map(fetching.path_of, files))
    if wish.revision is not None and wish.local_dir is None:
        with contextlib.suppress(OSError):  # a cache may be for reading only
            for remote in map(_remote, files[:1]):
                remember_revision(remote.repo_id, wish.revision, remote.commit, fetching.folder)
    return paths


class _Fetching:
    """One call of `fetch`: what is the same for all its files."""

    def __init__(
        self, wish: FetchWish, listener: FetchListener, hub: Hub | None, retries: Callable[[], Retries]
    ) -> None:
        self.folder = wish.folder or cache_folder()
        self._wish = wish
        self._listener = listener
        self._hub = hub
        self._retries = retries

    def prepare(self, files: Sequence[ModelFile]) -> None:
        """See that what is lacking may be fetched and has room; raises UnreachableError, DiskFullError."""
        lacking = [file for file in files if not self._is_here(file)]
        if lacking and self._is_offline():
            raise offline(f"{lacking[0].name} of {_remote(lacking[0]).repo_id}")
        check_room(sum(map(self._room_for, files)), self._wish.local_dir or self.folder)
        if lacking and self._wish.local_dir is None:
            mark_as_cache(self.folder)

    def _room_for(self, file: ModelFile) -> int:
        """Return how many bytes of a file are yet to come onto its disk, from the Hub or from another disk."""
        place = self._place(file, _checksum(file))
        if not self._is_here(file):
            return max(0, file.size - bytes_here(place))
        cached = self._cached(file)
        return 0 if cached is None or place.final.exists() or is_same_disk(cached, place.final) else file.size

    def path_of(self, file: ModelFile) -> Path:
        """Return where a file lies, once it does."""
        cached = self._cached(file)
        if cached is not None and self._wish.local_dir is None:
            return cached
        source = cache(lambda: Source(self._asked_hub(), file, self._listener.slow))  # where nobody is asked, not made
        checksum = _checksum(file) or self._told_checksum(file, source())
        place = self._place(file, checksum)
        with held(place, partial(self._listener.waiting, file)):
            is_read = self._put(file, place, source, checksum)
        self._listener.done(file, place.final, is_read and checksum is not None)
        return place.final

    def _put(self, file: ModelFile, place: Place, source: Callable[[], Source], checksum: Checksum | None) -> bool:
        """Have the file lie in its place, by what is here where that will do; return whether its bytes were read."""
        if self._wish.local_dir is not None:
            if place.final.exists():
                self._check_present(file, place, checksum)
                return True
        elif place.blob is not None and is_whole(place.blob, file.size):
            link(place)
            return False
        elif is_whole(place.final, file.size):  # another process brought it, while its lock was waited for
            return False
        if not self._is_copied(file, place, checksum):
            self._transfer(file, place, source, checksum)
        return True

    def _is_copied(self, file: ModelFile, place: Place, checksum: Checksum | None) -> bool:
        """Return whether the same file lay elsewhere in the cache and was lent; copied bytes are a part now."""
        told = partial(self._listener.checking, file)
        cached = self._cached(file)
        for path in (cached,) if cached is not None else namesakes(place):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if is_that_file(path, file.size, checksum, told):
                    return copy_from(path, place)
        return False

    def _transfer(self, file: ModelFile, place: Place, source: Callable[[], Source], checksum: Checksum | None) -> None:
        take_over(place)
        if self._is_offline() and bytes_here(place) < file.size:  # what seemed to be here is damaged
            raise offline(f"{file.name} of {_remote(file).repo_id}")
        told = self._listener
        listener = TransferListener(
            checking=partial(told.checking, file),
            progress=partial(told.progress, file),
            retrying=partial(told.retrying, file),
            restarting=partial(told.restarting, file),
        )
        with closing(Part(place.part, file.size, checksum)) as part:
            told.started(file, min(file.size, bytes_here(place)))
            Transfer(file.name, part, source(), self._retries(), listener).run()
            settle(place, part)

    def _check_present(self, file: ModelFile, place: Place, checksum: Checksum | None) -> None:
        """Raise UsageError where a folder of the user's has another file of the same name: it is the user's."""
        if not is_that_file(place.final, file.size, checksum, partial(self._listener.checking, file)):
            raise UsageError(f"{place.final} is there, and is another file", "move it away, or name another folder")

    def _told_checksum(self, file: ModelFile, source: Source) -> Checksum | None:
        """Return what the Hub says a small file adds up to, whose list has no sha256 of it."""
        retries = self._retries()
        while True:
            try:
                return source.location().checksum
            except SetbackError as setback:
                if setback.unreachable:
                    raise unreachable(setback.reason) from setback
                if not retries.wait_after(setback, partial(self._listener.retrying, file)):
                    raise given_up(file.name, setback, retries.in_a_row, 0, file.size) from setback

    def _cached(self, file: ModelFile) -> Path | None:
        """Return the file in the cache, None where it is not there whole."""
        path = snapshot_path(_remote(file), self.folder)
        return path if is_whole(path, file.size) else None

    def _is_here(self, file: ModelFile) -> bool:
        """Return whether nobody has to be asked for a file."""
        if self._cached(file) is not None:
            return True
        place = self._place(file, _checksum(file))
        return place.final.exists() if place.blob is None else is_whole(place.blob, file.size)

    def _place(self, file: ModelFile, checksum: Checksum | None) -> Place:
        if self._wish.local_dir is not None:
            return place_in_folder(_remote(file), checksum, self._wish.local_dir)
        return place_in_cache(_remote(file), checksum, self.folder)

    def _is_offline(self) -> bool:
        return self._wish.offline or is_offline()

    def _asked_hub(self) -> Hub:
        if self._hub is None:
            self._hub = this_hub()
        return self._hub


def _remote(file: ModelFile) -> RemoteFile:
    assert isinstance(file.origin, RemoteFile), "only files of the Hub are fetched"
    return file.origin


def _checksum(file: ModelFile) -> Checksum | None:
    if file.sha256 is None:
        return None
    found = parse_checksum(file.sha256)
    if found is None or found.kind != "sha256":
        raise HubError(f"{file.sha256[:80]!r} is no sha256 of {file.name}: it has 64 hexadecimal digits")
    return found
