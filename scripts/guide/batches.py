"""Conversations to batches of rows of similar length; the same seed always gives the same batches."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from tokenizers import Tokenizer
from torch import Tensor

from scripts.guide.conversations import Conversation, Corpus, draw_conversation
from scripts.guide.exchange import Exchange
from scripts.guide.tokenizer import END_OF_TEXT, Row, encode_row

POOL = 320  # conversations sorted together
OPENING_TOKENS = 6
TOKENS = 1792  # padding included; small batches learn more per token here


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and the next tokens, both of shape (rows, length), and which of the latter are learned."""

    ids: Tensor
    targets: Tensor
    learned: Tensor


def draw_batches(corpus: Corpus, tokenizer: Tokenizer, seed: int, context: int, skip: int = 0) -> Iterator[Batch]:
    """Batches without end; the first `skip` are passed over (to go on where a checkpoint was written)."""
    for number in count():
        rng = random.Random(f"{seed}/{number}")
        conversations = [draw_conversation(corpus, rng) for _ in range(POOL)]
        rows = [encode_row(tokenizer, conversation) for conversation in conversations]
        lengths = [
            _opening_length(row) if conversation.opening_only else context
            for row, conversation in zip(rows, conversations, strict=True)
        ]
        groups = group_rows([_cut(row, length) for row, length in zip(rows, lengths, strict=True)])
        rng.shuffle(groups)
        for group in groups:
            if skip:
                skip -= 1
                continue
            yield collate(group)


def group_rows(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows sorted by length and cut into groups of at most `TOKENS` tokens; a longer row is a group by itself."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
        if groups and len(groups[-1][0].ids) * (len(groups[-1]) + 1) <= TOKENS:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def collate(rows: Sequence[Row]) -> Batch:
    """The rows as tensors, padded at the right."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), END_OF_TEXT)
    learned = torch.zeros((len(rows), length), dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        learned[place, : len(row.ids)] = torch.tensor(row.learned)
    return Batch(ids[:, :-1], ids[:, 1:], learned[:, 1:])


def exchange_batches(exchanges: Sequence[Exchange], tokenizer: Tokenizer) -> list[Batch]:
    """Each exchange as a conversation of its own, to measure on."""
    rows = [encode_row(tokenizer, Conversation("", (exchange,))) for exchange in exchanges]
    return [collate(group) for group in group_rows(rows)]


def _opening_length(row: Row) -> int:
    """Tokens up to the end of the answer's opening."""
    return row.learned.index(True) + OPENING_TOKENS


def _cut(row: Row, context: int) -> Row:
    return Row(row.ids[:context], row.learned[:context])
