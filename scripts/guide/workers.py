"""Threads that share the work of one training step.

Each takes the next piece when it is done with one, so a core that other programs use slows the step a little and does
not hold it up, as torch's own threads, which wait for each other in every operation, would (on two busy
cores a step took about half as long as with those). torch frees the interpreter lock while it computes.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from scripts.guide.batches import Batch
from scripts.guide.network import Network

PIECES = 2  # per worker and step


@dataclass(frozen=True)
class Workers:
    """`count` threads, each with one thread of torch."""

    count: int
    pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        """Start no thread yet; the pool does when it needs one."""
        torch.set_num_threads(1)
        object.__setattr__(self, "pool", ThreadPoolExecutor(self.count, initializer=_use_one_thread))

    def map(self, function: Callable[[Tensor], Tensor], items: Iterable[Tensor]) -> Iterator[Tensor]:
        """The results for `items`, in their order."""
        return self.pool.map(function, items)

    def gradients(self, network: Network, batch: Batch) -> float:
        """Set the gradient of the mean loss over the learned tokens on every parameter; the loss."""
        pieces: SimpleQueue[Batch] = SimpleQueue()
        for piece in _split(batch, self.count * PIECES):
            pieces.put(piece)
        total = max(1, int(batch.learned.sum()))
        done = [part for part in self.pool.map(lambda _: _work(network, pieces, total), range(self.count)) if part[1]]
        gradients = done[0][1]
        for _, more in done[1:]:
            torch._foreach_add_(gradients, more)
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return sum(loss for loss, _ in done)


def _work(network: Network, pieces: "SimpleQueue[Batch]", total: int) -> tuple[float, list[Tensor]]:
    """Take pieces until none is left; their share of the mean loss, and its gradients (none without a piece)."""
    parameters, summed, loss_sum = list(network.parameters()), list[Tensor](), 0.0
    while True:
        try:
            piece = pieces.get_nowait()
        except Empty:
            return loss_sum, summed
        logits = network.logits(network(piece.ids)[piece.learned])
        loss = F.cross_entropy(logits, piece.targets[piece.learned], reduction="sum") / total
        gradients = list(torch.autograd.grad(loss, parameters))
        loss_sum += float(loss.detach())
        if summed:
            torch._foreach_add_(summed, gradients)
        else:
            summed = gradients


def _split(batch: Batch, count: int) -> list[Batch]:
    size = -(-len(batch.ids) // count)
    parts = (torch.split(tensor, size) for tensor in (batch.ids, batch.targets, batch.learned))
    return [Batch(*part) for part in zip(*parts, strict=True)]


def _use_one_thread() -> None:
    torch.set_num_threads(1)
