"""Bottleneck tokens between modalities."""

import torch
from torch import Tensor, nn

from emorec.annotations import Count, PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.errors import UserError
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import AttentionLayer, positions


class Bottleneck(Fusion):
    """A transformer for each modality, which exchange what a few shared tokens can hold.

    Nagrani et al. 2021, "Attention bottlenecks for multimodal fusion", arXiv 2107.00135. In a fusion layer a modality
    attends to its own frames and to the bottleneck tokens, which then become the mean of what the available modalities
    made of them. The fused vector is the mean of the modalities, which are pooled over time instead of read from a
    class token.

    Args:
        tokens: B, the number of bottleneck tokens.
        depth: number of layers.
        fusion_from: number of the first layer with the bottleneck; the layers before see their own modality only.
        heads: of each layer; a divisor of `hidden`.
        dropout: in the layers.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        tokens: PositiveCount = 4,
        depth: PositiveCount = 2,
        fusion_from: Count = 0,
        heads: PositiveCount = 4,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling, width=hidden)
        if hidden % heads:
            raise UserError(f"fusion.heads: expected a divisor of model.hidden={hidden}, got {heads}")
        if fusion_from >= depth:
            raise UserError(f"fusion.fusion_from: expected less than fusion.depth={depth}, got {fusion_from}")
        self.fusion_from = fusion_from
        self.projections = nn.ModuleDict({modality: nn.Linear(dim, hidden) for modality, dim in dims.items()})
        self.bottleneck = nn.Parameter(torch.randn(tokens, hidden) * 0.02)
        self.layers = nn.ModuleList(
            nn.ModuleDict({modality: AttentionLayer(hidden, heads, dropout) for modality in dims}) for _ in range(depth)
        )

    def exchange(self, features: dict[str, Tensor], mask: dict[str, Tensor]) -> dict[str, Tensor]:
        sequences = {}
        for modality, frames in features.items():
            projected = self.projections[modality](frames)
            sequences[modality] = projected + positions(frames.shape[1], self.hidden, frames.device)
        rows, count = next(iter(mask.values())).shape[0], len(self.bottleneck)
        shared = self.bottleneck.expand(rows, -1, -1)  # (B, tokens, H)
        known = torch.ones_like(shared[:, :, 0], dtype=torch.bool)
        available = torch.stack([item.any(1) for item in mask.values()], dim=1)[:, :, None, None]  # (B, M, 1, 1)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, nn.ModuleDict)
            if number < self.fusion_from:
                sequences = {name: layer[name](frames, mask[name]) for name, frames in sequences.items()}
                continue
            joined = {
                name: layer[name](torch.cat([frames, shared], dim=1), torch.cat([mask[name], known], dim=1))
                for name, frames in sequences.items()
            }
            sequences = {name: values[:, :-count] for name, values in joined.items()}
            own = torch.stack([values[:, -count:] for values in joined.values()], dim=1)  # (B, M, tokens, H)
            shared = (own * available).sum(1) / available.sum(1).clamp_min(1)
        return sequences

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        return FusionOutput(fused=self.mean(vectors, present), vectors=vectors)
