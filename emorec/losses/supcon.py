"""Supervised contrastive loss."""

import torch
from torch import Tensor

from emorec.annotations import Positive
from emorec.losses.representation import RepresentationLoss, cosines, mean_where


def supervised_contrastive(vectors: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Mean over anchors of -1 / |P| Σ_{p in P} log(exp(s_p / temperature) / Σ_{a ≠ anchor} exp(s_a / temperature)).

    P are the other utterances of the anchor's class, s cosines (Khosla et al. 2020, "Supervised contrastive learning",
    arXiv 2004.11362, L_out). Anchors without such utterances do not count; without any that do, the loss is 0.

    Args:
        vectors: (B, H).
        target: (B,) classes.
        temperature: above 0.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    scores = (cosines(vectors, vectors) / temperature).masked_fill(itself, torch.finfo(vectors.dtype).min)
    log_share = scores - scores.logsumexp(1, keepdim=True)
    positive = (target[:, None] == target) & ~itself
    count = positive.sum(1)
    losses = -(log_share.where(positive, 0).sum(1) / count.clamp_min(1))
    return mean_where(losses, count > 0)


class SupCon(RepresentationLoss):
    """`supervised_contrastive` over the utterances of a batch.

    Args:
        temperature: the lower it is, the more the most similar utterances count.
        detach_classifier: see `RepresentationLoss`.
    """

    def __init__(
        self,
        *,
        task: str,
        temperature: Positive = 0.1,
        detach_classifier: bool = False,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, detach_classifier=detach_classifier, weights=weights)
        self.temperature = temperature

    def compare(self, vectors: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"supcon": supervised_contrastive(vectors, target, self.temperature)}
