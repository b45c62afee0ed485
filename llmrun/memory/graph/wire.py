"""What crosses the network while a graph is computed, some of its backends being those of RPC servers: bytes, answers.

Source: llama.cpp 0c1e57098, ggml/src/ggml-backend.cpp (ggml_backend_sched_compute_splits, ggml_backend_tensor_copy) and
ggml/src/ggml-rpc/ggml-rpc.cpp. What goes from server to server goes through this machine. Sizes may be formal ones, see
llmrun.memory.graph.shape. Pure; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmrun.memory.graph.scheduler import Split
from llmrun.memory.graph.tensor import Op, Tensor

# bytes of the messages beside what they carry: ggml-rpc.cpp, the structs at its beginning, send_rpc_cmd
_COMMAND = 1 + 8
_LENGTH = 8
_TENSOR = 296  # rpc_tensor
_SET = _COMMAND + _TENSOR + 1 + 8  # serialize_set_tensor
_GET = _COMMAND + _TENSOR + 8 + 8
_COPY = _COMMAND + 2 * _TENSOR
_COPIED = _LENGTH + 1
_GRAPH, _NODE = _COMMAND + 3 * 4, 8  # serialize_graph
_RECOMPUTE = _COMMAND + 4
ASK, TOLD = _COMMAND + 4 + 11 * _TENSOR, _LENGTH + 8  # rpc_msg_get_alloc_size_req, its answer


@dataclass(slots=True)
class Crossing:
    """What one step sends to a server's device and receives from it.

    sent, received: bytes without graphs. trips: answers that are waited for. graph: bytes of its graphs, which are sent
    where they are not those of the step before; again: bytes in their place where they are. questions: how often the
    server is asked for the size of a result (ASK, TOLD), once for each number of tokens that is new.
    """

    sent: int = 0
    received: int = 0
    trips: int = 0
    graph: int = 0
    again: int = 0
    questions: int = 0


def crossings(splits: Sequence[Split], result: Tensor, servers: Sequence[str | None]) -> tuple[Crossing, ...]:
    """Return what crosses to each backend; servers: of each the server it is of, None is this machine's.

    result: what is read when all is done, as the logits are.
    """
    found = tuple(Crossing() for _ in servers)
    for split in splits:
        for source, _ in split.inputs:
            _copy(found, servers, source, split.backend)
        if servers[split.backend] is not None:
            here, is_only = found[split.backend], not found[split.backend].graph
            here.graph += _graph_bytes(split.nodes)
            # a device remembers its last graph: where it has two in a step, both are sent each time
            here.again = _RECOMPUTE if is_only else here.graph
            here.questions += len({(node.op, node.ne) for node in split.nodes if _is_asked_about(node)})
    assert result.backend is not None
    if servers[result.backend] is not None and result.size:
        _fetch(found[result.backend], result)
    return found


def _copy(found: Sequence[Crossing], servers: Sequence[str | None], source: Tensor, to: int) -> None:
    """A server copies between its own devices; all else is fetched, and sent on."""
    assert source.backend is not None
    there, here = servers[source.backend], servers[to]
    if not source.size:
        return
    if there is not None and there == here:
        found[to].sent += _COPY
        found[to].received += _COPIED
        found[to].trips += 1
        return
    if there is not None:
        _fetch(found[source.backend], source)
    if here is not None:
        found[to].sent += _SET + source.size


def _fetch(there: Crossing, tensor: Tensor) -> None:
    there.sent += _GET
    there.received += _LENGTH + tensor.size
    there.trips += 1


def _is_asked_about(node: Tensor) -> bool:
    """Whether a server may want more for a result than its bytes: products and attention (alloc_size_may_expand).

    Those of one row are known from the steps of one token.
    """
    product = node.op is Op.PLAIN and bool(node.sources) and node.sources[0].weight and max(node.ne[1:]) > 1
    return product or node.op is Op.ATTENTION


def _graph_bytes(nodes: Iterable[Tensor]) -> int:
    """Return the bytes of a graph as it is sent: its nodes, and whatever can be reached from them (add_tensor)."""
    waiting = list(nodes)
    n_nodes, seen = len(waiting), {id(node) for node in waiting}
    while waiting:
        tensor = waiting.pop()
        for other in (*tensor.sources, *(() if tensor.view_of is None else (tensor.view_of,))):
            if id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)
    return _GRAPH + _NODE * n_nodes + _TENSOR * len(seen)
