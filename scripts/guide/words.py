"""A start for the network: what each token is worth by itself, learned in half a minute without any layer.

The mean of a question's tokens tells its answer in four of five cases already. The network begins as that mean: its
first layer attends to the last ones, so that a question counts and not what was said before it, and passes on what they
are; all others add nothing yet.
"""

import random

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from scipy.optimize import nnls
from tokenizers import Tokenizer
from torch import Tensor, nn

from scripts.guide.conversations import Corpus, Mix
from scripts.guide.lessons import draw_lessons
from scripts.guide.network import Layer, Network, Shape
from scripts.guide.teacher import Teacher
from scripts.guide.tokenizer import encode_prompt

QUESTIONS = 160_000
STEPS, ROWS, RATE = 3000, 512, 1e-2
SPREAD = 0.05  # standard deviation of the embedding that the network begins with
ALIKE = 0.5  # of the length of a token's vector: what all tokens have alike
NEARNESS, WINDOW = 8.0, 60.0  # the score of a token by itself, and after how many tokens it has fallen to a third
NEARLY_EVEN = 1e-3  # standard deviation of what else queries and keys begin with


def begin(network: Network, corpus: Corpus, teacher: Teacher, tokenizer: Tokenizer, seed: int) -> float:
    """Set the network's first weights; the loss that the mean of the tokens had in the end."""
    rng = random.Random(f"words/{seed}")
    lessons = [one for one in draw_lessons(corpus, teacher, rng, QUESTIONS, Mix(1.0)) if one.shares is not None]
    prompts = [torch.tensor(encode_prompt(tokenizer, one.talk.turns[-1].question)) for one in lessons]
    shares = torch.stack([torch.from_numpy(one.shares) for one in lessons])
    words, router, loss = _train(prompts, shares, network.shape.vocabulary, network.shape.width, seed)
    with torch.no_grad():
        _set(network, words, router)
    return loss


def learned(network: Network) -> list[Tensor]:
    """The parameters in which that mean lies; all others only add to it."""
    first = network.layers[0]
    assert network.router is not None
    assert isinstance(first, Layer)
    return [network.embedding.weight, network.router.matrix.weight, first.v.weight, first.out.weight]


@torch.no_grad()
def _set(network: Network, words: Tensor, router: Tensor) -> None:
    """Make the first layer the mean of what the last tokens are, and all others add nothing.

    One direction, the one that tells kinds of answers apart least, is given to all tokens alike: queries and keys see
    only that, so that how much a token counts depends on its distance alone.
    """
    assert network.router is not None
    width = network.shape.width
    alike = torch.linalg.svd(router)[2][-1]
    words = F.rms_norm(words, (width,))
    words = words + (ALIKE * width**0.5 - words @ alike).outer(alike)
    network.embedding.weight.copy_(SPREAD * words)
    network.router.matrix.weight.copy_(router)
    layers = [layer for layer in network.layers if isinstance(layer, Layer)]
    for layer in layers:
        nn.init.zeros_(layer.down.weight)
        nn.init.zeros_(layer.out.weight)
    nn.init.eye_(layers[0].out.weight)
    layers[0].v.weight.copy_(torch.eye(width) - alike.outer(alike))
    for matrix in (layers[0].q, layers[0].k):
        nn.init.normal_(matrix.weight, std=NEARLY_EVEN)
        matrix.weight.add_(_nearness(network.shape).outer(alike) / float(F.rms_norm(words, (width,))[0] @ alike))


def _nearness(shape: Shape) -> Tensor:
    """The query and key of every token, of shape (width,): their product after rotation falls with the distance.

    A sum of cosines, with weights that are not negative since both sides are alike, as near as it can be to
    NEARNESS * exp(-(distance / WINDOW)^2).
    """
    half = shape.width // shape.heads // 2
    distance = torch.arange(1000.0)
    cosines = torch.outer(distance, shape.rope_base ** (-torch.arange(half) / half)).cos()
    weights, _ = nnls(cosines.numpy(), torch.exp(-((distance / WINDOW) ** 2)).numpy())
    scaled = torch.from_numpy(weights).float() * NEARNESS * (2 * half) ** 0.5  # attention divides by that root
    return torch.cat((scaled.sqrt(), torch.zeros(half))).repeat(shape.heads)


def _train(
    prompts: list[Tensor], shares: Tensor, vocabulary: int, width: int, seed: int
) -> tuple[Tensor, Tensor, float]:
    """The tokens' vectors, the kinds' vectors and the last loss; batches are drawn with `seed`."""
    drawn = torch.Generator().manual_seed(seed)
    words = nn.Parameter(0.02 * torch.randn(vocabulary, width, generator=drawn))
    router = nn.Parameter(torch.randn(shares.shape[1], width, generator=drawn) * width**-0.5)
    adam = torch.optim.AdamW([words, router], RATE, weight_decay=0.0)
    mean = 0.0
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        chosen = torch.randint(len(prompts), (ROWS,), generator=drawn)
        rows = [prompts[index] for index in chosen.tolist()]
        starts = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
        vectors = F.embedding_bag(torch.cat(rows), F.rms_norm(words, (width,)), starts, mode="mean")
        loss = F.cross_entropy(F.rms_norm(vectors, (width,)) @ router.T, shares[chosen])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        mean = 0.99 * mean + 0.01 * float(loss.detach())
    return words.detach(), router.detach(), mean
