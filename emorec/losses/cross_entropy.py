"""Cross-entropy with label smoothing and class weights."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from emorec.annotations import NonNegative, Share
from emorec.batch import Batch, ModelOutput
from emorec.losses.class_weights import Weighting
from emorec.losses.loss import ClassificationLoss


class CrossEntropy(ClassificationLoss):
    """Mean cross-entropy; with class weights a weighted mean.

    Args:
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, arXiv 1512.00567).
        targets: "labels", or "votes": the shares of the raters' votes for each class, where there are any, and labels
            elsewhere. Utterances without a label do not count either way.
        logit_adjustment: τ; in training τ times the log of a class's share of the training split is added to its logit,
            so that rare classes need a larger one (Menon et al. 2021, arXiv 2007.07314); a class without utterances
            counts as if it had one.
    """

    def __init__(
        self,
        *,
        task: str,
        label_smoothing: Share = 0.0,
        targets: Literal["labels", "votes"] = "labels",
        logit_adjustment: NonNegative = 0.0,
        class_weights: Weighting = "none",
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, class_weights=class_weights, weights=weights)
        self.label_smoothing, self.logit_adjustment = label_smoothing, logit_adjustment
        self.reads_votes = targets == "votes"
        self.adjustment: Tensor | None
        self.register_buffer("adjustment", None, persistent=False)

    def fit(self, class_counts: Tensor) -> None:
        super().fit(class_counts)
        if self.logit_adjustment:
            counts = class_counts.clamp_min(1).float()
            self.adjustment = self.logit_adjustment * (counts / counts.sum()).log()

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        logits, target = output.logits[self.task].float(), batch.targets[self.task]  # (B, C), (B,)
        if self.training and self.adjustment is not None:
            logits = logits + self.adjustment
        if self.reads_votes and (votes := batch.votes.get(self.task)) is not None:
            return {"cross_entropy": self._against_votes(logits, target, votes)}
        if self.class_weight is None and bool((target >= 0).any()):
            return {"cross_entropy": cross_entropy(logits, target, label_smoothing=self.label_smoothing)}
        # a mean over weights of 0 would be NaN
        entropy = cross_entropy(
            logits, target, weight=self.class_weight, label_smoothing=self.label_smoothing, reduction="none"
        )
        counts = (target >= 0).float()
        if self.class_weight is not None:
            counts = counts * self.class_weight[target.clamp_min(0)]
        return {"cross_entropy": entropy.sum() / counts.sum().clamp_min(1e-8)}

    def _against_votes(self, logits: Tensor, target: Tensor, votes: Tensor) -> Tensor:
        """The mean () over utterances with a label, for logits (B, C), classes (B,) and shares (B, C)."""
        known, classes = target >= 0, logits.shape[1]
        labels = one_hot(target.clamp_min(0), classes).to(logits.dtype)
        shares = labels.where(votes.isnan(), votes.to(logits.dtype))
        entropy = cross_entropy(
            logits, shares, weight=self.class_weight, label_smoothing=self.label_smoothing, reduction="none"
        )
        counts = known.to(logits.dtype)
        weights = counts if self.class_weight is None else counts * (shares * self.class_weight).sum(1)
        return (entropy * counts).sum() / weights.sum().clamp_min(1e-8)
