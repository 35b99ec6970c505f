"""Low-rank tensor fusion."""

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling


class LowRank(Fusion):
    """Tensor fusion with a weight of low rank, without its outer product.

    Liu et al. 2018, "Efficient low-rank multimodal fusion with modality-specific factors", arXiv 1806.00064: the sum
    over r of w_r · Π_m W_m^r [h_m; 1], plus a bias. A missing modality is [0; 1], whose factor is learned.

    Args:
        rank: R, number of terms of the sum.
        dropout: of the vectors.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        rank: PositiveCount = 4,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        self.dropout = Dropout(dropout)
        self.factors = nn.ParameterDict(
            {
                modality: torch.stack([nn.init.xavier_normal_(torch.empty(dim + 1, hidden)) for _ in range(rank)])
                for modality, dim in dims.items()
            }
        )
        self.weights = nn.Parameter(torch.randn(rank) / rank**0.5)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        product: Tensor | None = None
        for modality, vector in vectors.items():
            extended = torch.cat([self.dropout(vector), torch.ones_like(vector[:, :1])], dim=1)  # (B, D + 1)
            term = torch.einsum("bd,rdh->brh", extended, self.factors[modality])
            product = term if product is None else product * term
        return FusionOutput(fused=torch.einsum("r,brh->bh", self.weights, product) + self.bias, vectors=vectors)
