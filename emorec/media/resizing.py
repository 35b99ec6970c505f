"""Resizes frames."""

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


def resized(frames: Frames, size: tuple[int, int]) -> Frames:
    """Resizes frames (N, H, W, 3) to (N, *size, 3), bilinearly and with antialiasing."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()  # (N, 3, H, W)
    changed = interpolate(pixels, size, mode="bilinear", antialias=True).round().clamp(0, 255)
    return np.ascontiguousarray(changed.permute(0, 2, 3, 1).byte().numpy())
