"""The byte-level BPE tokenizer and the ChatML rows made with it; splits text as llama.cpp's "qwen2" does."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from scripts.guide.conversations import Conversation
from scripts.guide.exchange import Exchange

VOCABULARY = 4608
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, START, END = range(3)
# llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN2: every digit is its own word.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of one conversation, for each whether the model must learn to write it, and which kind of answer
    begins after it (-1: none)."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    kinds: tuple[int, ...]
    shares: npt.NDArray[np.float32] | None = None  # of the kinds, for the only question; None: not known

    @property
    def last_beginning(self) -> int:
        """The place after which the last answer begins."""
        return max(place for place, kind in enumerate(self.kinds) if kind >= 0)

    def cut(self, length: int, shares: npt.NDArray[np.float32] | None) -> "Row":
        """The first tokens, with these shares."""
        return Row(self.ids[:length], self.learned[:length], self.kinds[:length], shares)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of exactly `VOCABULARY` entries, the special ones first."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"too little text: {tokenizer.get_vocab_size()} entries, need {VOCABULARY}")
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer saved at `path`."""
    return Tokenizer.from_file(str(path))


def encode_row(tokenizer: Tokenizer, conversation: Conversation, kind: Callable[[Exchange], int] = lambda _: -1) -> Row:
    """The conversation in ChatML; what follows "assistant" up to its <|im_end|> is learned.

    Of one that is cut after an opening only the last answer is.
    """
    ids: list[int] = []
    learned: list[bool] = []
    kinds: list[int] = []

    def add(tokens: list[int], *, learn: bool) -> None:
        ids.extend(tokens)
        learned.extend([learn] * len(tokens))
        kinds.extend([-1] * len(tokens))

    if conversation.system:
        add(_turn(tokenizer, "system", conversation.system), learn=False)
    for turn in conversation.turns:
        add(_turn(tokenizer, "user", turn.question), learn=False)
        add([START, *_plain(tokenizer, "assistant\n")], learn=False)
        is_learned = turn is conversation.turns[-1] or not conversation.opening_only
        kinds[-1] = kind(turn) if is_learned else -1
        add([*_plain(tokenizer, turn.answer), END], learn=is_learned)
        add(_plain(tokenizer, "\n"), learn=False)
    return Row(tuple(ids), tuple(learned), tuple(kinds))


def encode_prompt(tokenizer: Tokenizer, question: str) -> list[int]:
    """`question` in a fresh conversation, up to where the answer begins."""
    return [*_turn(tokenizer, "user", question), START, *_plain(tokenizer, "assistant\n")]


def _turn(tokenizer: Tokenizer, role: str, content: str) -> list[int]:
    return [START, *_plain(tokenizer, f"{role}\n{content}"), END, *_plain(tokenizer, "\n")]


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
