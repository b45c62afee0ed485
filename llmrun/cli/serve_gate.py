"""The options of `serve` that say who may ask, and how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from llmrun.errors import UsageError

if TYPE_CHECKING:
    from llmrun.server.guard import Policy
    from llmrun.server.keys import Key, Keys
    from llmrun.server.serving import Address

_PANEL = "Who may ask"

ApiKey = Annotated[
    Optional[str],  # noqa: UP045 - typer
    typer.Option(
        metavar="KEY", envvar="LLMRUN_API_KEY", help="A key that clients must send; `new` makes one.",
        rich_help_panel=_PANEL,
    ),
]  # fmt: skip
ApiKeyFile = Annotated[
    Optional[Path],  # noqa: UP045 - typer
    typer.Option(metavar="FILE", help="Keys, one a line as `name: key`; mode 600.", rich_help_panel=_PANEL),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Serve other machines without a key.", rich_help_panel=_PANEL)
]
AllowHost = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer
    typer.Option(metavar="NAME", help="A name the server may be asked by; repeatable.", rich_help_panel=_PANEL),
]
AllowOrigin = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer
    typer.Option(metavar="URL", help="A site whose pages may ask; repeatable.", rich_help_panel=_PANEL),
]
RateOption = Annotated[
    Optional[str],  # noqa: UP045 - typer
    typer.Option("--rate", metavar="N/UNIT", help="Requests a key may send: 60/min.", rich_help_panel=_PANEL),
]
MaxBody = Annotated[str, typer.Option(metavar="SIZE", help="The largest request.", rich_help_panel=_PANEL)]
Grace = Annotated[
    float,
    typer.Option(min=0, max=3600, metavar="SECONDS", help="For answers to finish at the end.", rich_help_panel=_PANEL),
]
LogPrompts = Annotated[
    bool, typer.Option("--log-prompts", help="Show what is asked, with --verbose.", rich_help_panel=_PANEL)
]


@dataclass(frozen=True, slots=True)
class Gate:
    """What the command line said about who may ask."""

    api_key: ApiKey = None
    api_key_file: ApiKeyFile = None
    insecure: Insecure = False
    allow_host: AllowHost = None
    allow_origin: AllowOrigin = None
    rate: RateOption = None
    max_body: MaxBody = "8 MiB"
    grace: Grace = 30.0
    log_prompts: LogPrompts = False

    @property
    def has_keys(self) -> bool:
        """Whether clients are asked for a key."""
        return self.api_key is not None or self.api_key_file is not None

    def policy(self, address: Address, tell: Callable[[str], None]) -> Policy:
        """Return what is let in; `tell` gets what must be seen, a new key among it. Raises UsageError."""
        from llmrun.server.guard import Policy
        from llmrun.server.origins import Doors, parse_host, parse_origin
        from llmrun.server.rates import parse_rate
        from llmrun.server.reach import is_everywhere, read_own_names
        from llmrun.units import parse_bytes

        max_body = parse_bytes(self.max_body)
        if max_body < 1024:
            raise UsageError(f"--max-body {self.max_body} is too little for any request", "--max-body 8MiB is usual")
        rate = None if self.rate is None else parse_rate(self.rate)
        own = read_own_names() if is_everywhere(address.host) else ()
        return Policy(
            Doors(
                frozenset((*own, *(parse_host(name) for name in (address.host, *(self.allow_host or ()))))),
                frozenset(parse_origin(url) for url in self.allow_origin or ()),
            ),
            self._keys(tell),
            rate,
            max_body,
        )

    def warnings(self, address: Address) -> list[str]:
        """Return what whoever starts such a server must know; address: where it really listens."""
        from llmrun.server.origins import is_loopback

        if is_loopback(address.host):
            return []
        if not self.has_keys:
            return [f"WARNING: --insecure: whoever can reach {address.host} can use this server, without a key"]
        return [f"warning: what goes to {address.host} is not encrypted: keys and prompts can be read on the way"]

    def _keys(self, tell: Callable[[str], None]) -> Keys | None:
        from llmrun.server.keys import SHORT, Keys, make_key, parse_key, read_keys

        if not self.has_keys:
            return None
        found: list[Key] = [] if self.api_key_file is None else list(read_keys(self.api_key_file.expanduser()))
        if self.api_key is not None:
            text = self.api_key
            if text == "new":
                text = make_key()
                tell(f"API key: {text}\n(shown this once; clients send it as `Authorization: Bearer`)")
            found.append(parse_key(text, "key" if all(key.name != "key" for key in found) else "--api-key"))
        for key in found:
            if key.is_short:
                which = "an API key" if key.name == "key" else f"the API key {key.name!r}"
                tell(f"warning: {which} of fewer than {SHORT} characters can be guessed: --api-key new makes one")
        return Keys(found)
