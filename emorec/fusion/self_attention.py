"""Self-attention over modality tokens, or over all frames."""

from typing import Literal

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.errors import UserError
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import attend, positions


class SelfAttention(Fusion):
    """One transformer layer over the modalities of an utterance, one token each, or over the frames of all of them.

    Attention is within the utterance: (B, M, H) or (B, ΣT, H), never across the batch; what is missing is masked.
    Vaswani et al. (2017), arXiv 1706.03762; normalised first.

    Args:
        over: "modality", or "time" for all frames, with their positions; they are pooled afterwards.
        hidden: H of the tokens and of the fused vector, a multiple of `heads`.
        dropout: dropout of the layer.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        over: Literal["modality", "time"] = "modality",
        heads: PositiveCount = 4,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling, width=hidden if over == "time" else None)
        self.over = over
        if hidden % heads:
            raise UserError(f"fusion.heads: expected a divisor of model.hidden={hidden}, got {heads}")
        self.tokens = nn.ModuleDict({modality: nn.Linear(dim, hidden) for modality, dim in dims.items()})
        self.kind = nn.Parameter(torch.randn(len(dims), hidden) * 0.02)
        self.attention = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True)
        self.first_norm, self.second_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden, 2 * hidden), nn.GELU(), Dropout(dropout), nn.Linear(2 * hidden, hidden)
        )
        self.dropout = Dropout(dropout)

    def exchange(self, features: dict[str, Tensor], mask: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.over == "modality":
            return features
        tokens = [
            self.tokens[name](frames) + kind + positions(frames.shape[1], self.hidden, frames.device)
            for (name, frames), kind in zip(features.items(), self.kind, strict=True)
        ]
        counts = [frames.shape[1] for frames in tokens]
        attended = self._attended(torch.cat(tokens, dim=1), torch.cat(list(mask.values()), dim=1))
        return dict(zip(features, torch.split(attended, counts, dim=1), strict=True))

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        if self.over == "time":
            return FusionOutput(fused=self.mean(vectors, present), vectors=vectors)
        tokens = torch.stack([self.tokens[name](vector) for name, vector in vectors.items()], dim=1)  # (B, M, H)
        available = self.stacked(present)
        tokens = self._attended(tokens + self.kind, available)
        weights = available[:, :, None].to(tokens.dtype)
        return FusionOutput(fused=(tokens * weights).sum(1) / weights.sum(1), vectors=vectors)

    def _attended(self, tokens: Tensor, available: Tensor) -> Tensor:
        """The layer's output (B, S, H) for tokens (B, S, H), of which those (B, S) that are available count."""
        normed = self.first_norm(tokens)
        tokens = tokens + self.dropout(attend(self.attention, normed, normed, available))
        result: Tensor = tokens + self.dropout(self.feed_forward(self.second_norm(tokens)))
        return result
