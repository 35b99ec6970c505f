"""The types that packages share: a batch of utterances and what modules return for one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass

MODALITIES = ("text", "audio", "video")
IGNORED = -100  # class number of an utterance without a target


def _move(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, Mapping):
        return {key: _move(item, device, non_blocking) for key, item in value.items()}
    return value


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Utterances of one step. Every configured modality is there; a missing one is a zero row, `present` false.

    Attributes:
        id: B names, unique within the dataset.
        features: {modality: (B, T, D)} of cached encoders, in their stored type.
        inputs: {modality: what a live encoder's `collate` returned}.
        mask: {modality: (B, T)}, true where there is data; T ≥ 1.
        present: {modality: (B,)}, true where the utterance has the modality; true somewhere in each row.
        targets: {task: (B,)} class numbers (int64) or {task: (B,) or (B, K)} values (float32).
        target_mask: {task: (B,)}, true where the utterance has the target.
        speaker: (B,) number of the speaker in the whole corpus, -1 where unknown.
        dialogue: (B,) number of the dialogue in the whole corpus, -1 where there is none.
        turn: (B,) place in the dialogue, -1 where there is none.
    """

    id: tuple[str, ...]
    features: dict[str, Tensor]
    mask: dict[str, Tensor]
    present: dict[str, Tensor]
    targets: dict[str, Tensor]
    target_mask: dict[str, Tensor]
    speaker: Tensor
    dialogue: Tensor
    turn: Tensor
    inputs: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.id)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on `device`."""
        if str(device) == "cpu" and all(tensor.is_cpu for tensor in (self.speaker, *self.features.values())):
            return self
        moved = {item.name: _move(getattr(self, item.name), device, non_blocking) for item in fields(self)}
        return Batch(**moved)


@dataclass(frozen=True, kw_only=True)
class FusionOutput:
    """What a fusion returns.

    Attributes:
        fused: (B, H), one vector an utterance.
        vectors: {modality: (B, H)}, zero where the modality is missing.
        logits: {modality: (B, C)} where the fusion classifies each modality, else `None`.
        losses: {name: scalar} of the fusion's own.
    """

    fused: Tensor
    vectors: dict[str, Tensor]
    logits: dict[str, Tensor] | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """What the model hands to a loss.

    Attributes:
        logits: {task: (B, C)}; for regression (B, 1).
        fusion: the fusion's output; `fusion.fused` is what the heads saw (after the context).
    """

    logits: dict[str, Tensor]
    fusion: FusionOutput


# torch looks for the tensors in what a module returns: to gather shared-out weights in time, and to export
register_dataclass(FusionOutput)
register_dataclass(ModelOutput)
