"""What modalities share and what each has alone, in vectors of their own."""

from abc import abstractmethod
from itertools import combinations, permutations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from emorec.annotations import NonNegative, PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.errors import UserError
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import AttentionLayer, perceptron

MOMENTS = 5  # that the discrepancy of two distributions compares


def mean_of(values: Tensor, rows: Tensor) -> Tensor:
    """(H,), the mean of the rows (B, H) where `rows` (B,) is true; zero where it is nowhere."""
    return (values * rows[:, None]).sum(0) / rows.sum().clamp_min(1)


def central_moment_discrepancy(first: Tensor, second: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
    """The distance of the means of two samples (B, H) plus those of their central moments up to the fifth.

    Zellinger et al. 2017, arXiv 1702.08811, for values between 0 and 1. `rows` are those (B,) that each sample has.
    """
    samples = (first, rows[0]), (second, rows[1])
    means = [mean_of(values, own) for values, own in samples]
    distances = [torch.linalg.vector_norm(means[0] - means[1])]
    for order in range(2, MOMENTS + 1):
        moments = [mean_of((values - mean).pow(order), own) for (values, own), mean in zip(samples, means, strict=True)]
        distances.append(torch.linalg.vector_norm(moments[0] - moments[1]))
    return torch.stack(distances).sum() * (rows[0].any() & rows[1].any())


def overlap(first: Tensor, second: Tensor, rows: Tensor) -> Tensor:
    """Mean square of the products of the units of two samples (B, H), which are centred and have rows of norm 1.

    It is 0 where the units of the first and those of the second are orthogonal (Hazarika et al. 2020).
    `rows` (B,) are those that count.
    """
    first, second = (normalize((values - mean_of(values, rows)) * rows[:, None], dim=1) for values in (first, second))
    return (first.T @ second).square().mean()


def squared_error(predicted: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    """Mean square of the difference of two samples (B, H) over some rows (B,); 0 without any."""
    return mean_of((predicted - target).square(), rows).mean()


class Subspaces(NamedTuple):
    """The vectors {modality: (B, H)} of a batch, and the rows {modality: (B,)} that have the modality."""

    projected: dict[str, Tensor]
    private: dict[str, Tensor]
    shared: dict[str, Tensor]
    present: dict[str, Tensor]


class SubspaceFusion(Fusion):
    """The base of fusions with a vector of each modality that is shared in kind, and one that is private.

    Args:
        difference: weight of the loss `difference`, by which the vectors of an utterance have to differ.
        dropout: of the vectors, and before the last layer.
    """

    def __init__(
        self, *, dims: dict[str, int], hidden: int, pooling: Pooling, difference: float, dropout: float
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        self.difference = difference
        self.projections = nn.ModuleDict(
            {
                modality: nn.Sequential(perceptron(dim, hidden, dropout), nn.LayerNorm(hidden))
                for modality, dim in dims.items()
            }
        )
        self.private = nn.ModuleDict(
            {modality: nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid()) for modality in dims}
        )
        self.shared = nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid())

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        projected = {name: self.projections[name](vector) for name, vector in vectors.items()}
        private = {name: self.private[name](vector) for name, vector in projected.items()}
        shared = {name: self.shared(vector) for name, vector in projected.items()}
        available = self.stacked(present)
        tokens = torch.stack([*private.values(), *shared.values()], dim=1)  # (B, 2 M, H)
        fused = self.joined(tokens, torch.cat([available, available], dim=1))
        losses = self._losses(Subspaces(projected, private, shared, present)) if self.training else {}
        return FusionOutput(fused=fused, vectors=vectors, losses=losses)

    @abstractmethod
    def joined(self, tokens: Tensor, available: Tensor) -> Tensor:
        """(B, H) from the private vectors and then the shared ones (B, 2 M, H), those that are available (B, 2 M)."""

    @abstractmethod
    def own_losses(self, vectors: Subspaces) -> dict[str, Tensor]:
        """{name: scalar} beside the difference."""

    def _losses(self, vectors: Subspaces) -> dict[str, Tensor]:
        _, private, shared, present = vectors
        pairs = [(private[name], shared[name], present[name]) for name in private]
        pairs += [
            (private[first], private[second], present[first] & present[second])
            for first, second in combinations(private, 2)
        ]
        difference = [overlap(first, second, both) for first, second, both in pairs]
        return {"difference": self.difference * torch.stack(difference).sum(), **self.own_losses(vectors)}


class SharedPrivate(SubspaceFusion):
    """A transformer layer over the shared and private vectors of all modalities, then a linear layer.

    Hazarika et al. 2020, "MISA: modality-invariant and -specific representations for multimodal sentiment analysis",
    arXiv 2005.03545. The losses count utterances that have the modalities only, and a missing one is masked. The layer
    is normalised first, and a gradient flows through the norms in the loss `difference`.

    Args:
        similarity: weight of the loss `similarity`, the central moment discrepancy of the shared vectors of each pair.
        difference: weight of the loss `difference` of shared and private vectors, and of private ones.
        reconstruction: weight of the loss `reconstruction` of each modality from its two vectors.
        heads: of the transformer layer; a divisor of `hidden`.
        dropout: of the vectors, in the layer, and before the last one.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        similarity: NonNegative = 0.7,
        difference: NonNegative = 0.3,
        reconstruction: NonNegative = 0.7,
        heads: PositiveCount = 2,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling, difference=difference, dropout=dropout)
        if hidden % heads:
            raise UserError(f"fusion.heads: expected a divisor of model.hidden={hidden}, got {heads}")
        self.similarity, self.reconstruction = similarity, reconstruction
        self.decoders = nn.ModuleDict({modality: nn.Linear(hidden, hidden) for modality in dims})
        self.attention = AttentionLayer(hidden, heads, dropout)
        self.layer = nn.Sequential(perceptron(2 * len(dims) * hidden, hidden, dropout), Dropout(dropout))

    def joined(self, tokens: Tensor, available: Tensor) -> Tensor:
        attended = self.attention(tokens, available) * available[:, :, None]
        joined: Tensor = self.layer(attended.flatten(1))
        return joined

    def own_losses(self, vectors: Subspaces) -> dict[str, Tensor]:
        projected, private, shared, present = vectors
        rebuilt = [
            squared_error(self.decoders[name](private[name] + shared[name]), vector, present[name])
            for name, vector in projected.items()
        ]
        distances = [
            central_moment_discrepancy(shared[first], shared[second], (present[first], present[second]))
            for first, second in combinations(shared, 2)
        ]
        losses = {"reconstruction": self.reconstruction * torch.stack(rebuilt).mean()}
        if distances:
            losses["similarity"] = self.similarity * torch.stack(distances).mean()
        return losses


class RouterSharedPrivate(SubspaceFusion):
    """The sum of the shared and private vectors of all modalities, with weights that a router gives each utterance.

    A variant of `SharedPrivate`: the router takes the place of the transformer, and the shared vector of a modality has
    to predict the other modalities, instead of being distributed as theirs. The sum is normalised, since means of
    vectors between 0 and 1 hardly differ between utterances.

    Args:
        prediction: weight of the loss `prediction` of each modality from the shared vector of each other one.
        difference: weight of the loss `difference` of shared and private vectors, and of private ones.
        dropout: of the vectors, and after the last layer.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        prediction: NonNegative = 0.5,
        difference: NonNegative = 0.3,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling, difference=difference, dropout=dropout)
        self.prediction = prediction
        self.router = nn.Linear(2 * len(dims) * hidden, 2 * len(dims))
        self.predictors = nn.ModuleDict({modality: nn.Linear(hidden, hidden) for modality in dims if len(dims) > 1})
        self.layer = nn.Sequential(nn.LayerNorm(hidden), perceptron(hidden, hidden, 0.0), Dropout(dropout))

    def joined(self, tokens: Tensor, available: Tensor) -> Tensor:
        known = tokens * available[:, :, None]
        scores = self.router(known.flatten(1))  # (B, 2 M)
        weights = scores.masked_fill(~available, torch.finfo(scores.dtype).min).softmax(1)
        joined: Tensor = self.layer(torch.einsum("bm,bmh->bh", weights, known))
        return joined

    def own_losses(self, vectors: Subspaces) -> dict[str, Tensor]:
        projected, _, shared, present = vectors
        errors = [
            squared_error(
                self.predictors[other](shared[source]), projected[other].detach(), present[source] & present[other]
            )
            for source, other in permutations(shared, 2)
        ]
        return {"prediction": self.prediction * torch.stack(errors).mean()} if errors else {}
