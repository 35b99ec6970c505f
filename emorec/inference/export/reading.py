"""The first step of an exported graph: from the input of a modality to what the feature store keeps of it."""

import torch
from torch import Tensor, nn

from emorec.augmentation.spans import length_mask
from emorec.encoders.speech_part import FULL_SCALE
from emorec.encoders.trained import TrainedPart
from emorec.inference.export.graph_input import GraphInput


class Reading(nn.Module):
    """Values (B, T, …) as the store keeps them (B, T', I), with their lengths (B,), 0 for a missing modality.

    Args:
        declared: the input.
        lower: the frozen network that computes what the store keeps; `None` where it keeps the input itself.
        decoded: type of decoded sound or bands, as an encoder that trains reads them; they are rounded to it.
        stored: type of the features of `lower`; likewise.
    """

    def __init__(
        self,
        declared: GraphInput,
        *,
        lower: TrainedPart | None = None,
        decoded: str = "float32",
        stored: str = "float32",
    ) -> None:
        super().__init__()
        self.declared, self.lower, self.decoded, self.stored = declared, lower, decoded, stored

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows(values, lengths)
        if self.lower is None:
            return rows, lengths
        features, mask = self.lower.in_one_pass(rows, lengths)
        return _rounded(features, self.stored), mask.sum(1)

    def _rows(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Decoded input (B, T, I)."""
        kind = self.declared.kind
        if kind == "frames":
            return values.flatten(2)
        if kind == "features":
            return values
        known = length_mask(lengths, values.shape[1])
        if kind == "tokens":
            return values.masked_fill(~known, 0)[:, :, None]
        if kind == "bands":
            return _rounded(values, self.decoded).masked_fill(~known[:, :, None], 0)
        sound = values * FULL_SCALE
        if self.decoded == "int16":
            sound = sound.round().clamp(-FULL_SCALE, FULL_SCALE)
        return sound.masked_fill(~known, 0)[:, :, None]


def _rounded(values: Tensor, kind: str) -> Tensor:
    """Values as a type holds them, as float32."""
    return values.to(torch.float16).float() if kind == "float16" else values
