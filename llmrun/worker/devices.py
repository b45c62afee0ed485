"""What ggml sees: devices, their buffer types, and servers that lend theirs over the network (ggml's RPC backend).

A server is asked by a handshake of our own before llama.cpp may touch it: llama.cpp aborts where nobody answers.
Must not know what is put on a device.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_cpp as lib

from llmrun.engine.protocol import DeviceInfo, EngineInfo
from llmrun.engine.refusal import LENDER_LOST, lost_line
from llmrun.engine.rpc_hello import NO_SERVER, RPC_MAJOR, RPC_MINOR, RPC_VERSION, say_hello
from llmrun.engine.wire import as_text
from llmrun.errors import EngineError, UsageError
from llmrun.worker.bindings import read_version

if TYPE_CHECKING:
    from llmrun.worker.connections import Connections

KINDS = ("CPU", "GPU", "IGPU", "ACCEL", "META")  # ggml-backend.h, enum ggml_backend_dev_type

_ENDPOINT = re.compile(r"rpc:([\w.-]+):(\d{1,5})(?:/(\d{1,3}))?", re.ASCII)
_HELLO_SECONDS = 3.0

_Pointer, _Size, _Text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p


@cache
def bind(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of ggml or llama.cpp that the bindings leave out; raises AttributeError where there is none.

    It is looked up from libllama, never from a library opened anew: a second copy would have devices of its own.
    """
    for library in _libraries():
        with contextlib.suppress(AttributeError):
            function = library[name]
            function.restype, function.argtypes = result, list(arguments)
            return function
    raise AttributeError(name)


@cache
def _libraries() -> tuple[Any, ...]:
    if os.name != "nt":
        return (lib._lib,)  # the look-up goes on in what it depends on
    folder = Path(lib._lib._name).parent
    return (lib._lib, *(ctypes.CDLL(str(folder / name)) for name in ("ggml.dll", "ggml-base.dll")))


