"""The Muon optimizer: momentum, then a step whose matrix is made orthogonal.

K. Jordan and others, "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/. Matrices of equal shape are orthogonalized in one batch: most of them are
too small to fill a processor alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from scripts.guide.precision import fast_type

Mapping = Callable[[Callable[[Tensor], Tensor], Iterable[Tensor]], Iterator[Tensor]]

TOGETHER = 5  # matrices orthogonalized in one go
STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # the coefficients given there


class Muon(torch.optim.Optimizer):
    """For matrices only; embeddings and norms belong to AdamW. `mapping` may share the work among threads."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, mapping: Mapping = map, decay: float = 0.1) -> None:
        super().__init__(list(groups), {"lr": lr, "decay": decay, "momentum": 0.95})
        self.mapping = mapping

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[tuple(sorted(parameter.shape))].append(parameter)
            for members in by_shape.values():
                self._update(members, group)

    def _update(self, members: list[Tensor], group: dict[str, Any]) -> None:
        steps = []
        for parameter in members:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["velocity"] = torch.zeros_like(parameter)
            velocity: Tensor = state["velocity"]
            velocity.lerp_(parameter.grad, 1 - group["momentum"])
            step = parameter.grad.lerp(velocity, group["momentum"])
            steps.append(step.T if step.shape[0] > step.shape[1] else step)
        done = torch.cat(list(self.mapping(orthogonalized, torch.split(torch.stack(steps), TOGETHER))))
        for parameter, step in zip(members, done, strict=True):
            rows, columns = parameter.shape
            parameter.mul_(1 - group["lr"] * group["decay"])
            scale = max(1.0, rows / columns) ** 0.5
            parameter.add_(step.T if rows > columns else step, alpha=-group["lr"] * scale)


@torch.no_grad()
def orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest half-orthogonal matrices, roughly, by a Newton-Schulz iteration; rows may not outnumber columns."""
    x: Tensor = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(fast_type())
    for _ in range(STEPS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.float()
