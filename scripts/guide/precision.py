"""What kind of numbers the processor multiplies fastest.

With AMX a step of training takes half as long where matrices are multiplied in bfloat16; weights, sums over the
layers, losses and the optimizers' memory stay in float32. Processors without it are slower in bfloat16 than in float32.
"""

import functools

import torch


@functools.cache
def fast_type() -> torch.dtype:
    """The type to multiply matrices in."""
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32


def fast() -> torch.autocast:
    """A context in which matrices are multiplied in that type, on this thread."""
    return torch.autocast("cpu", fast_type(), enabled=fast_type() is not torch.float32)
