"""Questions with numbers in them; the answers are computed, never written by hand.

Two rules, in decimal GB. Memory: parameters (billions) times bits / 8. Fit: the weights must take less than three
quarters of the memory, the rest is for the KV cache and buffers (checked against real files: a Q4_K_M file is 21 %
larger than 4 bits say, and 1 to 2 GB come on top). The largest comfortable model at 4 bits has 1.25 billion
parameters per GB, so it takes 0.8 GB per billion, cache and buffers included.
"""

import random
import re
import zlib
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from pathlib import Path

from scripts.guide.exchange import Exchange
from scripts.guide.facts import GUIDE, Fact, read_toml

FAMILIES = ("memory", "memory_default", "fits", "fits_default", "largest")
SHARES = (40, 16, 18, 16, 10)  # how often each family is drawn, percent
DEFAULT_BITS = 4
PLAIN_BITS = (4, 8, 16, 32)  # every size is trained; the other widths only with popular whole sizes
# Widths that people ask for less often; they need no frames of their own.
RARE_FORMS = {
    bits: (f"{bits} bits", f"{bits} bit", f"{bits}-bit", f"{bits}bit", f"q{bits}", f"Q{bits}", word)
    for bits, word in ((2, "two bits"), (3, "three bits"), (5, "five bits"), (6, "six bits"))
}
REQUIRED_FRAME = "how much memory does a {n} model need at {b}"

# Sizes in tenths of a billion parameters: all that people are likely to type, and those of well-known models.
SIZES = tuple(sorted({*range(1, 100), *range(100, 1310, 10), 105, 125, 305, 467, 1410, 1760, 1800, 2350, 3550, 4050,
                      4800, 6710, 10000}))  # fmt: skip
POPULAR = (5, 6, 10, 15, 17, 20, 30, 40, 70, 80, 90, 120, 130, 140, 200, 240, 270, 300, 320, 340, 700, 720, 1200, 2350,
           4050, 6710)  # fmt: skip
# Memory sizes in GB; the first tuple holds those that are sold.
SOLD = (2, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 36, 40, 48, 64, 80, 96, 128)
MEMORIES = tuple(sorted({*range(1, 33), *SOLD, 56, 72, 100, 112, 160, 192, 256, 384, 512}))


@dataclass(frozen=True)
class Numbers:
    """The frames and the ways to write their slots; see `models/guide/numbers.toml`."""

    frames: dict[str, tuple[str, ...]]
    n_forms: tuple[str, ...]
    b_forms: dict[int, tuple[str, ...]]
    v_forms: tuple[str, ...]
    follow: dict[str, tuple[str, ...]]  # frames after an answer, by what they change: bits, size or memory
    sizes: dict[str, Fact]  # facts such as "vram-8gb", which say how large a model fits there

    @cached_property
    def trained_frames(self) -> dict[str, tuple[str, ...]]:
        """The frames that training may use: all but one in sixteen."""
        return {name: tuple(f for f in frames if not is_held_frame(f)) for name, frames in self.frames.items()}

    @cached_property
    def held_frames(self) -> dict[str, tuple[str, ...]]:
        """The frames kept for evaluation."""
        return {name: tuple(f for f in frames if is_held_frame(f)) for name, frames in self.frames.items()}


@dataclass(frozen=True, slots=True)
class Slots:
    """The numbers in one question: tenths of a billion parameters, bits, GB."""

    tenths: int
    bits: int
    memory: int


def read_numbers(facts: tuple[Fact, ...], path: Path = GUIDE / "numbers.toml") -> Numbers:
    """The number frames in `path`; `facts` answer some of the questions for the largest model."""
    raw = read_toml(path)
    return Numbers(
        # The answer states the verdict and not yes or no, so "does it fit" and "is it too large" share it.
        frames={name: (*raw[name], *raw.get(f"{name}_inverted", ())) for name in FAMILIES},
        n_forms=tuple(raw["n_forms"]),
        b_forms=RARE_FORMS | {int(bits): tuple(forms) for bits, forms in raw["b_forms"].items()},
        v_forms=tuple(raw["v_forms"]),
        follow={kind: tuple(frames) for kind, frames in raw["follow"].items()},
        sizes={fact.id: fact for fact in facts if re.fullmatch(r"v?ram-\d+gb", fact.id)},
    )


def is_held_frame(frame: str) -> bool:
    """Whether `frame` is kept for evaluation."""
    return frame != REQUIRED_FRAME and zlib.crc32(frame.encode()) % 16 == 0


def is_held_pair(tenths: int, bits: int) -> bool:
    """Whether this size at these bits is kept for evaluation; popular sizes never are."""
    return tenths not in POPULAR and zlib.crc32(f"{tenths}/{bits}".encode()) % 8 == 0


def draw_slots(numbers: Numbers, family: str, rng: random.Random) -> Slots:
    """Numbers for a training question, popular ones more often, held-out pairs never."""
    rare = [bits for bits in numbers.b_forms if bits not in PLAIN_BITS]
    bits = DEFAULT_BITS
    if family in ("memory", "fits"):
        bits = rng.choice(rare) if rare and rng.random() < 0.12 else rng.choice((4, 4, 8, 16, 32))
    memory = rng.choice(SOLD if rng.random() < 0.7 else MEMORIES)
    while True:
        tenths = rng.choice(POPULAR if bits in rare or rng.random() < 0.4 else SIZES)
        if family.startswith("fits") and rng.random() < 0.6:
            tenths = _near_the_border(bits, memory, rng)
        if not is_held_pair(tenths, bits):
            return Slots(tenths, bits, memory)


