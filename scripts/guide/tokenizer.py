"""The byte-level BPE tokenizer and the ChatML rows made with it; splits text as llama.cpp's "qwen2" does."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from scripts.guide.conversations import Conversation

VOCABULARY = 2048
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, START, END = range(3)
# llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN2: every digit is its own word.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of one conversation, and for each whether the model must learn to write it."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...]


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


def encode_row(tokenizer: Tokenizer, conversation: Conversation) -> Row:
    """The conversation in ChatML; what follows "assistant" up to its <|im_end|> is learned."""
    ids: list[int] = []
    learned: list[bool] = []

    def add(tokens: list[int], *, learn: bool) -> None:
        ids.extend(tokens)
        learned.extend([learn] * len(tokens))

    if conversation.system:
        add(_turn(tokenizer, "system", conversation.system), learn=False)
    for turn in conversation.turns:
        add(_turn(tokenizer, "user", turn.question), learn=False)
        add([START, *_plain(tokenizer, "assistant\n")], learn=False)
        add([*_plain(tokenizer, turn.answer), END], learn=True)
        add(_plain(tokenizer, "\n"), learn=False)
    return Row(tuple(ids), tuple(learned))


def encode_prompt(tokenizer: Tokenizer, question: str) -> list[int]:
    """`question` in a fresh conversation, up to where the answer begins."""
    return [*_turn(tokenizer, "user", question), START, *_plain(tokenizer, "assistant\n")]


def _turn(tokenizer: Tokenizer, role: str, content: str) -> list[int]:
    return [START, *_plain(tokenizer, f"{role}\n{content}"), END, *_plain(tokenizer, "\n")]


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
