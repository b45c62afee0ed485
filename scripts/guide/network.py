"""A small network of the llama architecture: RMSNorm, rotary positions, SwiGLU, an output matrix of its own."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the network; matrix rows are multiples of 256, as K-quants need."""

    vocabulary: int = 4608
    width: int = 256
    layers: int = 5
    reading: int = 2  # of the layers, the first ones: what they make of a question tells its answer
    heads: int = 4
    feed_forward: int = 768
    context: int = 2048
    rope_base: float = 10000.0
    epsilon: float = 1e-5
    kinds: int = 0  # of answers, which training alone tells apart


class Norm(nn.Module):
    """Root-mean-square normalization with a learned scale."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        normal: Tensor = F.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)
        return normal


class Layer(nn.Module):
    """Attention and feed-forward with their norms and residual paths."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = Norm(shape.width, shape.epsilon)
        self.q, self.k, self.v, self.out = (nn.Linear(shape.width, shape.width, bias=False) for _ in range(4))
        self.feed_norm = Norm(shape.width, shape.epsilon)
        self.gate, self.up = (nn.Linear(shape.width, shape.feed_forward, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """One layer over x of shape (rows, length, width)."""
        rows, length, width = x.shape
        h = self.attention_norm(x)

        def split(y: Tensor) -> Tensor:
            return y.view(rows, length, self.heads, width // self.heads).transpose(1, 2)

        q, k, v = rotate(split(self.q(h)), turns), rotate(split(self.k(h)), turns), split(self.v(h))
        # By hand: torch's scaled_dot_product_attention took 30 % of the time of small rows on a CPU.
        scores = (q @ k.transpose(-1, -2)) * float((width // self.heads) ** -0.5) + bias
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, width)
        x = x + self.out(mixed)
        h = self.feed_norm(x)
        done: Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return done


class Router(nn.Module):
    """Scores of the kinds of answers, from what the reading layers make of a token."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = Norm(shape.width, shape.epsilon)
        self.matrix = nn.Linear(shape.width, shape.kinds, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of shape (..., kinds) for x of shape (..., width)."""
        scores: Tensor = self.matrix(self.norm(x)).float()
        return scores


class Network(nn.Module):
    """The whole model: token ids in, hidden states out; `logits` gives the scores of the next token.

    `router`, which is not exported, scores the kinds of answers where one begins: a target of its own for the layers
    that read, so that they need not wait for the others to learn to write.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.epsilon)
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.router = Router(shape) if shape.kinds else None
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.4 / math.sqrt(parameter.shape[1]))
        nn.init.normal_(self.embedding.weight, std=0.02)
        cos, sin = rotations(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states of shape (rows, length, width) for ids of shape (rows, length)."""
        return self.write(self.read(ids))

    def read(self, ids: Tensor) -> Tensor:
        """What the reading layers make of ids of shape (rows, length): (rows, length, width), which `router` reads."""
        return self._through(self.reading_layers, self.embedding(ids))

    def write(self, read: Tensor) -> Tensor:
        """Hidden states from what was read, of the same shape."""
        hidden: Tensor = self.norm(self._through(self.writing_layers, read))
        return hidden

    @property
    def reading_layers(self) -> list[nn.Module]:
        """The first layers."""
        return list(self.layers)[: self.shape.reading]

    @property
    def writing_layers(self) -> list[nn.Module]:
        """The layers after those."""
        return list(self.layers)[self.shape.reading :]

    def _through(self, layers: list[nn.Module], x: Tensor) -> Tensor:
        length = x.shape[1]
        cos: Tensor = self.cos[:length]  # type: ignore[index]
        sin: Tensor = self.sin[:length]  # type: ignore[index]
        bias = torch.full((length, length), float("-inf")).triu(1)
        for layer in layers:
            x = layer(x, (cos, sin), bias)
        return x

    @torch.no_grad()
    def begin_answers(self, firsts: Tensor) -> None:
        """Let what `router` scores be what is written first; firsts: the first token of each kind of answer.

        True as long as the layers that write add nothing, which is how they begin.
        """
        assert self.router is not None
        kinds = self.router.matrix.weight * self.router.norm.weight
        begun = torch.zeros_like(self.output.weight).index_add_(0, firsts, kinds)
        count = torch.zeros(self.shape.vocabulary).index_add_(0, firsts, torch.ones(len(firsts)))
        self.output.weight[count > 0] = begun[count > 0] / count[count > 0, None]

    def forget_router(self) -> None:
        """Keep only what is exported."""
        self.router, self.shape = None, replace(self.shape, kinds=0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token after the given hidden states.

        The matrix is not the embedding again: learning to write would change what the tokens of questions mean.
        """
        scores: Tensor = self.output(hidden).float()  # of a likeliest token bfloat16 tells the share to 0.4 % alone
        return scores

    @torch.inference_mode()
    def greedy(self, prompt: list[int], end: int, limit: int = 120) -> list[int]:
        """The likeliest tokens after `prompt`, up to but without `end`."""
        ids = list(prompt)
        while len(ids) < len(prompt) + limit:
            best = int(self.logits(self(torch.tensor([ids]))[0, -1]).argmax())
            if best == end:
                break
            ids.append(best)
        return ids[len(prompt) :]


def rotations(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, of shape (context, half a head)."""
    half = shape.width // shape.heads // 2
    angles = torch.outer(torch.arange(shape.context), shape.rope_base ** (-torch.arange(half) / half))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions in rotate-half form (export permutes q and k to llama.cpp's interleaved form)."""
    cos, sin = turns
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
