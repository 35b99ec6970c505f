"""Where in time a decision comes from: integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365), by captum.

The path leads from an average frame to the frames of an utterance, in all modalities together. What is attributed is
the logit of one class. The attributions of all frames and modalities add up to its difference from that of the average
frame; what is missing of it is measured.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from emorec.batch import Batch
from emorec.datamodules.statistics import FEWEST
from emorec.errors import UserError
from emorec.models.emotion_model import EmotionModel

STEPS = (64, 256, 1024)  # of the path; more where fewer do not add up
AT_ONCE = 64  # of them
TOLERANCE = 0.01  # of the difference in the logit, or of `SMALL` where that is larger
SMALL = 0.1


@dataclass(frozen=True)
class Attribution:
    """Of the logit of a class of one utterance."""

    frames: dict[str, Tensor]  # {modality: (T,)} what each frame adds
    difference: float  # of the logit from that of average frames
    steps: int  # of the path

    @property
    def error(self) -> float:
        """What the attributions lack of the difference, as a share of it."""
        total = sum(float(values.sum()) for values in self.frames.values())
        return abs(total - self.difference) / max(abs(self.difference), SMALL)

    @property
    def is_complete(self) -> bool:
        """Whether they add up, to 1 %."""
        return self.error < TOLERANCE


def check_captum() -> None:
    """Raises a `UserError` where captum is not installed."""
    try:
        import captum  # noqa: F401
    except ImportError as error:
        raise UserError(
            "card=explanation: expected captum, which computes integrated gradients, found none; "
            "pip install 'emorec[explain]'"
        ) from error


def why_not(model: EmotionModel) -> str | None:
    """Why the frames of a model cannot be told apart; `None` where they can."""
    if model.context is not None:
        return "the turns of a dialogue are predicted together"
    return None


class Attributor:
    """Attributes logits of a model to the frames of utterances.

    Args:
        model: in evaluation, without a context.
        batches: reads the utterances whose mean frame is the start of the path, and whose fused vectors those of their
            speakers are compared with where the model does so.
    """

    def __init__(self, model: EmotionModel, batches: Callable[[], Iterable[Batch]]) -> None:
        self.model = model.eval()
        self.modalities = [name for name in model.projection if not _reads_ids(model, name)]
        self.average = self._average(batches())
        self._statistics = _fused_statistics(model, batches())

    def attribute(self, batch: Batch, number: int) -> Attribution:
        """Of the logit of class `number` of the one utterance of a batch."""
        from captum.attr import IntegratedGradients

        task = self.model.task.name
        with torch.no_grad():
            prepared = _without_padding(self._prepared(batch.to(self.model.device)))
        present = [name for name in self.modalities if bool(prepared.present[name][0])]
        inputs = tuple(_values(prepared, name) for name in present)  # (1, T, D) each
        starts = tuple(self.average[name].expand_as(values) for name, values in zip(present, inputs, strict=True))

        def logits(*values: Tensor) -> Tensor:
            repeated = prepared.taken(torch.zeros(len(values[0]), dtype=torch.long, device=values[0].device))
            changed = _with_values(repeated, dict(zip(present, values, strict=True)))
            scores: Tensor = self.model(changed).logits[task]
            return scores

        method = IntegratedGradients(logits)
        own = self._statistics.get(int(batch.speaker[0]))
        with _without_fronts(self.model), _standardised_by(self.model, own), torch.backends.cudnn.flags(enabled=False):
            with torch.no_grad():
                difference = float(logits(*inputs)[0, number] - logits(*starts)[0, number])
            for steps in STEPS:
                parts = method.attribute(
                    inputs, starts, target=number, n_steps=steps, internal_batch_size=AT_ONCE, method="gausslegendre"
                )
                frames = {name: part[0].sum(-1).detach().cpu() for name, part in zip(present, parts, strict=True)}
                found = Attribution(frames, difference, steps)
                if found.is_complete:
                    break
        return found

    def _prepared(self, batch: Batch) -> Batch:
        """A batch with what the fronts of encoders make of their inputs, as floating-point numbers."""
        inputs, masks = dict(batch.inputs), dict(batch.mask)
        for name in batch.inputs:
            part: Any = self.model.encoder[name]
            if part.front is not None:
                inputs[name], masks[name] = part.front(inputs[name], masks[name], None)
            if not part.reads_ids:
                inputs[name] = inputs[name].float()
        features = {name: values.float() for name, values in batch.features.items()}
        return replace(batch, features=features, inputs=inputs, mask=masks)

    def _average(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """{modality: (D,)} the mean frame."""
        sums: dict[str, Tensor] = {}
        counts = dict.fromkeys(self.modalities, 0)
        with torch.no_grad():
            for batch in batches:
                prepared = self._prepared(batch.to(self.model.device))
                for name in self.modalities:
                    real = prepared.mask[name] & prepared.present[name][:, None]  # (B, T)
                    total = _values(prepared, name)[real].double().sum(0)
                    sums[name] = sums[name] + total if name in sums else total
                    counts[name] += int(real.sum())
        return {name: (total / max(1, counts[name])).float() for name, total in sums.items()}


def _reads_ids(model: EmotionModel, modality: str) -> bool:
    return modality in model.encoder and bool(model.encoder[modality].reads_ids)


def _values(batch: Batch, modality: str) -> Tensor:
    return batch.inputs[modality] if modality in batch.inputs else batch.features[modality]


def _with_values(batch: Batch, values: Mapping[str, Tensor]) -> Batch:
    inputs = {name: values.get(name, own) for name, own in batch.inputs.items()}
    return replace(batch, inputs=inputs, features={name: values.get(name, own) for name, own in batch.features.items()})


def _without_padding(batch: Batch) -> Batch:
    """A batch of one utterance, as short as it is in each modality."""
    lengths = {name: max(1, int(mask.sum())) for name, mask in batch.mask.items()}
    return replace(
        batch,
        mask={name: mask[:, : lengths[name]] for name, mask in batch.mask.items()},
        features={name: values[:, : lengths[name]] for name, values in batch.features.items()},
        inputs={name: values[:, : lengths[name]] for name, values in batch.inputs.items()},
    )


@contextmanager
def _without_fronts(model: EmotionModel) -> Iterator[None]:
    """Within the block the inputs of encoders are those that come after their fronts."""
    parts: list[Any] = list(model.encoder.values())
    fronts = [part.front for part in parts]
    try:
        for part in parts:
            part.front = None
        yield
    finally:
        for part, front in zip(parts, fronts, strict=True):
            part.front = front


def _fused_statistics(model: EmotionModel, batches: Iterable[Batch]) -> dict[int, tuple[Tensor, Tensor]]:
    """{speaker: mean and variance, each (H,), of its fused vectors}, of speakers with enough of them; empty where the
    model does not compare them."""
    if model.standardisation is None:
        return {}
    vectors: dict[int, list[Tensor]] = {}
    with torch.no_grad():
        for batch in batches:
            fused = model.fusion_of(batch.to(model.device)).fused.float()
            for speaker, vector in zip(batch.speaker.tolist(), fused, strict=True):
                vectors.setdefault(speaker, []).append(vector)
    stacked = {name: torch.stack(own) for name, own in vectors.items() if name >= 0 and len(own) >= FEWEST}
    return {name: (own.mean(0), own.var(0, correction=0)) for name, own in stacked.items()}


@contextmanager
def _standardised_by(model: EmotionModel, statistics: tuple[Tensor, Tensor] | None) -> Iterator[None]:
    """Within the block fused vectors are standardised by a mean and a variance; `None` for those of training."""
    part = model.standardisation
    if part is None or statistics is None:
        yield
        return
    kept = part.running_mean, part.running_variance
    try:
        part.running_mean, part.running_variance = statistics
        yield
    finally:
        part.running_mean, part.running_variance = kept


def shortened(values: Tensor, most: int) -> list[float]:
    """Sums (P,) of P ≤ `most` equal parts of a curve (T,)."""
    count = min(most, len(values))
    borders = [math.floor(index * len(values) / count) for index in range(count + 1)]
    return [float(values[start:end].sum()) for start, end in pairwise(borders)]
