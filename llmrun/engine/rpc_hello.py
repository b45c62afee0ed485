"""The handshake of ggml's RPC, as whoever asks a server before llama.cpp may touch it says it.

Source: llama.cpp 0c1e57098, ggml/src/ggml-rpc/ggml-rpc.cpp.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket  # who is given a connection has it already

RPC_MAJOR, RPC_MINOR = 7, 0  # ggml-rpc.h, RPC_PROTO_*; a server of another major, or a newer minor, is an abort
RPC_VERSION = f"{RPC_MAJOR}.{RPC_MINOR}"
NO_SERVER = "is no device server"  # the end of what is said where something else answers
_HELLO = bytes([14]) + (24).to_bytes(8, "little") + bytes(24)  # RPC_CMD_HELLO, rpc_msg_hello_req
_REPLY_BYTES = 28  # rpc_msg_hello_rsp


def say_hello(connection: socket.socket, seconds: float) -> tuple[int, int] | None:
    """Return the major and minor version of the protocol that a server speaks; None where it is no such server.

    Raises OSError where the connection breaks, TimeoutError where not all of the answer came in so many seconds.
    """
    until = time.monotonic() + seconds
    connection.settimeout(seconds)
    connection.sendall(_HELLO)
    reply = b""
    while len(reply) < 8 + _REPLY_BYTES:
        connection.settimeout(max(1e-3, until - time.monotonic()))  # in all, not anew with every byte
        data = connection.recv(8 + _REPLY_BYTES - len(reply))
        if not data:
            return None
        reply += data
    return (reply[8], reply[9]) if int.from_bytes(reply[:8], "little") == _REPLY_BYTES else None
