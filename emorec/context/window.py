"""Which turns a turn looks at."""

import torch
from torch import Tensor

from emorec.layers import counted


def window_mask(mask: Tensor, past: int | None, future: int | None) -> Tensor:
    """(B, U, U), true where the first turn looks at the second: itself, or one of the same dialogue that is near.

    Args:
        mask: (B, U), false for padding, which looks at itself alone.
        past: number of turns before, `None` for all.
        future: number of turns after, `None` for all.
    """
    number = counted(mask.shape[1], mask.device)
    distance = number[None] - number[:, None]  # (U, U) of the second from the first
    near = torch.ones_like(distance, dtype=torch.bool)
    if past is not None:
        near = near & (distance >= -past)
    if future is not None:
        near = near & (distance <= future)
    return (near & mask[:, :, None] & mask[:, None]) | (distance == 0)
