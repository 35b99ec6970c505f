"""Pictures of another size."""

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


def resized(frames: Frames, size: tuple[int, int]) -> Frames:
    """Frames (N, H, W, 3) at (N, *size, 3): bilinear, and smoothed where they shrink."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()  # (N, 3, H, W)
    changed = interpolate(pixels, size, mode="bilinear", antialias=True).round().clamp(0, 255)
    return np.ascontiguousarray(changed.permute(0, 2, 3, 1).byte().numpy())
