"""Integrated gradients of models whose attributions are known."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from emorec.batch import Batch, FusionOutput
from emorec.cards.attribution import Attributor, why_not
from emorec.datamodules.statistics import FEWEST
from emorec.datasets.utterance import Task
from emorec.losses.cross_entropy import CrossEntropy
from emorec.models.emotion_model import EmotionModel
from emorec.models.normalisation import Normalisation
from emorec.models.speaker_standardisation import SpeakerStandardisation

TASK = Task(name="emotion", labels=("calm", "angry"))
LENGTHS = {"text": [1, 1, 1, 1, 1, 1], "audio": [4, 2, 3, 4, 1, 2]}


class SumOfFrames(nn.Module):
    """A fusion: the sum over modalities and frames, through a function of each frame."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: dict[str, Tensor], mask: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        vectors = {
            name: (self.function(values) * (mask[name] & present[name][:, None])[:, :, None]).sum(1)
            for name, values in features.items()
        }
        return FusionOutput(fused=sum(vectors.values(), torch.zeros(())), vectors=vectors)


def batch_of(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    count = 6
    mask = {name: torch.arange(max(own)) < torch.tensor(own)[:, None] for name, own in LENGTHS.items()}
    features = {
        name: torch.randn(count, max(own), 2, generator=generator) * mask[name][:, :, None]
        for name, own in LENGTHS.items()
    }
    everyone = torch.ones(count, dtype=torch.bool)
    return Batch(
        id=tuple("abcdef"),
        features=features,
        mask=mask,
        present={"text": everyone.clone().index_fill(0, torch.tensor([2]), False), "audio": everyone},
        targets={"emotion": torch.zeros(count, dtype=torch.long)},
        target_mask={"emotion": everyone},
        speaker=torch.tensor([7, 7, 7, 7, 7, 7]),
        dialogue=torch.full((count,), -1),
        turn=torch.full((count,), -1),
    )


def model_of(function: nn.Module, standardisation: SpeakerStandardisation | None = None) -> EmotionModel:
    torch.manual_seed(0)
    names = list(LENGTHS)
    return EmotionModel(
        task=TASK,
        normalisations={name: Normalisation(kind="none", dim=2) for name in names},
        projections={name: nn.Identity() for name in names},
        fusion=SumOfFrames(function),
        head=nn.Linear(2, 2),
        loss=CrossEntropy(task=TASK),
        standardisation=standardisation,
    ).eval()


def attributor_of(model: EmotionModel, batch: Batch) -> Attributor:
    def batches() -> Iterator[Batch]:
        yield batch

    return Attributor(model, batches)


def mean_frame(batch: Batch, name: str) -> Tensor:
    real = batch.mask[name] & batch.present[name][:, None]
    return batch.features[name][real].mean(0)


def test_of_a_linear_model_a_frame_adds_its_own_part_of_the_logit() -> None:
    batch, model = batch_of(), model_of(nn.Identity())
    found = attributor_of(model, batch).attribute(batch.taken(torch.tensor([1])), 1)
    assert isinstance(model.head, nn.Linear)
    weights = model.head.weight[1].detach()
    for name, length in (("text", 1), ("audio", 2)):
        expected = (batch.features[name][1, :length] - mean_frame(batch, name)) @ weights
        torch.testing.assert_close(found.frames[name], expected)  # without padding
    assert found.error < 1e-5
    assert found.steps == 64


def test_of_a_nonlinear_model_the_frames_add_up_to_the_difference_in_the_logit() -> None:
    batch, model = batch_of(), model_of(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2), nn.Tanh()))
    attributor = attributor_of(model, batch)
    for row in range(len(batch)):
        one = batch.taken(torch.tensor([row]))
        found = attributor.attribute(one, 0)
        start = {name: mean_frame(batch, name).expand_as(values) for name, values in one.features.items()}
        with torch.no_grad():
            logits = [model(item).logits["emotion"][0, 0] for item in (one, replace(one, features=start))]
        assert found.difference == pytest.approx(float(logits[0] - logits[1]), abs=1e-5)
        assert found.is_complete


def test_a_modality_that_an_utterance_lacks_adds_nothing() -> None:
    batch, model = batch_of(), model_of(nn.Tanh())
    found = attributor_of(model, batch).attribute(batch.taken(torch.tensor([2])), 0)
    assert set(found.frames) == {"audio"}


def test_fused_vectors_are_standardised_as_in_prediction() -> None:
    batch, model = batch_of().taken(torch.arange(6).repeat(FEWEST)), model_of(nn.Tanh(), SpeakerStandardisation(2))
    expected = model.logits([batch])
    found = attributor_of(model, batch).attribute(batch.taken(torch.tensor([0])), 1)
    start = {name: mean_frame(batch, name).expand_as(values) for name, values in batch.features.items()}
    with torch.no_grad():
        fused = model.fusion_of(batch).fused
        vector = model.fusion_of(replace(batch, features=start)).fused[0]
        scaled = (vector - fused.mean(0)) * (fused.var(0, correction=0) + 1e-5).rsqrt()
        assert isinstance(model.head, nn.Module)
        difference = expected[0, 1] - model.head(scaled)[1]
    assert found.difference == pytest.approx(float(difference), abs=1e-4)
    assert found.is_complete
    assert torch.equal(model.standardisation.running_mean, torch.zeros(2))  # type: ignore[union-attr]


def test_turns_of_a_dialogue_are_not_told_apart() -> None:
    model = model_of(nn.Identity())
    assert why_not(model) is None
    model.context = nn.Identity()
    assert why_not(model) == "the turns of a dialogue are predicted together"
