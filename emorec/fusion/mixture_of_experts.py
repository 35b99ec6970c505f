"""Mixture of experts: one for each modality, and one for all of them."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from emorec.annotations import NonNegative, PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.errors import UserError
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import at_least_float, perceptron

LEAST_SPREAD = 0.01  # of the noise
MISSING = -1e4  # score of an expert whose modality is missing: finite also where it is divided by the spread


class MixtureOfExperts(Fusion):
    """The sum of the best experts of an utterance, weighted by a gate that looks at all modalities.

    Shazeer et al. 2017, "Outrageously large neural networks", arXiv 1701.06538: noisy top-k gating, with the noise in
    training only, and a loss that balances the experts. Here each modality is an expert, which is left out where the
    modality is missing, and so are all of them together.

    Args:
        top: k, the number of experts that an utterance uses; at most one more than there are modalities.
        balance: weight of the losses `importance` and `load`, squared coefficients of variation of the sum of each
            expert's weights, and of the expected number of utterances that use it.
        dropout: before and after the network of each expert.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        top: PositiveCount = 2,
        balance: NonNegative = 0.01,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        if top > len(dims) + 1:
            raise UserError(
                f"fusion.top: expected at most {len(dims) + 1}, one for each modality and one for all, got {top}"
            )
        joined = sum(dims.values())
        self.top, self.balance = top, balance
        self.experts = nn.ModuleList(
            nn.Sequential(perceptron(dim, hidden, dropout), Dropout(dropout)) for dim in (*dims.values(), joined)
        )
        self.gate = nn.Linear(joined, len(dims) + 1)
        self.noise = nn.Linear(joined, len(dims) + 1)
        nn.init.zeros_(self.noise.weight)

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        joined = torch.cat(list(vectors.values()), dim=1)
        values = torch.stack(
            [expert(vector) for expert, vector in zip(self.experts, (*vectors.values(), joined), strict=True)], dim=1
        )  # (B, E, H)
        available = torch.cat([self.stacked(present), torch.ones_like(joined[:, :1], dtype=torch.bool)], dim=1)
        clean = at_least_float(self.gate(joined))  # (B, E)
        spread = softplus(at_least_float(self.noise(joined))) + LEAST_SPREAD
        scores = clean + torch.randn_like(clean) * spread if self.training else clean
        scores = scores.masked_fill(~available, MISSING)
        best = scores.topk(self.top, dim=1).indices
        chosen = torch.zeros_like(clean).scatter(1, best, 1.0).bool() & available
        weights = scores.masked_fill(~chosen, torch.finfo(scores.dtype).min).softmax(1)  # (B, E)
        losses = self._losses(weights, clean, scores, spread, available) if self.training else {}
        return FusionOutput(fused=torch.einsum("be,beh->bh", weights, values), vectors=vectors, losses=losses)

    def _losses(
        self, weights: Tensor, clean: Tensor, scores: Tensor, spread: Tensor, available: Tensor
    ) -> dict[str, Tensor]:
        """{name: scalar} of the balance of the experts."""
        losses = {"importance": _variation(weights.sum(0))}
        if self.top < scores.shape[1]:
            # the score that an expert has to beat: the k-th best of the others
            best = scores.topk(self.top + 1, dim=1).values
            others = torch.where(scores >= best[:, -2:-1], best[:, -1:], best[:, -2:-1])
            chance = torch.special.ndtr((clean - others) / spread) * available  # (B, E)
            losses["load"] = _variation(chance.sum(0))
        return {name: self.balance * value for name, value in losses.items()}


def _variation(values: Tensor) -> Tensor:
    """The squared coefficient of variation of E values; 0 for a single one."""
    return values.var(correction=0) / values.mean().square().clamp_min(1e-10)
