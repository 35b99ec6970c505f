"""Tells whether this machine computes small grouped convolutions correctly in bfloat16."""

import torch

from tests.encoders.tiny_checkpoints import HIDDEN


def bfloat16_is_wrong() -> bool:
    """True on CPUs with AMX whose oneDNN returns wrong values; the features of such encoders are refused there."""
    generator = torch.Generator().manual_seed(0)
    for groups, kernel in ((2, 16), (HIDDEN, 5)):
        convolution = torch.nn.Conv1d(HIDDEN, HIDDEN, kernel, padding=kernel // 2, groups=groups)
        values = torch.randn(1, HIDDEN, 50, generator=generator)
        with torch.no_grad():
            exact = convolution(values)
            narrow = convolution.to(torch.bfloat16)(values.to(torch.bfloat16)).float()
        if (narrow - exact).norm() > 0.1 * exact.norm():
            return True
    return False