class Devices:
    """Every device that layers can be given to, by the name the settings use. There is one for the process."""

    def __init__(self) -> None:
        self._attached: dict[str, tuple[int, ...]] = {}
        self._in_use: frozenset[str] = frozenset()
        self._watched: Watched | None = None

    def list(self, endpoints: Sequence[str] = ()) -> tuple[DeviceInfo, ...]:
        """Describe this machine's devices, then those at endpoints; raises EngineError where no server answers."""
        remote = [_endpoint(name)[0] for name in endpoints]
        found = [_describe(pointer, name_of(pointer)) for pointer in local_devices()]
        for endpoint in dict.fromkeys(remote):
            pointers = self._attach(endpoint)
            found += [_describe(pointer, _remote_name(endpoint, number)) for number, pointer in enumerate(pointers)]
        return tuple(found)

    def open(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return ggml's devices of these names; UsageError for a name that is none, EngineError as in `list`."""
        for name in names:
            if name.startswith("rpc:"):
                self._attach(_endpoint(name)[0])
        return self.pointers(names)

    def pointers(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return ggml's devices of these names, which were opened before; a server in use is not asked again."""
        local = {name_of(pointer): pointer for pointer in local_devices()}
        return tuple(local[name] if name in local else self._remote(name, local) for name in names)

    def keep(self, names: Sequence[str]) -> None:
        """Say that a model holds these devices: a server has one client at a time, and answers no other handshake."""
        self._in_use = frozenset(match[1] + ":" + match[2] for name in names if (match := _ENDPOINT.fullmatch(name)))
        if self._watched is not None:
            self._watched.look()

    def known(self) -> tuple[int, ...]:
        """Return every device, attached ones included."""
        return (*local_devices(), *(pointer for pointers in self._attached.values() for pointer in pointers))

    def by_buffer_type(self) -> dict[str, str]:
        """Return what the settings call each device, by ggml's name of the memory it has."""
        local = {pointer: name_of(pointer) for pointer in local_devices() if kind_of(pointer) in ("GPU", "IGPU")}
        attached = {
            pointer: _remote_name(endpoint, number)
            for endpoint, pointers in self._attached.items()
            for number, pointer in enumerate(pointers)
        }
        return {buffer_type_of(pointer): name for pointer, name in (local | attached).items()}

    def _remote(self, name: str, local: dict[str, int]) -> int:
        if not name.startswith("rpc:"):
            raise UsageError(f"there is no device {name!r}", f"there are: {', '.join(local)}, and rpc:HOST:PORT")
        endpoint, number = _endpoint(name)
        pointers = self._attached.get(endpoint, ())
        if number >= len(pointers):
            raise UsageError(f"the server at {endpoint} lends {len(pointers)} devices: there is no {name!r}")
        return pointers[number]

    def _attach(self, endpoint: str) -> tuple[int, ...]:
        self._watched = self._watched or Watched()
        if endpoint not in self._in_use:
            with self._watched.connections.unwatched():
                _greet(endpoint)
        self._watched.know(endpoint)
        if endpoint not in self._attached:
            # not registered with ggml: settings that name no devices mean those of this machine
            registry = _rpc_function("ggml_backend_rpc_add_server", _Pointer, _Text)(endpoint.encode())
            if not registry:
                raise EngineError(f"the server at {endpoint} lends no device")
            n = bind("ggml_backend_reg_dev_count", _Size, _Pointer)(registry)
            get = bind("ggml_backend_reg_dev_get", _Pointer, _Pointer, _Size)
            self._attached[endpoint] = tuple(get(registry, index) for index in range(n))
        return self._attached[endpoint]


class Watched:
    """The lenders of this process: it ends where one is lost, which no model survives, and its log says which.

    There is one for the process, as ggml calls one function before it aborts.
    """

    connections: Connections

    def __init__(self) -> None:
        from llmrun.worker.connections import Connections  # here, because most workers never need it, nor sockets

        self.connections = Connections(self._end)
        # ggml.h, ggml_abort_callback_t; ours to keep alive
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(self._abort)
        bind("ggml_set_abort_callback", _Pointer, _Pointer)(ctypes.cast(self._callback, _Pointer))

    def know(self, endpoint: str) -> None:
        """Look after the connections to HOST:PORT from here on."""
        host, _, port = endpoint.rpartition(":")
        self.connections.know(host, int(port), f"rpc:{endpoint}")

    def look(self) -> None:
        """Look at the connections now: those to servers that a model was just given to are new."""
        for lender in self.connections.lost():
            self._end(lender)

    def _abort(self, message: bytes) -> None:
        """Say what ggml would; where a connection was the reason, whose it was. It aborts when this returns."""
        os.write(2, message + b"\n")
        if b"ggml-rpc.cpp" in message:
            self._end(*self.connections.lost())

    @staticmethod
    def _end(*lenders: str) -> None:
        """End at once: to abort may mean to write all memory to a file first."""
        os.write(2, "".join(f"{lost_line(lender)}\n" for lender in lenders).encode())
        os._exit(LENDER_LOST)


_devices = Devices()


def devices() -> Devices:
    """Return the process's devices; ggml has only one list as well."""
    return _devices


def local_devices() -> tuple[int, ...]:
    """Return the devices of this machine, in ggml's order."""
    get = bind("ggml_backend_dev_get", _Pointer, _Size)
    return tuple(get(index) for index in range(bind("ggml_backend_dev_count", _Size)()))


def name_of(device: int) -> str:
    """Return ggml's name of a device, such as "CUDA0"."""
    return _text(bind("ggml_backend_dev_name", _Text, _Pointer)(device))


def buffer_type_of(device: int) -> str:
    """Return ggml's name of a device's own buffer type, such as "RPC0[127.0.0.1:50052]"."""
    kind = bind("ggml_backend_dev_buffer_type", _Pointer, _Pointer)(device)
    return _text(bind("ggml_backend_buft_name", _Text, _Pointer)(kind))


def kind_of(device: int) -> str:
    """Return one of KINDS."""
    return KINDS[bind("ggml_backend_dev_type", ctypes.c_int, _Pointer)(device)]


def cpu_device() -> int:
    """Return the CPU as a device."""
    return next(device for device in local_devices() if kind_of(device) == "CPU")


def engine_info() -> EngineInfo:
    """Return what the engine says of itself."""
    registry = bind("ggml_backend_reg_get", _Pointer, _Size)
    registry_name = bind("ggml_backend_reg_name", _Text, _Pointer)
    n = bind("ggml_backend_reg_count", _Size)()
    return EngineInfo(
        version=read_version(),
        folder=as_text(str(Path(lib._lib._name).parent)),
        backends=tuple(_text(registry_name(registry(index))) for index in range(n)),
        system_info=_text(lib.llama_print_system_info()),
        gpu_offload=bool(lib.llama_supports_gpu_offload()),
    )


def serve(endpoint: str, n_threads: int, offered: Sequence[int], cache: str | None = None) -> None:
    """Lend devices at HOST:PORT, HOST in numbers, to one client at a time; returns only where that fails.

    cache: a folder in which tensors of more than 10 MiB that came once are kept, by a hash of what is in them. Raises
    EngineError where the engine has no such server.
    """
    arguments = (_Text, _Text, _Size, _Size, ctypes.POINTER(ctypes.c_void_p))
    try:
        start = _rpc_function("ggml_backend_rpc_start_server", None, *arguments)
    except EngineError as error:
        raise EngineError("the installed engine cannot lend devices: it was built without RPC", error.hint) from error
    folder = None if cache is None else os.fsencode(cache)
    start(endpoint.encode(), folder, n_threads, len(offered), (_Pointer * len(offered))(*offered))


def describe(device: int) -> DeviceInfo:
    """Return what ggml says of a device of this machine."""
    return _describe(device, name_of(device))


def _describe(device: int, name: str) -> DeviceInfo:
    free, total = _Size(), _Size()
    bind("ggml_backend_dev_memory", None, _Pointer, _Pointer, _Pointer)(
        device, ctypes.addressof(free), ctypes.addressof(total)
    )
    registry = bind("ggml_backend_dev_backend_reg", _Pointer, _Pointer)(device)
    return DeviceInfo(
        id=name,
        name=name_of(device),
        description=_text(bind("ggml_backend_dev_description", _Text, _Pointer)(device)),
        backend=_text(bind("ggml_backend_reg_name", _Text, _Pointer)(registry)),
        kind=kind_of(device),
        free=free.value,
        total=total.value,
    )


def _rpc_function(name: str, result: Any, *arguments: Any) -> Any:
    registry = bind("ggml_backend_reg_by_name", _Pointer, _Text)(b"RPC")
    if not registry:
        raise EngineError(
            "the installed engine cannot use devices of other machines: it was built without RPC",
            "`llmrun doctor --fix --backend cpu` builds one with it, and so for cuda, rocm, vulkan, metal and sycl",
        )
    address = bind("ggml_backend_reg_get_proc_address", _Pointer, _Pointer, _Text)(registry, name.encode())
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def _remote_name(endpoint: str, number: int) -> str:
    return f"rpc:{endpoint}" + f"/{number}" * (number > 0)


def _endpoint(name: str) -> tuple[str, int]:
    """Take HOST:PORT and the device's number out of a name."""
    match = _ENDPOINT.fullmatch(name)
    if match is None or int(match[2]) > 65535:
        raise UsageError(
            f"{name!r} is no device of another machine", "write rpc:HOST:PORT, as in rpc:192.168.1.7:50052"
        )
    return f"{match[1]}:{match[2]}", int(match[3] or 0)


def _greet(endpoint: str) -> None:
    """Shake hands as llama.cpp would, and hang up; raises EngineError where it would have aborted or waited on."""
    import socket  # here, because most workers never need it

    host, _, port = endpoint.rpartition(":")
    hint = "is a server of ggml-rpc running there, with no firewall between?"
    try:
        with socket.create_connection((host, int(port)), _HELLO_SECONDS) as connection:
            version = say_hello(connection, _HELLO_SECONDS)
    except TimeoutError as error:
        raise EngineError(
            f"{endpoint} did not answer in {_HELLO_SECONDS:g} seconds",
            "a server has one client at a time: is it in use?",
        ) from error
    except OSError as error:
        raise EngineError(f"no device server can be reached at {endpoint}: {error.strerror or error}", hint) from error
    if version is None:
        raise EngineError(f"what answers at {endpoint} {NO_SERVER}", hint)
    major, minor = version
    if major != RPC_MAJOR or minor > RPC_MINOR:
        raise EngineError(
            f"the device server at {endpoint} speaks version {major}.{minor}, this engine {RPC_VERSION}",
            "install the same llmrun on both machines",
        )


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace").strip()
