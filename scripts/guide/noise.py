"""Other ways to type the same question: synonyms, affixes, dropped words, typos, casing, punctuation, EDA."""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from scripts.guide.facts import Fact

SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("explain", "describe", "tell me about", "explain to me", "can you explain", "help me understand"),
    ("how do i", "how can i", "how to", "how does one", "what is the way to", "how would i", "how should i"),
    ("what is", "what's", "whats", "what exactly is", "wat is", "define"),
    ("what are", "what're", "what exactly are"),
    ("why is", "why's", "how come", "what is the reason that"),
    ("does not", "doesn't", "doesnt", "won't"),
    ("do not", "don't", "dont"),
    ("can not", "cannot", "can't", "cant"),
    ("i am", "i'm", "im"),
    ("it is", "it's", "its"),
    ("large", "big", "huge"),
    ("small", "little", "tiny"),
    ("fast", "quick", "speedy"),
    ("faster", "quicker"),
    ("needs", "requires", "takes"),
    ("need", "require"),
    ("use", "utilize", "employ"),
    ("difference between", "distinction between", "differences of"),
    ("model", "llm", "language model", "ai model"),
    ("models", "llms", "language models"),
    ("gpu", "graphics card", "video card", "graphic card"),
    ("cpu", "processor"),
    ("computer", "machine", "pc", "system"),
    ("laptop", "notebook"),
    ("chat", "conversation"),
    ("answer", "reply", "response"),
    ("answers", "replies", "responses"),
    ("meaning", "definition"),
    ("mean", "stand for"),
    ("happens", "occurs"),
    ("choose", "pick", "select"),
    ("best", "ideal", "right"),
    ("slow", "sluggish"),
    ("start", "launch", "begin"),
    ("stop", "halt"),
    ("show me", "give me", "let me see"),
    ("i want to", "i'd like to", "i wanna", "i would like to"),
    ("should i", "ought i to", "do i"),
    ("quantization", "quantisation", "quant"),
    ("download", "fetch", "get"),
    ("error", "problem", "failure"),
    ("purpose", "point", "use"),
)
PREFIXES = (
    "please", "hey", "hi,", "hello,", "ok so", "so", "um", "quick question:", "question:", "i was wondering,",
    "can you tell me", "could you say", "tell me", "i'd like to know", "do you know", "one more thing:", "and",
    "also", "well,", "hey guide,", "guide,", "sorry, but", "honestly", "pls", "hmm"
)  # fmt: skip
SUFFIXES = (
    "please", "thanks", "thank you", "exactly", "in short", "briefly", "in simple words", "for a beginner", "pls",
    "in one sentence", "really", "then", "anyway", "thx", "i am new to this", "if you know", "mate", "roughly",
    "in general", "today", "here", "?!"
)  # fmt: skip
STOP_WORDS = frozenset((
    "a", "an", "the", "is", "are", "do", "does", "did", "of", "to", "in", "on", "for", "my", "me", "i", "you",
    "your", "it", "its", "be", "can", "could", "would", "should", "that", "this", "with", "and", "so", "please",
    "there", "have", "has", "will", "at", "as", "by", "from", "was", "am"
))  # fmt: skip
NEIGHBOURS = dict(zip("qwertyuiopasdfghjklzxcvbnm", (
    "wa", "qes", "wrd", "etf", "ryg", "tuh", "yij", "uok", "ipl", "o", "qsz", "adwx", "sfec", "dgrv", "fhtb", "gjyn",
    "hkum", "jlio", "kp", "xa", "zcs", "xvd", "cbf", "vng", "bmh", "nj"), strict=True))  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FORMS = {form: group for group in SYNONYMS for form in group}
_PATTERN = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _FORMS), key=len, reverse=True)) + r")\b")


@dataclass(frozen=True, slots=True)
class Keywords:
    """Which words carry the topic: those in the wordings of few facts. The others are filler."""

    fillers: frozenset[str]
    filler_list: tuple[str, ...]

    def is_filler(self, word: str) -> bool:
        """Whether `word` says little about the topic."""
        return word.lower().strip("?.,!") in self.fillers


