"""Self-attention over modality tokens."""

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.errors import UserError
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling


class SelfAttention(Fusion):
    """One transformer layer over the modalities of an utterance, one token each; missing ones are masked.

    Attention is within the utterance: (B, M, H), never across the batch. Vaswani et al. (2017), arXiv 1706.03762.

    Args:
        hidden: H of the tokens and of the fused vector, a multiple of `heads`.
        dropout: dropout of the layer.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        heads: PositiveCount = 4,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
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

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        tokens = torch.stack([self.tokens[name](vector) for name, vector in vectors.items()], dim=1)  # (B, M, H)
        tokens = tokens + self.kind
        available = self.stacked(present)
        normed = self.first_norm(tokens)
        attended, _ = self.attention(normed, normed, normed, key_padding_mask=~available, need_weights=False)
        tokens = tokens + self.dropout(attended)
        tokens = tokens + self.dropout(self.feed_forward(self.second_norm(tokens)))
        weights = available[:, :, None].to(tokens.dtype)
        return FusionOutput(fused=(tokens * weights).sum(1) / weights.sum(1), vectors=vectors)
