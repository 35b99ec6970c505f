"""Recurrent layers and attention over the frames of sequences of unequal length."""

import torch
from torch import Tensor, nn

from emorec.augmentation.spans import length_mask


def run_lstm(lstm: nn.LSTM, values: Tensor, lengths: Tensor) -> Tensor:
    """The output (N, T, D) of an LSTM for the first `lengths` (N,) of values (N, T, I); zero after them."""
    packed = nn.utils.rnn.pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
    output, _ = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=values.shape[1])
    return output


class FrameAttention(nn.Module):
    """The mean of frames (N, T, D), weighted by a softmax over their scores.

    Args:
        dim: D.
        hidden: units of the layer with tanh below the score (Bahdanau et al. 2015, arXiv 1409.0473); without it the
            score is a scalar product with a learned vector.
    """

    def __init__(self, dim: int, *, hidden: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Identity() if hidden is None else nn.Sequential(nn.Linear(dim, hidden), nn.Tanh())
        self.score = nn.Linear(hidden or dim, 1, bias=False)  # a bias would not change the softmax

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(N, 1, D) of frames (N, T, D), of which the first `lengths` (N,) are data."""
        scores = self.score(self.layer(frames)).float()  # (N, T, 1)
        mask = length_mask(lengths, frames.shape[1])[:, :, None]
        weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
        mean: Tensor = (frames * weights).sum(1, keepdim=True)
        return mean
