"""What the ranks of one run tell each other."""

from typing import Any

import torch
from torch import distributed


def is_distributed() -> bool:
    """Whether there are ranks that can be talked to."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def on_all_ranks(value: Any) -> list[Any]:
    """The value of each rank, on each rank; of the only process where there are no ranks."""
    if not is_distributed():
        return [value]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def any_rank(*flags: bool, device: torch.device) -> tuple[bool, ...]:
    """For each flag whether it is set on any rank."""
    told = torch.tensor([float(flag) for flag in flags], device=device)
    distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
    return tuple(bool(value) for value in told.tolist())
