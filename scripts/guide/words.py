"""A start for the network: what each token is worth by itself, learned in half a minute without any layer.

The mean of a question's tokens tells its answer in four of five cases already. The network begins as that mean: its
first layer attends evenly to all tokens and passes on what they are; all others add nothing yet.
"""

import random

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from tokenizers import Tokenizer
from torch import Tensor, nn

from scripts.guide.conversations import Corpus
from scripts.guide.lessons import draw_lessons
from scripts.guide.network import Layer, Network
from scripts.guide.teacher import Teacher
from scripts.guide.tokenizer import encode_prompt

QUESTIONS = 120_000
STEPS, ROWS, RATE = 2500, 512, 1e-2
SPREAD = 0.05  # standard deviation of the embedding that the network begins with
NEARLY_EVEN = 1e-3  # of the first layer's queries and keys


def begin(network: Network, corpus: Corpus, teacher: Teacher, tokenizer: Tokenizer, seed: int) -> float:
    """Set the network's first weights; the loss that the mean of the tokens had in the end."""
    rng = random.Random(f"words/{seed}")
    lessons = [one for one in draw_lessons(corpus, teacher, rng, QUESTIONS, 1.0) if one.shares is not None]
    prompts = [torch.tensor(encode_prompt(tokenizer, one.talk.turns[-1].question)) for one in lessons]
    shares = torch.stack([torch.from_numpy(one.shares) for one in lessons])
    words, router, loss = _train(prompts, shares, network.shape.vocabulary, network.shape.width, seed)
    with torch.no_grad():
        network.embedding.weight.copy_(words * (SPREAD / words.std()))
        assert network.router is not None
        network.router.matrix.weight.copy_(router)
        layers = [layer for layer in network.layers if isinstance(layer, Layer)]
        for layer in layers:
            nn.init.zeros_(layer.down.weight)
            nn.init.zeros_(layer.out.weight)
        for matrix in (layers[0].q, layers[0].k):
            nn.init.normal_(matrix.weight, std=NEARLY_EVEN)
        for matrix in (layers[0].v, layers[0].out):
            nn.init.eye_(matrix.weight)
    return loss


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
