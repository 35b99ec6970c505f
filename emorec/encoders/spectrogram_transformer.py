"""A transformer of log mel bands, trained from scratch."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.convolutions import halved, time_mask
from emorec.encoders.encoder import Training
from emorec.encoders.networks import LogMelNetwork, NetworkPart
from emorec.errors import UserError
from emorec.layers import attend, is_exported, positions


@dataclass(kw_only=True, eq=False)
class SpectrogramTransformer(LogMelNetwork):
    """Two convolutions that keep every fourth frame, then a transformer's encoder (after the Speech-Transformer, Dong
    et al. 2018, doi 10.1109/ICASSP.2018.8462506).

    Without its decoder and its attention over frequency; layers are normalised first (Xiong et al. 2020, arXiv
    2002.04745), with GELU.

    Args:
        channels: of the convolutions.
        width: D of the frames.
        depth: number of the transformer's layers.
        heads: of each layer; they share the width.
        dropout: within and before the layers.
        pooling: over time: "mean", "mean_std", or "none" for all frames.
    """

    version: ClassVar[int] = 1

    channels: PositiveCount = 32
    width: PositiveCount = 144
    depth: PositiveCount = 4
    heads: PositiveCount = 4
    dropout: Share = 0.2
    pooling: Literal["none", "mean", "mean_std"] = "mean_std"

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        if self.width % (2 * self.heads):
            expected = f"a multiple of 2 · heads={2 * self.heads}"
            raise UserError(f"expected {self.where}.width to be {expected}, got {self.width}")

    def trained(self) -> NetworkPart:
        return SpectrogramTransformerPart(self)


class SpectrogramTransformerPart(NetworkPart):
    """The network of `SpectrogramTransformer`: (N, T, bands) to frames (N, ⌈T / 4⌉, width)."""

    def __init__(self, encoder: SpectrogramTransformer) -> None:
        super().__init__(pooling=encoder.pooling, standardised=encoder.bands)
        channels, width, dropout = encoder.channels, encoder.width, encoder.dropout
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, channels, 3, stride=2, padding=1) for before in (1, channels)
        )
        self.projection = nn.Linear(channels * halved(encoder.bands, len(self.convolutions)), width)
        self.dropout = nn.Dropout(dropout)
        # `nn.TransformerEncoder` would begin with equal weights in all layers
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, encoder.heads, 4 * width, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(encoder.depth)
        )
        self.norm = nn.LayerNorm(width)

    @property
    def frame_dim(self) -> int:
        return self.projection.out_features

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = values[:, None]  # (N, 1, T, bands)
        for convolution in self.convolutions:
            hidden = nn.functional.gelu(convolution(hidden * time_mask(lengths, hidden)))
            lengths = torch.div(lengths + 1, 2, rounding_mode="floor")
        frames = self.projection(hidden.transpose(1, 2).flatten(2))  # (N, T', width)
        frames = self.dropout(frames + positions(frames.shape[1], frames.shape[2], frames.device))
        mask = self.mask(frames, lengths)
        for layer in self.layers:
            frames = _in_a_graph(layer, frames, mask) if is_exported() else layer(frames, src_key_padding_mask=~mask)
        return self.norm(frames), lengths


def _in_a_graph(layer: Any, frames: Tensor, mask: Tensor) -> Tensor:
    """As the layer's `forward` in evaluation, for frames (N, T, width) and mask (N, T)."""
    normed = layer.norm1(frames)
    frames = frames + attend(layer.self_attn, normed, normed, mask)
    result: Tensor = frames + layer.linear2(layer.activation(layer.linear1(layer.norm2(frames))))
    return result
