"""The trained part of text encoders."""

from typing import Any

from torch import Tensor

from emorec.augmentation.spans import length_mask
from emorec.encoders.pretrained_part import PretrainedPart


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
