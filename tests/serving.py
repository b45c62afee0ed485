"""The real server as the tests start it: the program, a free port, an empty home."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.environments import clean_environment


@dataclass(frozen=True)
class Server:
    """A running server. url: without a slash at its end; home: where it keeps its files; said: before it was ready."""

    url: str
    process: subprocess.Popen[str]
    home: Path
    said: str

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str | None = None
    ) -> tuple[int, Any]:
        """Send JSON (GET without a body) and return the status and what came, parsed where it is JSON."""
        data = None if body is None else json.dumps(body).encode()
        head = {"Content-Type": "application/json"} | dict(headers or {})
        wanted = urllib.request.Request(self.url + path, data, head, method=method)
        try:
            with urllib.request.urlopen(wanted, timeout=60) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text


@contextmanager
def serving(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve while the context lasts: `llmrun serve ARGUMENTS --port 0`, ended as Ctrl-C does."""
    command = [sys.executable, "-P", "-m", "llmrun.cli.main", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=clean_environment(home) | dict(env or {})
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"http://\S+", line):
                    yield Server(found[0].rstrip("/"), process, home, "".join(said))
                    break
            else:
                raise AssertionError("the server did not start:\n" + "".join(said))
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
