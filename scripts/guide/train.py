"""Train guide from scratch on a CPU, within a given number of minutes, and export it.

Stages and learning rates follow the time used, not a number of steps, so a busy machine gives fewer steps but a whole
schedule. A stop loses at most two minutes (nothing with Ctrl-C or SIGTERM): the same command goes on.
"""

import argparse
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from scripts.guide.batches import Batch, draw_batches, exchange_batches
from scripts.guide.calibrate import calibrate
from scripts.guide.conversations import Corpus, Mix, draw_clean, read_corpus
from scripts.guide.export import export_run, install
from scripts.guide.facts import GUIDE, held_out_exchanges, read_held_out
from scripts.guide.network import Network, Shape
from scripts.guide.numbers import held_out_numbers
from scripts.guide.refusals import held_out_refusals
from scripts.guide.run import Run
from scripts.guide.stages import STAGES, Optimizers, Stage
from scripts.guide.teacher import Teacher, fit_teacher
from scripts.guide.tokenizer import train_tokenizer
from scripts.guide.words import begin
from scripts.guide.workers import Workers

TOKENIZER_TEXTS = 24_000
OPENING_WORDS, OPENING_TIMES = 2, 60  # of each answer, and how often the tokenizer is shown them
SAVE_SECONDS = 120.0
REPORT_SECONDS = 20.0
MEASURE_SECONDS = 480.0
CALIBRATION_MIX = Mix(0.85, 0.1)


