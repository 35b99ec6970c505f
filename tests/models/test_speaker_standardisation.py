"""Fused vectors are standardised among those of the same speaker: of a batch in training, of a split in evaluation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from emorec.batch import Batch
from emorec.config.composition import composer, parse
from emorec.config.schema import TrainConfig
from emorec.datamodules.statistics import FEWEST
from emorec.errors import UserError
from emorec.models.builder import make_parts
from emorec.models.emotion_model import EmotionModel
from emorec.models.speaker_standardisation import SpeakerStandardisation
from tests.models.test_emotion_model import COMPONENTS, EMOTION, HIDDEN, TASK, fit, make_batch, make_model

SPEAKERS = torch.tensor([7] * FEWEST + [3] * (FEWEST + 4) + [-1] * FEWEST + [5] * (FEWEST - 1))


def vectors_of(speakers: Tensor) -> Tensor:
    """Vectors (N, 6) whose mean and deviation are those of their speaker."""
    torch.manual_seed(0)
    return torch.randn(len(speakers), 6) * (2 + speakers[:, None].abs()) + 10.0 * speakers[:, None]


def fitted() -> SpeakerStandardisation:
    standardisation = SpeakerStandardisation(6)
    standardisation.running_mean.fill_(2.0)
    standardisation.running_variance.fill_(9.0)
    return standardisation


def alone(vectors: Tensor) -> Tensor:
    return (vectors - 2) / 3


@pytest.mark.parametrize("training", [True, False])
def test_vectors_are_standardised_among_those_of_their_speaker(*, training: bool) -> None:
    vectors, standardisation = vectors_of(SPEAKERS), fitted().train(training)
    actual = standardisation.among(vectors, SPEAKERS)
    for name in (7, 3):
        own = vectors[name == SPEAKERS]
        expected = (own - own.mean(0)) / own.std(0, correction=0)
        torch.testing.assert_close(actual[name == SPEAKERS], expected, atol=1e-4, rtol=1e-4)
    for name in (-1, 5):  # an unknown speaker, and one with a vector too few
        torch.testing.assert_close(actual[name == SPEAKERS], alone(vectors[name == SPEAKERS]), atol=1e-4, rtol=1e-4)


def test_the_order_of_vectors_and_the_numbers_of_speakers_do_not_matter() -> None:
    vectors, standardisation = vectors_of(SPEAKERS), fitted()
    expected, order = standardisation.among(vectors, SPEAKERS), torch.randperm(len(SPEAKERS))
    renumbered = SPEAKERS.where(SPEAKERS < 0, 1000 - SPEAKERS)[order]
    torch.testing.assert_close(standardisation.among(vectors[order], renumbered), expected[order])


def test_in_evaluation_a_vector_does_not_depend_on_its_batch() -> None:
    vectors, standardisation = vectors_of(SPEAKERS), fitted().eval()
    torch.testing.assert_close(standardisation(vectors, SPEAKERS), alone(vectors))
    torch.testing.assert_close(standardisation(vectors[:3], SPEAKERS[:3]), alone(vectors[:3]))


def test_training_moves_the_running_statistics_towards_the_batch() -> None:
    vectors, standardisation = vectors_of(SPEAKERS), SpeakerStandardisation(6).train()
    first = standardisation(vectors, SPEAKERS)
    assert not torch.equal(first, vectors)
    for _ in range(200):
        standardisation(vectors, SPEAKERS)
    torch.testing.assert_close(standardisation.running_mean, vectors.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(standardisation.running_variance, vectors.var(0, correction=0), rtol=1e-4, atol=1e-4)


def test_gradients_pass_through_the_statistics() -> None:
    speakers = SPEAKERS[: 2 * FEWEST + 4]
    vectors = vectors_of(speakers).double().requires_grad_()
    weights = torch.randn(len(speakers), 6, dtype=torch.float64)
    (fitted().double().among(vectors, speakers) * weights).sum().backward()
    assert vectors.grad is not None
    for name in (7, 3):  # a shift of all vectors of a speaker changes nothing
        torch.testing.assert_close(vectors.grad[name == speakers].sum(0), torch.zeros(6, dtype=torch.float64))


def test_a_constant_column_stays_finite() -> None:
    vectors = torch.full((FEWEST, 6), 4.0, requires_grad=True)
    actual = fitted().among(vectors, torch.ones(FEWEST, dtype=torch.long))
    actual.sum().backward()
    assert not actual.any()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def batches(sizes: tuple[int, ...]) -> list[Batch]:
    """The same utterances, of three speakers with all classes, in batches of some sizes."""
    whole = make_batch(sum(sizes))
    whole = replace(whole, speaker=torch.arange(len(whole)) // 3 % 3)
    return [whole.taken(rows) for rows in torch.split(torch.arange(len(whole)), list(sizes))]


def standardising(**options: float) -> EmotionModel:
    return make_model(standardisation=SpeakerStandardisation(HIDDEN), **options)


def test_predictions_compare_all_utterances_of_a_speaker_whatever_their_batches() -> None:
    model = standardising()
    first, second = model.predict(batches((30,))), model.predict(batches((4, 13, 2, 11)))
    assert first.id == second.id
    assert torch.equal(first.target, second.target)
    torch.testing.assert_close(first.logits, second.logits, atol=1e-5, rtol=1e-5)
    assert first.scores == pytest.approx(second.scores, rel=1e-5)
    (batch,) = batches((30,))
    model.eval()
    fused, head = model.fusion_of(batch).fused, model.head
    assert model.standardisation is not None
    assert head is not None
    expected = head(model.standardisation.among(fused, batch.speaker))
    torch.testing.assert_close(first.logits, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(batch).logits[TASK], expected, atol=1e-3)  # each one alone


def test_validation_scores_what_predict_does() -> None:
    model, scores = standardising(dropout=0.0), {}
    model.log_dict = scores.update  # type: ignore[assignment,method-assign]
    model.eval()
    with torch.no_grad():
        for number, batch in enumerate(batches((7, 23))):
            model.validation_step(batch, number)
        model.on_validation_epoch_end()
    expected = model.predict(batches((30,))).scores
    assert scores == pytest.approx({f"val/{name}": value for name, value in expected.items()}, rel=1e-5)
    assert not model._validated


def test_a_standardising_model_learns_and_its_statistics_are_a_component() -> None:
    model, parts = standardising(dropout=0.0), batches((30,))
    before = model.predict(parts).scores["loss"]
    fit(model, parts, epochs=15)
    assert model.predict(parts).scores["loss"] < 0.5 * before
    weights = model.components()
    assert weights.keys() == COMPONENTS | {"standardisation"}
    other = make_model(seed=1, standardisation=SpeakerStandardisation(HIDDEN))
    other.load_components(weights)
    assert torch.equal(other.predict(parts).logits, model.predict(parts).logits)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], r"group_by_speaker: expected at least 8 for model\.fused_normalisation=speaker, got None"),
        (["group_by_speaker=4", "batch_size=8"], "group_by_speaker: expected at least 8 .*, got 4"),
        (["group_by_speaker=8", "fusion=mean_logits"], "fusion: expected one with a vector of all modalities"),
        (["group_by_speaker=8", "model.mixup=0.2"], r"model\.mixup: expected 0 for"),
    ],
)
def test_what_does_not_work_on_vectors_standardised_by_speaker_is_refused(words: list[str], expected: str) -> None:
    line = parse("train", ["model.fused_normalisation=speaker", *words])
    with composer(line, TrainConfig) as open_composer:
        config = open_composer.compose(line.overrides).config
    with pytest.raises(UserError, match=expected):
        make_parts(config, EMOTION)
