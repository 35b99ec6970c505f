"""One vector of statistics for a sequence of frames."""

import numpy as np
from numpy.typing import NDArray

from emorec.errors import UserError

POOLINGS = ("none", "functionals")
PERCENTILES = (5, 25, 50, 75, 95)
COUNT = 3 + len(PERCENTILES)


def functionals(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, D) to (1, 8 D): mean, standard deviation, five percentiles, mean absolute difference of neighbours."""
    movement = np.abs(np.diff(frames, axis=0)).mean(axis=0) if len(frames) > 1 else np.zeros_like(frames[0])
    percentiles = np.percentile(frames, PERCENTILES, axis=0)  # (5, D)
    rows = np.concatenate([frames.mean(axis=0)[None], frames.std(axis=0)[None], percentiles, movement[None]])
    return rows.reshape(1, -1).astype(np.float32)


def checked_pooling(pooling: str, where: str) -> str:
    """`pooling`, if there is such a one."""
    if pooling not in POOLINGS:
        raise UserError(f"expected {where} in {POOLINGS}, got {pooling!r}")
    return pooling