@dataclass(slots=True)
class Progress:
    """How far the run is; part of every checkpoint."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    stage_seconds: float = 0.0
    stage_steps: int = 0


@dataclass(slots=True)
class Trainer:
    """One run: network, optimizers, data and how far it is."""

    run: Run
    network: Network
    corpus: Corpus
    teacher: Teacher
    tokenizer: Tokenizer
    seed: int
    budget: float
    workers: Workers
    progress: Progress = field(default_factory=Progress)
    stopped: bool = False
    stage: int = 0
    optimizers: Optimizers = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the first stage."""
        self.optimizers = Optimizers(self.network, self.now, self.workers.map)

    @property
    def now(self) -> Stage:
        """The stage that the run is in."""
        return STAGES[self.stage]

    def save(self) -> None:
        """Write a checkpoint."""
        state: dict[str, Any] = {"shape": asdict(self.network.shape), "network": self.network.state_dict(),
                                 "stage": self.stage, "optimizers": self.optimizers.state_dict(),
                                 "progress": asdict(self.progress)}  # fmt: skip
        self.run.save(self.run.checkpoint_path, state)

    def begin(self) -> None:
        """Go on from the checkpoint, or begin anew if there is none."""
        if not self.run.checkpoint_path.exists():
            loss = begin(self.network, self.corpus, self.teacher, self.tokenizer, self.seed)
            print(f"mean of the tokens: loss {loss:.4f}", flush=True)
            self.measure()
            return
        state = torch.load(self.run.checkpoint_path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.stage = state["stage"]
        self.optimizers = Optimizers(self.network, self.now, self.workers.map)
        self.optimizers.load_state_dict(state["optimizers"])
        self.progress = Progress(**state["progress"])
        print(f"going on at step {self.progress.steps}, {self.progress.seconds / 60:.1f} min", flush=True)

    def train(self) -> None:
        """Step through the stages until the time is used or somebody asks for a stop."""
        while not self.stopped:
            self._train_stage()
            self.save()
            if self.stopped or self.now is STAGES[-1]:
                return
            self.stage, self.progress = self.stage + 1, replace(self.progress, stage_seconds=0.0, stage_steps=0)
            if not STAGES[self.stage - 1].writes:
                self.network.begin_answers(self.workers.firsts)
            self.optimizers = Optimizers(self.network, self.now, self.workers.map)

    def calibrate(self) -> None:
        """Set right how likely the first words are."""
        stage = replace(self.now, mix=CALIBRATION_MIX, writes=False)
        seed = f"{self.seed}/calibration"
        batches = draw_batches(self.corpus, self.teacher, self.tokenizer, seed, self.network.shape.context, stage)
        added = calibrate(self.network, self.workers.firsts, batches, self.seed)
        print(f"first words: scores changed by {added:.2f} in the mean", flush=True)
        self.measure()

    def _train_stage(self) -> None:
        """Step through one stage."""
        seed = f"{self.seed}/{self.now.name}/{self.progress.steps}"  # after a stop it goes on with other lessons
        context = self.network.shape.context
        batches = draw_batches(self.corpus, self.teacher, self.tokenizer, seed, context, self.now)
        saved = reported = measured = last = time.monotonic()
        losses: list[float] = []
        while self.used < 1 and not self.stopped:
            losses.append(self.step(next(batches)))
            now = time.monotonic()
            self.progress.seconds += now - last
            self.progress.stage_seconds += now - last
            last = now
            if now - reported > REPORT_SECONDS:
                reported = now
                self.report(losses)
                losses.clear()
            if now - measured > MEASURE_SECONDS:
                measured = now
                self.measure()
            if now - saved > SAVE_SECONDS:
                saved = now
                self.save()
        self.measure()

    @property
    def used(self) -> float:
        """The share of the stage's time that is used."""
        return self.progress.stage_seconds / (self.budget * self.now.share)

    def step(self, batch: Batch) -> float:
        """One batch; its loss."""
        loss = self.workers.gradients(self.network, self.optimizers.parameters, batch, self.now)
        self.optimizers.step(self.now.rate(self.used, self.progress.stage_steps))
        self.progress.steps += 1
        self.progress.stage_steps += 1
        self.progress.tokens += batch.ids.numel()
        return loss

    def report(self, losses: list[float]) -> None:
        """One line of progress."""
        p = self.progress
        speed = p.tokens / p.seconds
        print(f"{p.seconds / 60:5.1f} min  step {p.steps:6d}  {p.tokens / 1e6:6.2f} Mtok  {speed:5.0f} tok/s"
              f"  {self.now.name} {self.used:4.0%}  loss {sum(losses) / len(losses):.4f}", flush=True)  # fmt: skip

    def measure(self) -> None:
        """Print the share of held-out questions whose whole greedy answer is exact."""
        sets = {
            "dev": held_out_exchanges(read_held_out(GUIDE / "heldout" / "dev.toml"), self.corpus.facts)[::2],
            "numbers": held_out_numbers(self.corpus.numbers, 20),
            "refusals": held_out_refusals(self.corpus.refusals, 60, seed=1),
        }
        parts = []
        for name, items in sets.items():
            batches = exchange_batches(items, self.tokenizer, self.corpus.kind)
            exact, routed = exact_share(self.network, batches), routed_share(self.network, batches)
            parts.append(f"{name} {exact:.1%}, routed {routed:.1%} of {len(items)}")
        print("  exact: " + "  ".join(parts), flush=True)


@torch.inference_mode()
def routed_share(network: Network, batches: list[Batch]) -> float:
    """The share of rows whose kind of answer the router finds likeliest."""
    right = total = 0
    for batch in batches:
        assert network.router is not None
        begins = batch.kinds >= 0
        best = network.router(network.read(batch.ids)[begins]).argmax(-1)
        right += int((best == batch.kinds[begins]).sum())
        total += len(best)
    return right / max(1, total)


@torch.inference_mode()
def exact_share(network: Network, batches: list[Batch]) -> float:
    """The share of rows of which every learned token is the likeliest one, as greedy decoding would need."""
    right = total = 0
    for batch in batches:
        best = network.logits(network(batch.ids)).argmax(-1)
        right += int(((best == batch.targets) | ~batch.learned).all(-1).sum())
        total += len(batch.ids)
    return right / total


def make_tokenizer(corpus: Corpus, seed: int) -> Tokenizer:
    """A tokenizer for the questions, a fifth as much of the answers, and the words that answers begin with.

    Nearly every answer has a first word of its own. As one token it is decided on once; cut into letters and pieces,
    which many answers share, it was decided on three times over, and with half the time for writing gone every second
    answer still began wrong although the router was right.
    """
    rng = random.Random(f"tokenizer/{seed}")
    exchanges = [draw_clean(corpus, rng) for _ in range(TOKENIZER_TEXTS)]
    openings = [" ".join(text.split()[:OPENING_WORDS]) for text in corpus.openings()]
    return train_tokenizer(
        [*(e.question for e in exchanges), *(e.answer for e in exchanges[::5]), *(openings * OPENING_TIMES)]
    )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="train_guide", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=90.0, help="time to train, without export (default 90)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/guide"), help="folder of the run (default build/guide)")
    parser.add_argument("--install", action="store_true", help="copy the exported files into models/")
    return parser.parse_args(arguments)


def main() -> int:
    """Train, or go on training, then export; 130 if stopped before the time was used."""
    options = parse_arguments()
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    run, corpus = Run(options.out), read_corpus()
    if not run.tokenizer_path.exists():
        make_tokenizer(corpus, options.seed).save(str(run.tokenizer_path))
    network = Network(Shape(kinds=len(corpus.kinds)))
    tokenizer = run.load_tokenizer()
    firsts = torch.tensor([tokenizer.encode(text).ids[0] for text in corpus.openings()])
    workers = Workers(options.threads, firsts)
    trainer = Trainer(
        run, network, corpus, fit_teacher(corpus, options.seed), tokenizer, options.seed, options.minutes * 60, workers
    )
    trainer.begin()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(trainer, "stopped", True))
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {len(corpus.facts)} facts", flush=True)
    trainer.train()
    if trainer.stopped:
        print("stopped; the same command goes on", flush=True)
        return 130
    trainer.calibrate()
    network.forget_router()
    run.save_weights(network)
    export_run(run)
    if options.install:
        install(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
