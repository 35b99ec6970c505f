"""Types that packages share: a batch of utterances, and the outputs of fusions and models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass

MODALITIES = ("text", "audio", "video")
IGNORED = -100  # target of an utterance without a class, ignored by losses


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The value with each tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _changed(item, change) for key, item in value.items()}
    return value


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The utterances of one step, with all configured modalities. A missing one is a zero row where `present` is false.

    The keys of dictionaries are modalities, or tasks for targets.
    """

    id: tuple[str, ...]  # unique within the dataset
    features: dict[str, Tensor]  # (B, T, D) of cached encoders, in their stored type
    mask: dict[str, Tensor]  # (B, T), true where there is data; T ≥ 1
    present: dict[
        str, Tensor
    ]  # (B,), true where the utterance has the modality; without a layout true somewhere in each row
    targets: dict[str, Tensor]  # (B,) class numbers (int64), or (B,) or (B, K) values (float32)
    target_mask: dict[str, Tensor]  # (B,), true where the utterance has the target
    speaker: Tensor  # (B,) number of the speaker's name, the same in every corpus, -1 where unknown
    dialogue: Tensor  # (B,) number of the dialogue in the whole corpus, -1 where there is none
    turn: Tensor  # (B,) position in the dialogue, -1 where there is none
    # (D, U) rows of the turns of whole dialogues, in order, -1 for padding; `None` where utterances stand alone
    layout: Tensor | None = None
    draw: Tensor | None = None  # (B,) int64 of (seed, epoch, id), from which augmentation is drawn; only in training
    inputs: dict[str, Tensor] = field(default_factory=dict)  # (B, T, I) of encoders that train, as they are stored
    # {task: (B, C)} shares of the raters' votes, NaN where there are none; only of corpora that have them
    votes: dict[str, Tensor] = field(default_factory=dict)
    # {"logits": (B, C), "fused": (B, H)} of the model that this one learns from, NaN where there are none; in training
    teacher: dict[str, Tensor] = field(default_factory=dict)
    # (B, 2, D) mean and standard deviation of the speaker's own frames, NaN where there are none; for
    # `model.normalisation=speaker`
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.id)

    def scored(self, task: str) -> tuple[str, ...]:
        """The ids of the utterances whose prediction counts: with a layout those that have a target, else all."""
        if self.layout is None:
            return self.id
        return tuple(name for name, known in zip(self.id, self.target_mask[task].tolist(), strict=True) if known)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on `device`."""
        if str(device) == "cpu" and all(
            tensor.is_cpu for tensor in (self.speaker, *self.features.values(), *self.inputs.values())
        ):
            return self
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def taken(self, rows: Tensor) -> "Batch":
        """The utterances `rows` (R,), numbers from 0 on; not of whole dialogues."""
        names = tuple(self.id[row] for row in rows.tolist())
        return replace(self._each(lambda tensor: tensor[rows]), id=names)

    def repeated(self, draws: Sequence[Tensor]) -> "Batch":
        """The same utterances once for each of several draws (B,), one after the other."""
        batch = self._each(lambda tensor: torch.cat([tensor] * len(draws)))
        return replace(batch, id=self.id * len(draws), draw=torch.cat(list(draws)))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(**{item.name: _changed(getattr(self, item.name), change) for item in fields(self)})


@dataclass(frozen=True, kw_only=True)
class FusionOutput:
    """The output of a fusion."""

    fused: Tensor  # (B, H), one vector for each utterance
    vectors: dict[str, Tensor]  # {modality: (B, H)}, zero where the modality is missing
    logits: dict[str, Tensor] | None = None  # {modality: (B, C)} if the fusion classifies each modality
    decided: Tensor | None = None  # (B, C), the model's logits where the fusion gives them
    losses: dict[str, Tensor] = field(default_factory=dict)  # {name: scalar}, additional losses of the fusion


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """The output of the model, which losses take."""

    logits: dict[str, Tensor]  # {task: (B, C)}; for regression (B, 1), for a loss of views their embeddings (B, D)
    fusion: FusionOutput  # `fusion.fused` is the input of the heads, after the context


# So that torch finds the tensors in the output of a module: FSDP and export need them.
register_dataclass(FusionOutput)
register_dataclass(ModelOutput)
