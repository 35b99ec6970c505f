"""Several losses at once."""

from typing import Literal

import torch
from torch import Tensor, nn

from emorec.batch import Batch, ModelOutput
from emorec.errors import UserError
from emorec.losses.loss import Loss

LEAST_LOG_VARIANCE = -4.0


class Several(Loss):
    """The weighted sum of losses, each under its own name.

    Args:
        parts: {name: loss}; at least one of them trains the head.
        weighting: "fixed" weights, or "learned" ones: a part then has a log variance s, at first 0, and counts as
            (exp(-s) · loss + s) / 2 times its weight (Kendall et al. 2018, arXiv 1705.07115). s is at least -4, since
            the weight of a loss that reaches 0 would grow without end.
    """

    kind: Literal["classification", "regression", "self_supervised"] = "classification"  # type: ignore[misc]

    def __init__(
        self,
        *,
        task: str,
        weighting: Literal["fixed", "learned"] = "fixed",
        weights: dict[str, float] | None = None,
        **parts: Loss,
    ) -> None:
        super().__init__(task=task, weights=weights)
        if not parts:
            raise UserError("loss: expected losses, such as loss=[cross_entropy,supcon], got none")
        if odd := [name for name, part in parts.items() if not isinstance(part, Loss)]:
            raise UserError(f"loss: expected losses, such as loss=[cross_entropy,supcon], got {', '.join(odd)}")
        if not any(part.trains_head for part in parts.values()):
            raise UserError(f"loss: expected one that trains the head beside {', '.join(parts)}, such as cross_entropy")
        named = {name for name in weights or {} if not name.startswith("fusion/")}  # the fusion's own losses
        if unknown := sorted(named - parts.keys()):
            raise UserError(f"loss.weights: expected names of {', '.join(parts)}, got {', '.join(unknown)}")
        kinds = {part.kind for part in parts.values()}
        if len(kinds) > 1:
            raise UserError(f"loss: expected losses of one kind of task, got {', '.join(sorted(kinds))}")
        (self.kind,) = kinds
        self.parts = nn.ModuleDict(parts)
        self.detaches_head = any(part.detaches_head for part in parts.values())
        self.ordinal = any(part.ordinal for part in parts.values())
        self.mixes = all(part.mixes for part in parts.values())
        self.reads_modality_logits = any(part.reads_modality_logits for part in parts.values())
        self.reads_votes = any(part.reads_votes for part in parts.values())
        self.needs_teacher = any(part.needs_teacher for part in parts.values())
        self.log_variances = nn.ParameterDict(
            {name: torch.zeros(1) for name in parts} if weighting == "learned" else {}
        )

    def fit(self, class_counts: Tensor) -> None:
        for part in self._losses().values():
            part.fit(class_counts)

    def _losses(self) -> dict[str, Loss]:
        return dict(self.parts.items())  # type: ignore[arg-type]

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        return {name: part.total(part(output, batch)) for name, part in self._losses().items()}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return super().total({name: self._balanced(name, value) for name, value in losses.items()})

    def _balanced(self, name: str, value: Tensor) -> Tensor:
        if name not in self.log_variances:
            return value
        variance: Tensor = self.log_variances[name].squeeze(0).clamp_min(LEAST_LOG_VARIANCE)
        return ((-variance).exp() * value + variance) / 2
