"""A firm no: after training, the first word of a refusal is made likelier, by as much as dev's refusals need.

Its row of the output matrix gets a little of the mean of what answers begin from, which raises its score by about the
same for every question. Each step costs some facts; it ends where enough is refused.
"""

import random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from scripts.guide.batches import exchange_batches
from scripts.guide.conversations import Corpus, draw_exchange
from scripts.guide.exchange import Exchange
from scripts.guide.network import Network
from scripts.guide.refusals import held_out_refusals

ENOUGH = 0.96  # of dev's refusals
STEP, MOST = 0.2, 2.0  # of a score; a word that is e times as likely as another has one more
QUESTIONS, REFUSALS, DEV = 2000, 150, 1


@torch.no_grad()
def make_firm(network: Network, corpus: Corpus, tokenizer: Tokenizer) -> float:
    """Raise the score of a refusal's first token; returns by how much."""
    rng = random.Random("firm")
    asked = [draw_exchange(corpus, rng) for _ in range(QUESTIONS)]
    mean = _beginnings(network, asked, corpus, tokenizer).mean(0)
    first = tokenizer.encode(corpus.refusals.answers[0]).ids[0]
    unseen = _beginnings(network, held_out_refusals(corpus.refusals, REFUSALS, DEV), corpus, tokenizer)
    row, step = network.output.weight[first], STEP * mean / mean.square().sum()
    added = 0.0
    while added < MOST and (network.logits(unseen).argmax(-1) == first).float().mean() < ENOUGH:
        row += step
        added += STEP
    return added


def _beginnings(network: Network, asked: list[Exchange], corpus: Corpus, tokenizer: Tokenizer) -> Tensor:
    """What the first token of each answer is chosen from, of shape (answers, width)."""
    return torch.cat(
        [network(batch.ids)[batch.kinds >= 0] for batch in exchange_batches(asked, tokenizer, corpus.kind)]
    )
