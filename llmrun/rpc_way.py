"""The way to a server of ggml's RPC, tried with a few commands of its protocol: small ones, and bytes there and back.

What llama.cpp will send goes exactly this way, so nothing tells more about it. Source: llama.cpp 0c1e57098,
ggml/src/ggml-rpc/ggml-rpc.cpp. A server has one client at a time; all it was given goes when the connection does.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from statistics import median

from llmrun.engine.rpc_hello import RPC_MAJOR, say_hello
from llmrun.errors import EngineError
from llmrun.lending.status import MEASURING_BYTES

_ALLOC, _BASE, _SET, _GET, _COUNT = 0, 3, 6, 8, 15  # enum rpc_cmd
_BLOCK = MEASURING_BYTES  # below what a server would keep on disk (HASH_THRESHOLD)
_I8 = 24  # ggml.h, GGML_TYPE_I8
_ROUNDS = 15
_TENSOR = struct.Struct("<QIQ4I4II64xi80xQQQ64xi")  # rpc_tensor
_SIZE = struct.Struct("<Q")


class RpcWay:
    """A connection to a server; to be closed. Raises OSError where there is none, or none that understands."""

    def __init__(self, address: str, patience: float) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), patience)
        self._tensor: bytes | None = None
        self._noise = b""
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            version = say_hello(self._socket, patience)
            if version is None:
                raise ConnectionResetError("what answers is no device server")
            self.version = version[0]
            self._socket.settimeout(patience)
        except BaseException:
            self._socket.close()
            raise

    @property
    def connection(self) -> socket.socket:
        """What all goes over."""
        return self._socket

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def latency(self) -> float:
        """Return the median seconds of a small command."""
        times = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            self._wait()
            times.append(time.perf_counter() - started)
        return median(times)

    def open(self) -> None:
        """Ask for memory to send bytes to; raises EngineError where the server gives none, or is of another version."""
        if self.version != RPC_MAJOR:  # messages may be others
            raise EngineError("the server speaks another version of the protocol")
        pointer, size = struct.unpack("<QQ", self._ask(_ALLOC, struct.pack("<IQ", 0, _BLOCK), 16))
        if not pointer or size < _BLOCK:
            raise EngineError(f"the server has no {_BLOCK} bytes")
        (base,) = _SIZE.unpack(self._ask(_BASE, _SIZE.pack(pointer), 8))
        strides = (1, _BLOCK, _BLOCK, _BLOCK)
        self._tensor = _TENSOR.pack(1, _I8, pointer, _BLOCK, 1, 1, 1, *strides, 0, 0, 0, 0, base, 0)
        self._noise = os.urandom(_BLOCK)  # which no link compresses

    def upload(self, n: int) -> None:
        """Send about n bytes, and wait until they are there."""
        assert self._tensor is not None
        for begin in range(0, n, _BLOCK):
            size = min(_BLOCK, n - begin)
            head = self._tensor + bytes(1 + 8)  # not to be kept, from the beginning on
            self._send(_SET, head, memoryview(self._noise)[:size])
        self._wait()

    def download(self, n: int) -> None:
        """Fetch about n bytes."""
        assert self._tensor is not None
        for begin in range(0, n, _BLOCK):
            size = min(_BLOCK, n - begin)
            self._ask(_GET, self._tensor + struct.pack("<QQ", 0, size), size)

    def _wait(self) -> None:
        """Wait until the server has done all it was told."""
        self._ask(_COUNT, b"", 4)

    def _send(self, command: int, head: bytes, data: memoryview = memoryview(b"")) -> None:
        self._socket.sendall(bytes([command]) + _SIZE.pack(len(head) + len(data)) + head)
        self._socket.sendall(data)

    def _ask(self, command: int, request: bytes, n: int) -> bytearray:
        self._send(command, request)
        (size,) = _SIZE.unpack(self._receive(8))
        if size != n:
            raise ConnectionResetError(f"the server answered with {size} bytes in place of {n}")
        return self._receive(n)

    def _receive(self, n: int) -> bytearray:
        data = bytearray(n)
        view = memoryview(data)
        while view:
            got = self._socket.recv_into(view)
            if not got:
                raise ConnectionResetError("the server hung up")
            view = view[got:]
        return data
