"""Conversations to batches of rows of similar length; the same seed always gives the same batches."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from tokenizers import Tokenizer
from torch import Tensor

from scripts.guide.conversations import Conversation, Corpus
from scripts.guide.exchange import Exchange
from scripts.guide.lessons import draw_lessons
from scripts.guide.stages import Stage
from scripts.guide.teacher import Teacher
from scripts.guide.tokenizer import END_OF_TEXT, Row, encode_row

POOL = 400  # conversations sorted together
OPENING_TOKENS = 6
TOKENS = 2560  # padding included; small batches learn more per token, Muon's share of the time is less in large ones


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and the next tokens, both of shape (rows, length), and which of the latter are learned.

    kinds: of the same shape, what kind of answer begins after a token (Corpus.kind), -1 where none does. shares: of
    shape (rows, kinds), how likely each kind is for the only question, zeros where that is not known.
    """

    ids: Tensor
    targets: Tensor
    learned: Tensor
    kinds: Tensor
    shares: Tensor


def draw_batches(
    corpus: Corpus, teacher: Teacher, tokenizer: Tokenizer, seed: str, context: int, stage: Stage
) -> Iterator[Batch]:
    """Batches without end; where a stage writes nothing, rows end with the last question."""
    for number in count():
        rng = random.Random(f"{seed}/{number}")
        rows = []
        for lesson in draw_lessons(corpus, teacher, rng, POOL, stage.mix):
            row = encode_row(tokenizer, lesson.talk, corpus.kind)
            if not stage.writes:
                length = row.last_beginning + 2  # its target, which is not learned, is the answer's first token
            else:
                length = _opening_length(row) if lesson.talk.opening_only else context
            rows.append(row.cut(min(length, context), lesson.shares))
        groups = group_rows(rows)
        rng.shuffle(groups)
        for group in groups:
            yield collate(group, len(corpus.kinds))


def group_rows(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows sorted by length and cut into groups of at most `TOKENS` tokens; a longer row is a group by itself."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
        if groups and len(groups[-1][0].ids) * (len(groups[-1]) + 1) <= TOKENS:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def collate(rows: Sequence[Row], n_kinds: int = 0) -> Batch:
    """The rows as tensors, padded at the right."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), END_OF_TEXT)
    learned = torch.zeros((len(rows), length), dtype=torch.bool)
    kinds = torch.full((len(rows), length), -1)
    shares = torch.zeros((len(rows), n_kinds))
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        learned[place, : len(row.ids)] = torch.tensor(row.learned)
        kinds[place, : len(row.ids)] = torch.tensor(row.kinds)
        if row.shares is not None:
            shares[place] = torch.from_numpy(row.shares)
    return Batch(ids[:, :-1], ids[:, 1:], learned[:, 1:], kinds[:, :-1], shares)


def exchange_batches(
    exchanges: Sequence[Exchange], tokenizer: Tokenizer, kind: Callable[[Exchange], int]
) -> list[Batch]:
    """Each exchange as a conversation of its own, to measure on."""
    rows = [encode_row(tokenizer, Conversation("", (exchange,)), kind) for exchange in exchanges]
    return [collate(group) for group in group_rows(rows)]


def _opening_length(row: Row) -> int:
    """Tokens up to the end of the opening of the only answer that is learned."""
    return row.learned.index(True) + OPENING_TOKENS
