"""The trained part of text encoders."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emorec.augmentation.spans import length_mask
from emorec.encoders.pretrained_part import PretrainedPart
from emorec.layers import is_exported

GROUP = 16  # rows that are computed together on a CPU
LITTLE = 0.1  # share of padding that is not worth a second group


class TextPart(PretrainedPart):
    """Reads token ids (N, T, 1), or states of a layer (N, T, D).

    Args:
        padding: the token id of the padding.
        options: of `PretrainedPart`.
    """

    def __init__(self, *, padding: int, **options: Any) -> None:
        super().__init__(**options)
        self.padding, self.reads_ids = padding, not self.stack.first

    def prepared(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = length_mask(lengths, values.shape[1])
        return values[:, :, 0].long().where(mask, self.padding), mask

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `TrainedPart.frames`. On a CPU rows of near equal length are computed together: of the turns of a dialogue
        most are far shorter than the longest."""
        if (
            is_exported()
            or not values.is_cpu
            or len(lengths) <= GROUP
            or int(lengths.sum()) > (1 - LITTLE) * values.shape[:2].numel()
        ):
            return super().frames(values, lengths)
        order = lengths.argsort(stable=True)
        parts: list[Tensor] = []
        counts = []
        for rows in torch.split(order, GROUP):
            found, own = super().frames(values[rows, : int(lengths[rows].max())], lengths[rows])
            parts += found.unbind()
            counts.append(own)
        back = order.argsort()
        return pad_sequence(parts, batch_first=True)[back], torch.cat(counts)[back]
