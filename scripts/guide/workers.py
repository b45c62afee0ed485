"""Threads that share the work of one training step.

Each takes the next piece when it is done with one, so a core that other programs use slows the step a little and does
not hold it up, as torch's own threads, which wait for each other in every operation, would (on two busy
cores a step took about half as long as with those). torch frees the interpreter lock while it computes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from scripts.guide.batches import Batch
from scripts.guide.network import Network
from scripts.guide.precision import fast
from scripts.guide.stages import Stage

PIECES = 2  # per worker and step


@dataclass(frozen=True)
class Workers:
    """`count` threads, each with one thread of torch."""

    count: int
    firsts: Tensor  # the first token of each kind of answer
    pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        """Start no thread yet; the pool does when it needs one."""
        torch.set_num_threads(1)
        object.__setattr__(self, "pool", ThreadPoolExecutor(self.count, initializer=_use_one_thread))

    def map(self, function: Callable[[Tensor], Tensor], items: Iterable[Tensor]) -> Iterator[Tensor]:
        """The results for `items`, in their order."""
        return self.pool.map(function, items)

    def gradients(self, network: Network, parameters: Sequence[Tensor], batch: Batch, stage: Stage) -> float:
        """Set the gradient of the mean loss over answers, and over tokens where they are learned; the loss."""
        pieces: SimpleQueue[Batch] = SimpleQueue()
        for piece in _split(batch, self.count * PIECES):
            pieces.put(piece)
        total, answers = max(1, int(batch.learned.sum())), max(1, int((batch.kinds >= 0).sum()))
        task = _Task(network, parameters, self.firsts, stage, total, answers)
        done = [part for part in self.pool.map(lambda _: _work(task, pieces), range(self.count)) if part[1]]
        gradients = done[0][1]
        for _, more in done[1:]:
            torch._foreach_add_(gradients, more)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return sum(loss for loss, _ in done)


@dataclass(frozen=True, slots=True)
class _Task:
    """What all workers of a step share; total: learned tokens of the step, answers: answers that begin in it."""

    network: Network
    parameters: Sequence[Tensor]
    firsts: Tensor
    stage: Stage
    total: int
    answers: int


def _work(task: _Task, pieces: "SimpleQueue[Batch]") -> tuple[float, list[Tensor]]:
    """Take pieces until none is left; their share of the mean loss, and its gradients (none without a piece)."""
    summed, loss_sum = list[Tensor](), 0.0
    while True:
        try:
            piece = pieces.get_nowait()
        except Empty:
            return loss_sum, summed
        with fast():
            loss = _loss(task, piece)
        gradients = list(torch.autograd.grad(loss, task.parameters))
        loss_sum += float(loss.detach())
        if summed:
            torch._foreach_add_(summed, gradients)
        else:
            summed = gradients


def _loss(task: _Task, piece: Batch) -> Tensor:
    """The piece's share of the mean loss: the router's over answers, or, where answers are written, of three.

    Over the tokens but the first; over answers, for what all likely ones begin with; and for how far that which the
    first token is chosen from has moved from what the router sees. Weighed as one token of twenty it was right of 71 %
    of dev's answers, where the router knew 93 % of them; weighed as all others the rest was learned a fifth as fast.
    """
    network = task.network
    assert network.router is not None
    begins = piece.kinds >= 0
    wanted = wanted_kinds(piece, begins, network.shape.kinds)
    if not task.stage.writes:
        return F.cross_entropy(network.router(network.read(piece.ids)[begins]), wanted, reduction="sum") / task.answers
    with torch.no_grad():
        read = network.read(piece.ids)
        seen = network.router.norm(read[begins])
    hidden = network.write(read)
    later, opening = piece.learned & ~begins, _opening(wanted, task.firsts, network.shape.vocabulary)
    told = F.cross_entropy(network.logits(hidden[later]), piece.targets[later], reduction="sum")
    begun = F.cross_entropy(network.logits(hidden[begins]), opening, reduction="sum")
    moved = (hidden[begins] - seen).square().mean(-1).sum()
    return told / task.total + (task.stage.begun * begun + moved) / task.answers


def _opening(wanted: Tensor, firsts: Tensor, vocabulary: int) -> Tensor:
    """How likely each token should be as the first one, of shape (answers, vocabulary)."""
    return torch.zeros(len(wanted), vocabulary).index_add_(1, firsts, wanted)


def wanted_kinds(piece: Batch, begins: Tensor, n_kinds: int) -> Tensor:
    """How likely each kind of answer should be where one begins, of shape (answers, kinds)."""
    wanted = F.one_hot(piece.kinds[begins], n_kinds).float()
    shares = piece.shares[begins.nonzero()[:, 0]]
    return torch.where(shares.sum(1, keepdim=True) > 0, shares, wanted)


def _split(batch: Batch, count: int) -> list[Batch]:
    size = -(-len(batch.ids) // count)
    parts = (
        torch.split(tensor, size) for tensor in (batch.ids, batch.targets, batch.learned, batch.kinds, batch.shares)
    )
    return [Batch(*part) for part in zip(*parts, strict=True)]


def _use_one_thread() -> None:
    torch.set_num_threads(1)
