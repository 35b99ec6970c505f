"""A loss for classes that have an order."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, nll_loss

from emorec.batch import Batch, ModelOutput
from emorec.losses.class_weights import Weighting
from emorec.losses.loss import ClassificationLoss


def log_probabilities(steps: Tensor) -> Tensor:
    """(B, C) log probabilities of ordered classes.

    Args:
        steps: (B, C - 1) logits of "the class is above k", given that it is at least k.
    """
    nothing = steps.new_zeros(len(steps), 1)
    reached = torch.cat([nothing, logsigmoid(steps).cumsum(1)], dim=1)  # at least k
    stays = torch.cat([logsigmoid(-steps), nothing], dim=1)  # not above k
    return reached + stays


class Corn(ClassificationLoss):
    """Conditional ordinal regression (Shi, Cao & Raschka 2021, arXiv 2111.08851): whether the class is above k is
    learned from the utterances whose class is at least k, for each k but the last.

    The classes of the task are in their order. The head gives log probabilities of the classes, so that a prediction is
    the most probable class, where the paper takes the median.
    """

    ordinal = True

    def __init__(
        self, *, task: str, class_weights: Weighting = "none", weights: dict[str, float] | None = None
    ) -> None:
        super().__init__(task=task, class_weights=class_weights, weights=weights)

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        logits, target = output.logits[self.task].float(), batch.targets[self.task]  # (B, C), (B,)
        entropy = nll_loss(log_softmax(logits, 1), target, weight=self.class_weight, reduction="none")
        terms = (target.clamp_max(logits.shape[1] - 2) + 1).clamp_min(0).float()  # steps that an utterance teaches
        if self.class_weight is not None:
            terms = terms * self.class_weight[target.clamp_min(0)]
        return {"corn": entropy.sum() / terms.sum().clamp_min(1e-8)}
