"""What a training run keeps in its folder: tokenizer, checkpoint, final weights. Writes are atomic."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from scripts.guide.network import Network, Shape
from scripts.guide.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True)
class Run:
    """A folder holding one training run."""

    folder: Path

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer, in the JSON form of the tokenizers package."""
        return self.folder / "tokenizer.json"

    @property
    def checkpoint_path(self) -> Path:
        """All that is needed to go on."""
        return self.folder / "checkpoint.pt"

    @property
    def weights_path(self) -> Path:
        """The finished network."""
        return self.folder / "weights.pt"

    def gguf_path(self, quant: str) -> Path:
        """The exported file of one quantization."""
        return self.folder / f"guide-{quant}.gguf"

    def save(self, path: Path, state: dict[str, Any]) -> None:
        """Write `state` so that a stop in the middle leaves the old file."""
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def save_weights(self, network: Network) -> None:
        """Write the finished network."""
        self.save(self.weights_path, {"shape": asdict(network.shape), "network": network.state_dict()})

    def load_network(self) -> Network:
        """The finished network, or the last checkpoint's if the run has not ended."""
        path = self.weights_path if self.weights_path.exists() else self.checkpoint_path
        state = torch.load(path, weights_only=True)
        network = Network(Shape(**state["shape"]))
        network.load_state_dict(state["network"])
        return network.eval()

    def load_tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""
        return load_tokenizer(self.tokenizer_path)
