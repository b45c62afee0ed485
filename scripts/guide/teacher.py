"""A linear classifier over the letters of a question, which tells the network how near a question is to each answer.

A linear support-vector machine over groups of two to five letters, fitted to 40,000 wordings in two minutes, sends
93.5 % of dev's to the right one of 543 facts and 92.0 % of test's; a network sees each wording a dozen times in the
time it has, which is not enough to find that by itself. It learns from the scores, on more questions than were written.
Distillation: G. Hinton and others, "Distilling the knowledge in a neural network", 2015, arXiv 1503.02531.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from scripts.guide.conversations import Corpus
from scripts.guide.exchange import Exchange
from scripts.guide.numbers import draw_number
from scripts.guide.refusals import draw_refusal

LETTERS = (2, 5)  # the shortest and the longest group, within a word
REFUSALS, NUMBERS = 5000, 3000
LEANING = 0.4  # added to the score of a refusal: with 0.3 95 % of unseen ones were refused, not 87; 1 % of dev, wrongly
SHARPNESS = 10.0  # a score of 0 against one of -1 is e^10 times as likely


@dataclass(frozen=True)
class Teacher:
    """The fitted classifier; its classes are the kinds of `Corpus.kind`, and refusals is one of them."""

    vectors: TfidfVectorizer
    machine: LinearSVC
    n_kinds: int
    refusals: int

    def shares(self, questions: Sequence[str]) -> npt.NDArray[np.float32]:
        """How likely each kind of answer is, of shape (questions, kinds); each row sums to 1."""
        scores = self.machine.decision_function(self.vectors.transform([text.lower() for text in questions]))
        scores[:, self.machine.classes_ == self.refusals] += LEANING
        powers = np.exp(SHARPNESS * (scores - scores.max(1, keepdims=True)))
        found = np.zeros((len(questions), self.n_kinds), np.float32)
        found[:, self.machine.classes_] = powers / powers.sum(1, keepdims=True)
        return found


def fit_teacher(corpus: Corpus, seed: int) -> Teacher:
    """Fit it to every wording, and to some refusals and sums. Takes a minute or two, on one core."""
    rng = random.Random(f"teacher/{seed}")
    asked = [fact.exchange(question) for fact in corpus.facts for question in fact.questions]
    asked += [draw_refusal(corpus.refusals, rng) for _ in range(REFUSALS)]
    asked += [draw_number(corpus.numbers, rng) for _ in range(NUMBERS)]
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=LETTERS, sublinear_tf=True, min_df=2, dtype=np.float32)
    machine = LinearSVC(C=0.5).fit(
        vectors.fit_transform([exchange.question.lower() for exchange in asked]),
        [corpus.kind(exchange) for exchange in asked],
    )
    return Teacher(vectors, machine, len(corpus.kinds), corpus.kinds["refusals"])


def cross(one: Exchange, other: Exchange, rng: random.Random) -> str:
    """Some words of two questions, which nobody asked: what the teacher says of them tells what each word is worth."""
    parts = []
    for exchange in (one, other):
        words = exchange.question.split()
        size = rng.randint(1, len(words))
        start = rng.randint(0, len(words) - size)
        parts.append(" ".join(words[start : start + size]))
    rng.shuffle(parts)
    return " ".join(parts)
