"""Messages between the ranks of one run."""

from typing import Any

import torch
from torch import distributed


def gather(value: Any) -> list[Any]:
    """The value of each rank, on each rank; of this process alone where there is one rank."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def any_rank(*flags: bool, device: torch.device) -> tuple[bool, ...]:
    """For each flag whether it is set on any rank."""
    values = torch.tensor([float(flag) for flag in flags], device=device)
    distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
    return tuple(bool(value) for value in values.tolist())