def _near_the_border(bits: int, memory: int, rng: random.Random) -> int:
    """A size whose weights take a third to one and a half of what `memory` allows: easy verdicts teach little."""
    target = memory * 60 / bits * rng.uniform(0.33, 1.5)
    choices: tuple[int, ...] = POPULAR if bits not in PLAIN_BITS or rng.random() < 0.5 else SIZES
    return min(choices, key=lambda tenths: abs(tenths - target))


def draw_number(numbers: Numbers, rng: random.Random) -> Exchange:
    """A training question with its computed answer."""
    family = rng.choices(FAMILIES, SHARES)[0]
    required = family == "memory" and rng.random() < 0.04
    frame = REQUIRED_FRAME if required else rng.choice(numbers.trained_frames[family])
    return fill(numbers, family, frame, draw_slots(numbers, family, rng), rng)


def fill(numbers: Numbers, family: str, frame: str, slots: Slots, rng: random.Random) -> Exchange:
    """The exchange for `frame` with `slots` written in forms that `rng` picks."""
    question = frame.format(
        n=rng.choice(numbers.n_forms).format(x=plain(Decimal(slots.tenths) / 10)),
        b=rng.choice(numbers.b_forms[slots.bits]),
        v=rng.choice(numbers.v_forms).format(x=slots.memory),
    )
    known = _known_size(numbers, frame, slots.memory) if family == "largest" else None
    answer, expect = (known.answer, known.expect) if known else compute(family, slots)
    return Exchange(question, answer, expect, f"numbers: {family}")


def _known_size(numbers: Numbers, frame: str, memory: int) -> Fact | None:
    """The fact that already says how large a model fits, so that one question never has two answers."""
    on_card = re.search(r"\b(vram|card|gpu)\b", frame)
    in_ram = re.search(r"\b(ram|laptop|machine|memory)\b", frame)
    card, ram = numbers.sizes.get(f"vram-{memory}gb"), numbers.sizes.get(f"ram-{memory}gb")
    if on_card:
        return card
    return ram if in_ram else card or ram


def compute(family: str, slots: Slots) -> tuple[str, tuple[str, ...]]:
    """The answer to a question of `family`, and the strings a right one must contain."""
    if family == "largest":
        return _largest(slots.memory)
    size, need = plain(Decimal(slots.tenths) / 10), weights_gb(slots.tenths, slots.bits)
    usual = ", the usual choice," if family.endswith("default") else ""
    each = "1 byte" if slots.bits == 8 else f"{Decimal(slots.bits) / 8} bytes"
    total = f"= {plain(need)} GB"
    sums = (f"At {slots.bits} bits{usual} each weight takes {each}: "
            f"{size} billion x {Decimal(slots.bits) / 8} {total}")  # fmt: skip
    if family.startswith("memory"):
        extra = "under 1 GB" if slots.tenths < 30 else "1 to 2 GB"
        return f"{sums}, plus {extra} for the KV cache and buffers.", (total,)
    verdict = "so it fits" if does_fit(need, slots.memory) else "so it does not fit"
    room = plain(Decimal(slots.memory) * 3 / 4)
    return f"{sums}. Of {slots.memory} GB three quarters, {room} GB, are for weights, {verdict}.", (total, verdict)


def _largest(memory: int) -> tuple[str, tuple[str, ...]]:
    billions = f"about {plain(Decimal(memory) * 5 / 4)} billion"
    return (
        f"Up to {billions} parameters at 4 bits run well in {memory} GB: "
        "count 0.8 GB per billion, KV cache and buffers included.",
        (billions,),
    )


def weights_gb(tenths: int, bits: int) -> Decimal:
    """GB of weights, exact to two decimals."""
    return (Decimal(tenths) * bits / 80).quantize(Decimal("0.01"), ROUND_HALF_UP)


def does_fit(need: Decimal, memory: int) -> bool:
    """Whether weights of `need` GB leave more than a quarter of `memory` GB free."""
    return need < Decimal(memory) * 3 / 4


def plain(number: Decimal) -> str:
    """`number` without trailing zeros or an exponent."""
    text = format(number.normalize(), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def held_out_numbers(numbers: Numbers, count: int, seed: int = 0) -> list[Exchange]:
    """Questions never trained on: held-out pairs in trained frames, and trained pairs in held-out frames."""
    rng = random.Random(seed)
    found: list[Exchange] = []
    pairs = [(n, b) for n in SIZES for b in PLAIN_BITS if n < 1310 and is_held_pair(n, b)]
    for tenths, bits in rng.sample(pairs, min(count, len(pairs))):
        frame = rng.choice(numbers.trained_frames["memory"])
        exchange = fill(numbers, "memory", frame, Slots(tenths, bits, 8), rng)
        found.append(Exchange(exchange.question, exchange.answer, exchange.expect, "numbers: held-out pair"))
    for family, frames in numbers.held_frames.items():
        for _ in range(count if frames else 0):
            slots = draw_slots(numbers, family, rng)
            exchange = fill(numbers, family, rng.choice(frames), slots, rng)
            found.append(Exchange(exchange.question, exchange.answer, exchange.expect, f"numbers: new {family}"))
    return found
