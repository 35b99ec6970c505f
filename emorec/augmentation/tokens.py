"""Augmentation of token ids."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emorec.annotations import Share
from emorec.augmentation.streams import Stream
from emorec.draws import uniform


@dataclass(frozen=True, kw_only=True)
class TokenAugmentation:
    """Some tokens are hidden."""

    dropout: Share = 0.0  # probability that a token is replaced by the one that stands for a hidden or unknown token

    def vary(
        self, values: Tensor, lengths: Tensor, draw: Tensor, *, replacement: int, kept: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Token ids (N, T, 1) in their type, and their `lengths` (N,), which stay.

        Args:
            draw: (N,) int64, from which all is drawn.
            replacement: the token id of hidden tokens.
            kept: token ids that are not replaced, such as that of a text's end.
        """
        hidden = uniform(draw, values.shape[1], stream=Stream.TOKENS)[:, :, None] < self.dropout
        hidden &= ~torch.isin(values, torch.tensor(kept, dtype=values.dtype, device=values.device))
        return values.masked_fill(hidden, replacement), lengths
