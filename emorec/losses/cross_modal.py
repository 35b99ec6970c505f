"""Losses that compare the vectors of the modalities with each other; they read no targets."""

from abc import abstractmethod
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, kl_div

from emorec.annotations import Positive, PositiveCount
from emorec.batch import Batch, ModelOutput
from emorec.errors import UserError
from emorec.layers import at_least_float
from emorec.losses.loss import Loss
from emorec.losses.representation import cosines


class CrossModalLoss(Loss):
    """A loss of pairs of modalities, over the utterances that have both; it does not train the head.

    With several ranks each compares the utterances of its own batch.
    """

    kind = "classification"
    trains_head = False
    mixes = False

    def __init__(self, *, task: str, modalities: list[str], weights: dict[str, float] | None = None) -> None:
        super().__init__(task=task, weights=weights)
        if len(modalities) < 2:
            raise UserError(f"loss: expected at least two modalities for {self.name}, got {', '.join(modalities)}")

    @abstractmethod
    def pairs(self, modalities: list[str]) -> list[tuple[str, str]]:
        """The pairs that are compared."""

    @abstractmethod
    def compare(self, first: str, second: str, vectors: tuple[Tensor, Tensor]) -> Tensor:
        """The loss () of two modalities, for the vectors (B, H) of both, B ≥ 1."""

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        vectors = {name: at_least_float(values) for name, values in output.fusion.vectors.items()}
        there = {name: values.ne(0).any(1) for name, values in vectors.items()}  # a missing modality is zero
        values = []
        with torch.autocast(output.fusion.fused.device.type, enabled=False):
            for first, second in self.pairs(list(vectors)):
                both = there[first] & there[second]
                if bool(both.any()):
                    values.append(self.compare(first, second, (vectors[first][both], vectors[second][both])))
        # with several ranks each has to have a gradient of all parameters, whatever its batch lacks
        nothing = output.fusion.fused.sum() * 0 + sum(item.sum() * 0 for item in self.parameters())
        return {self.name: torch.stack(values).mean() + nothing if values else nothing}

    @property
    def name(self) -> str:
        """The name of the scalar."""
        return type(self).__name__.lower()


def relational_divergence(main: Tensor, other: Tensor, temperature: float, *, across: bool = True) -> Tensor:
    """Mean over the rows of KL(softmax(t tᵀ / temperature) ‖ softmax(t mᵀ / temperature)).

    t are the vectors (B, H) of the main modality, through which no gradient flows, and m those of the other, all of
    norm 1: each utterance is to have the same neighbours in both (Yun et al. 2024, "TelME", arXiv 2401.12987). Without
    `across` the second are m mᵀ, so that the widths may differ.
    """
    main = main.detach()
    target = (cosines(main, main) / temperature).softmax(1)
    found = (cosines(main if across else other, other) / temperature).log_softmax(1)
    return kl_div(found, target, reduction="batchmean")


class CMCL(CrossModalLoss):
    """`relational_divergence` of each other modality from the main one.

    The paper's temperature is 1, at which rows of cosines are nearly even and the gradient is small.

    Args:
        modalities: all that the model has.
        main: the modality that the others follow.
        temperature: the lower it is, the more the most similar utterances count.
    """

    def __init__(
        self,
        *,
        task: str,
        modalities: list[str],
        main: str = "text",
        temperature: Positive = 0.1,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, modalities=modalities, weights=weights)
        if main not in modalities:
            raise UserError(f"loss.main: expected one of {', '.join(modalities)}, got {main!r}")
        self.main, self.temperature = main, temperature

    def pairs(self, modalities: list[str]) -> list[tuple[str, str]]:
        return [(self.main, other) for other in modalities if other != self.main]

    def compare(self, first: str, second: str, vectors: tuple[Tensor, Tensor]) -> Tensor:
        return relational_divergence(*vectors, self.temperature)


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean of -cosine of rows (B, D), with no gradient through the target."""
    return -cosine_similarity(predicted, target.detach(), dim=1).mean()


class SimSiam(CrossModalLoss):
    """Each modality predicts the projection of each other one.

    Chen & He 2021, "Exploring simple siamese representation learning", arXiv 2011.10566, algorithm 1, with two
    modalities in the place of two views, layer normalisation in the place of batch normalisation, and 1 - cosine, the
    mean of both directions, so that it is never below 0. No gradient flows through what is predicted. Its projectors
    and predictors train with the model and are part of its weights.

    Args:
        hidden: H of the vectors.
        modalities: all that the model has.
        dim: width of the projections.
    """

    def __init__(
        self,
        *,
        task: str,
        hidden: PositiveCount,
        modalities: list[str],
        dim: PositiveCount = 64,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, modalities=modalities, weights=weights)
        self.projectors = nn.ModuleDict({name: _network(hidden, hidden, dim) for name in modalities})
        self.predictors = nn.ModuleDict({name: _network(dim, max(1, dim // 4), dim) for name in modalities})

    def pairs(self, modalities: list[str]) -> list[tuple[str, str]]:
        return list(combinations(modalities, 2))

    def compare(self, first: str, second: str, vectors: tuple[Tensor, Tensor]) -> Tensor:
        one, other = self.projectors[first](vectors[0]), self.projectors[second](vectors[1])
        there = negative_cosine(self.predictors[first](one), other)
        back = negative_cosine(self.predictors[second](other), one)
        return 1 + (there + back) / 2


def _network(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, out))
