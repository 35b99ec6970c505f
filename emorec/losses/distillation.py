"""Losses by which a model learns from the predictions of another one, its teacher.

They count utterances of training for which the teacher has predictions, and nothing in evaluation.
"""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from emorec.annotations import NonNegative, Positive
from emorec.batch import IGNORED, Batch, ModelOutput
from emorec.errors import UserError
from emorec.layers import at_least_float
from emorec.losses.cross_modal import relational_divergence
from emorec.losses.loss import Loss


class DistillationLoss(Loss):
    """A loss against `Batch.teacher`.

    Class attributes:
        name: of the scalar.
        of: what of the teacher it compares with, "logits" or "fused", the vectors.
    """

    kind = "classification"
    needs_teacher = True
    name: str
    of: str

    def own(self, output: ModelOutput) -> Tensor:
        """What of the model is compared with the teacher: logits (B, C) or vectors (B, H)."""
        return output.logits[self.task] if self.of == "logits" else output.fusion.fused

    @abstractmethod
    def compare(self, own: Tensor, teacher: Tensor) -> Tensor:
        """The loss () for rows of the model and of the teacher, at least one."""

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        own = at_least_float(self.own(output))
        if self.of not in batch.teacher:
            return {self.name: own.sum() * 0}
        teacher = batch.teacher[self.of].to(own.dtype)
        known = teacher.isfinite().all(1)
        if not bool(known.any()):
            return {self.name: own.sum() * 0}
        with torch.autocast(own.device.type, enabled=False):
            return {self.name: self.compare(own[known], teacher[known])}


def row_divergence(own: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature² times KL(softmax(teacher / temperature) ‖ softmax(own / temperature)) of each row (…, C).

    Hinton et al. 2015, "Distilling the knowledge in a neural network", arXiv 1503.02531.
    """
    found, target = (own / temperature).log_softmax(-1), (teacher / temperature).softmax(-1)
    divergence: Tensor = kl_div(found, target, reduction="none").sum(-1) * temperature**2
    return divergence


def soft_divergence(own: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The mean of `row_divergence` over rows (N, C)."""
    return row_divergence(own, teacher, temperature).mean()


class KD(DistillationLoss):
    """`soft_divergence` of the logits from the teacher's.

    Args:
        temperature: the higher it is, the more the small probabilities count.
    """

    name, of = "kd", "logits"

    def __init__(self, *, task: str, temperature: Positive = 2.0, weights: dict[str, float] | None = None) -> None:
        super().__init__(task=task, weights=weights)
        self.temperature = temperature

    def compare(self, own: Tensor, teacher: Tensor) -> Tensor:
        return soft_divergence(own, teacher, self.temperature)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """(N,), Pearson's correlation of the rows of two matrices (N, M); 0 where a row is constant."""
    first, second = (values - values.mean(1, keepdim=True) for values in (first, second))
    spread = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    correlations: Tensor = (first * second).sum(1) / spread.clamp_min(1e-8)
    return correlations


def correlation_distance(own: Tensor, teacher: Tensor, *, temperature: float, between: float, within: float) -> Tensor:
    """temperature² times the sum of two parts: `between` · (1 - mean correlation of an utterance's probabilities with
    the teacher's), and `within` · (1 - mean correlation of a class's probabilities over the batch).

    Huang et al. 2022, "Knowledge distillation from a stronger teacher" (DIST), arXiv 2205.10536. For a single utterance
    the second part is left out.
    """
    first, second = ((values / temperature).softmax(1) for values in (own, teacher))
    loss: Tensor = between * (1 - correlation(first, second).mean())
    if len(own) > 1:
        loss = loss + within * (1 - correlation(first.T, second.T).mean())
    scaled: Tensor = temperature**2 * loss
    return scaled


class DIST(DistillationLoss):
    """`correlation_distance` of the logits from the teacher's.

    Args:
        temperature: of the probabilities; 1 in the paper's code, 4 in TelME (Yun et al. 2024, arXiv 2401.12987).
        between: weight of the correlation over the classes of an utterance.
        within: weight of the correlation over the utterances of a class.
    """

    name, of = "dist", "logits"
    mixes = False

    def __init__(
        self,
        *,
        task: str,
        temperature: Positive = 1.0,
        between: NonNegative = 1.0,
        within: NonNegative = 1.0,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, weights=weights)
        self.temperature, self.between, self.within = temperature, between, within

    def compare(self, own: Tensor, teacher: Tensor) -> Tensor:
        return correlation_distance(
            own, teacher, temperature=self.temperature, between=self.between, within=self.within
        )


class FeatureKD(DistillationLoss):
    """`relational_divergence` of the vectors from the teacher's: each utterance is to have the same neighbours.

    The widths of the two models may differ, since only the similarities of utterances are compared: those of the
    teacher's vectors with each other, and those of the model's.

    Args:
        temperature: the lower it is, the more the most similar utterances count.
    """

    name, of = "feature_kd", "fused"
    trains_head = False
    mixes = False

    def __init__(self, *, task: str, temperature: Positive = 0.1, weights: dict[str, float] | None = None) -> None:
        super().__init__(task=task, weights=weights)
        self.temperature = temperature

    def compare(self, own: Tensor, teacher: Tensor) -> Tensor:
        return relational_divergence(teacher, own, self.temperature, across=False)


class OnePass(Loss):
    """Trains a student for each modality in one run: the logits that a late fusion gives for it learn from the labels
    and from the teacher's probabilities.

    The mean over the students of cross-entropy + `imitation` · `row_divergence`, each the mean over the utterances that
    have the modality. `emorec evaluate missing=grid` gives the result of each student.

    Args:
        modalities: of the model.
        students: those of them that learn from the teacher; `None` for all.
        temperature: of the probabilities.
        imitation: weight of the teacher beside the labels.
    """

    kind = "classification"
    trains_head = False
    needs_teacher = True
    reads_modality_logits = True
    mixes = False

    def __init__(
        self,
        *,
        task: str,
        modalities: list[str],
        students: list[str] | None = None,
        temperature: Positive = 2.0,
        imitation: NonNegative = 1.0,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, weights=weights)
        if unknown := sorted(set(students or ()) - set(modalities)):
            raise UserError(
                f"students: expected modalities of the run, {', '.join(modalities)}, got {', '.join(unknown)}"
            )
        self.students = tuple(students or modalities)
        self.temperature, self.imitation = temperature, imitation

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        given = output.fusion.logits
        assert given is not None  # the builder has checked the fusion
        logits = at_least_float(torch.stack([given[name] for name in self.students]))  # (S, B, C)
        present = torch.stack([batch.present[name] for name in self.students])  # (S, B)
        with torch.autocast(logits.device.type, enabled=False):
            target = batch.targets[self.task].where(present, IGNORED)
            entropy = cross_entropy(logits.transpose(1, 2), target, reduction="none")  # (S, B), 0 where ignored
            value = mean_of(entropy, target >= 0)
            if "logits" in batch.teacher:
                teacher = batch.teacher["logits"].to(logits.dtype)
                known = teacher.isfinite().all(1)  # (B,)
                teacher = teacher.where(known[:, None], 0).expand_as(logits)
                divergence = row_divergence(logits, teacher, self.temperature)  # (S, B)
                value = value + self.imitation * mean_of(divergence, present & known)
        return {"one_pass": value.mean()}


def mean_of(values: Tensor, counts: Tensor) -> Tensor:
    """(S,), the mean of each row of values (S, B) where `counts` (S, B) is true; 0 where it is nowhere."""
    return (values * counts).sum(1) / counts.sum(1).clamp_min(1)
