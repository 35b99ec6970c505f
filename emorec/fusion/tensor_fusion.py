"""Tensor fusion: products of the units of all modalities."""

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.errors import UserError
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import perceptron

MOST_PRODUCTS = 1_000_000  # what a layer of the usual width still holds


class TensorFusion(Fusion):
    """The outer product of the vectors, each with a 1 appended, then two layers.

    Zadeh et al. 2017, "Tensor fusion network for multimodal sentiment analysis", arXiv 1707.07250: z = [h_t; 1] ⊗
    [h_a; 1] ⊗ [h_v; 1] holds the units of each modality, and their products in pairs and threes. A missing modality is
    [0; 1]: what is left are the products of the others.

    Args:
        width: of each vector before the product, which has (width + 1) ** M numbers.
        dropout: before the layers.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        width: PositiveCount = 16,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        products = (width + 1) ** len(dims)
        if products > MOST_PRODUCTS:
            raise UserError(
                f"fusion.width: expected (width + 1) ** {len(dims)} modalities of at most {MOST_PRODUCTS}, got {width}"
            )
        self.narrow = nn.ModuleDict({modality: perceptron(dim, width, dropout) for modality, dim in dims.items()})
        self.layers = nn.Sequential(
            perceptron(products, hidden, dropout), perceptron(hidden, hidden, dropout), Dropout(dropout)
        )

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        product: Tensor | None = None
        for modality, vector in vectors.items():
            narrow = self.narrow[modality](vector) * present[modality][:, None]
            extended = torch.cat([narrow, torch.ones_like(narrow[:, :1])], dim=1)  # (B, width + 1)
            product = extended if product is None else (product[:, :, None] * extended[:, None]).flatten(1)
        return FusionOutput(fused=self.layers(product), vectors=vectors)