def find_keywords(facts: tuple[Fact, ...]) -> Keywords:
    """Words used by more than a sixth of the facts are filler, and so are stop words."""
    spread = Counter(word for fact in facts for word in set(" ".join(fact.questions).lower().split()))
    fillers = frozenset(word for word, count in spread.items() if count > len(facts) / 6) | STOP_WORDS
    return Keywords(fillers, tuple(sorted(fillers)))


def disturb(question: str, rng: random.Random) -> str:
    """`question` as somebody else might type it; meaning and digits are kept."""
    steps: tuple[tuple[float, Callable[[str, random.Random], str]], ...] = (
        (0.45, _swap_synonyms), (0.22, _add_affixes), (0.22, _drop_stop_words), (0.2, _add_typos), (1.0, _vary_case),
        (1.0, _vary_punctuation))  # fmt: skip
    for chance, step in steps:
        if rng.random() < chance:
            question = step(question, rng)
    return question


def shake(question: str, keywords: Keywords, rng: random.Random) -> str:
    """EDA: keep the words that carry the topic; drop, replace, insert or move the others."""
    words = question.split()
    kept = [word for word in words if not keywords.is_filler(word) or rng.random() > 0.35]
    words = kept or words
    for place, word in enumerate(words):
        if keywords.is_filler(word) and rng.random() < 0.15:
            words[place] = rng.choice(keywords.filler_list)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        words.insert(rng.randint(0, len(words)), rng.choice(keywords.filler_list))
    if len(words) > 2 and rng.random() < 0.3:
        place = rng.randrange(len(words) - 1)
        words[place], words[place + 1] = words[place + 1], words[place]
    if len(words) > 4 and rng.random() < 0.15:
        words.pop(rng.randrange(len(words)))
    if len(words) > 3 and rng.random() < 0.08:
        rng.shuffle(words)
    return " ".join(words)


def blend(one: str, other: str, rng: random.Random) -> str:
    """Some words of each of two questions, in order: of one question about three quarters, of the other a half."""
    shares = [0.75, 0.5]
    rng.shuffle(shares)
    kept = [
        word for text, share in zip((one, other), shares, strict=True) for word in text.split() if rng.random() < share
    ]
    return " ".join(kept) or one


def _swap_synonyms(text: str, rng: random.Random) -> str:
    def swap(match: re.Match[str]) -> str:
        return rng.choice(_FORMS[match[0]]) if rng.random() < 0.5 else match[0]

    return _PATTERN.sub(swap, text)


def _add_affixes(text: str, rng: random.Random) -> str:
    if rng.random() < 0.65:
        text = f"{rng.choice(PREFIXES)} {text}"
    if rng.random() < 0.4:
        text = f"{text} {rng.choice(SUFFIXES)}"
    return text


def _drop_stop_words(text: str, rng: random.Random) -> str:
    kept = [word for word in text.split() if word.lower() not in STOP_WORDS or rng.random() < 0.4]
    return " ".join(kept) if len(kept) > 1 else text


def _add_typos(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 2))):
        text = _typo(text, rng)
    return text


def _typo(text: str, rng: random.Random) -> str:
    """One slip of the finger inside a word of at least four letters; words with digits stay as they are."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not places:
        return text
    place = rng.choice(places)
    word = words[place]
    at = rng.randrange(1, len(word))
    kind = rng.randrange(5)
    if kind == 0:
        word = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
    elif kind == 1:
        word = word[:at] + word[at + 1 :]
    elif kind == 2:
        word = word[:at] + word[at] + word[at:]
    elif kind == 3:
        word = word[:at] + rng.choice(NEIGHBOURS.get(word[at].lower(), LETTERS)) + word[at + 1 :]
    else:
        word = word[:at] + rng.choice(LETTERS) + word[at:]
    words[place] = word
    return " ".join(words)


def _vary_case(text: str, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.5:
        return text
    if chance < 0.68:
        return text.lower()
    if chance < 0.95:
        return text[:1].upper() + text[1:]
    return text.upper() if chance < 0.98 else text.title()


def _vary_punctuation(text: str, rng: random.Random) -> str:
    text = text.rstrip(" ?.!")
    if rng.random() < 0.2:
        text = text.replace(",", "").replace("'", "")
    return text + rng.choices(("", "?", ".", " ?", "??", "!", "..."), (50, 36, 6, 3, 2, 2, 1))[0]
