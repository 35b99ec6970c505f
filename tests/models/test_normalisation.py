"""Features are standardised by statistics of the training split alone."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from emorec.config.composition import composer, parse
from emorec.config.schema import TrainConfig
from emorec.datamodules.statistics import FEWEST
from emorec.datasets.utterance import SPLITS
from emorec.errors import UserError
from emorec.models.builder import fit_statistics, make_parts, model_for
from emorec.models.emotion_model import EmotionModel
from emorec.models.normalisation import CLIP, Normalisation
from tests.datamodules.conftest import DIMS, Example, MakeExample


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    line = parse("train", ["model.hidden=8"])
    with composer(line, TrainConfig) as open_composer:
        return open_composer.compose(line.overrides).config


def fitted_model(config: TrainConfig, example: Example) -> EmotionModel:
    parts = make_parts(config, example.module.task)
    model = model_for(parts, config.model, example.module)
    fit_statistics(model, example.module)
    return model


def train_frames(example: Example, modality: str) -> np.ndarray:
    rows = [values for name, values in example.values[modality].items() if name.startswith("train")]
    return np.concatenate(rows).astype(np.float64)


def fitted(
    kind: Literal["none", "train", "speaker"] = "train", mean: float = 3.0, deviation: float = 2.0
) -> Normalisation:
    normalisation = Normalisation(kind=kind, dim=2)
    normalisation.fit(torch.full((2,), mean), torch.full((2,), deviation))
    return normalisation


@pytest.mark.parametrize("modality", DIMS)
def test_a_built_model_holds_numpys_statistics_of_the_training_frames(
    make_example: MakeExample, config: TrainConfig, modality: str
) -> None:
    example = make_example()
    model = fitted_model(config, example)
    frames = train_frames(example, modality)
    normalisation: Any = model.normalisation[modality]
    np.testing.assert_allclose(normalisation.mean.numpy(), frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalisation.scale.numpy(), 1 / frames.std(0), rtol=1e-5)


@pytest.mark.parametrize("modality", DIMS)
def test_normalised_training_frames_have_mean_zero_and_deviation_one(
    make_example: MakeExample, config: TrainConfig, modality: str
) -> None:
    example = make_example(offset=40.0)
    model = fitted_model(config, example)
    batches = list(example.module.loader("train"))
    frames = torch.cat(
        [model.normalisation[modality](batch.features[modality])[batch.mask[modality]] for batch in batches]
    )
    torch.testing.assert_close(frames.mean(0), torch.zeros(DIMS[modality]), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.std(0, correction=0), torch.ones(DIMS[modality]), atol=1e-4, rtol=0)


def speakers_of(example: Example) -> dict[str, str | None]:
    tables = example.module.tables.values()
    return {item.id: item.speaker for table in tables for item in table.utterances}


def by_speaker(config: TrainConfig) -> TrainConfig:
    return replace(config, model=replace(config.model, normalisation="speaker"))


@pytest.mark.parametrize("modality", DIMS)
def test_speakers_are_standardised_by_all_their_own_frames(
    make_example: MakeExample, config: TrainConfig, modality: str
) -> None:
    example = make_example(sizes=(40, 9, 12))
    model = fitted_model(by_speaker(config), example)
    speakers = speakers_of(example)
    for split in SPLITS:
        for batch in example.module.loader(split):
            actual = model.normalisation[modality](batch.features[modality], batch.statistics[modality])
            for row, name in enumerate(batch.id):
                if name not in example.values[modality]:
                    continue
                own = [
                    values for other, values in example.values[modality].items() if speakers[other] == speakers[name]
                ]
                frames = np.concatenate(own).astype(np.float64)
                expected = (example.values[modality][name] - frames.mean(0)) / frames.std(0)
                found = actual[row][batch.mask[modality][row]].numpy()
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_statistics_of_speakers_need_no_label(make_example: MakeExample, config: TrainConfig) -> None:
    sizes = (40, 9, 12)
    names = [f"{split}_{number}" for split, size in zip(SPLITS, sizes, strict=True) for number in range(size)]
    labelled, unlabelled = make_example(sizes=sizes), make_example(sizes=sizes, unlabelled=tuple(names[1:]))
    for example in (labelled, unlabelled):
        fitted_model(by_speaker(config), example)
    for split in SPLITS:
        for first, second in zip(labelled.module.loader(split), unlabelled.module.loader(split), strict=True):
            for modality in DIMS:
                assert not first.statistics[modality].isnan().any()
                assert torch.equal(first.statistics[modality], second.statistics[modality])


def test_a_speaker_with_few_utterances_is_standardised_by_the_training_split(
    make_example: MakeExample, config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    example = make_example(sizes=(2 * FEWEST + 2, 3, FEWEST - 4))  # speaker2 has one utterance too few
    with caplog.at_level("INFO"):
        model = fitted_model(by_speaker(config), example)
    assert f"text: standardised by speaker, for 2 of 3; {FEWEST - 1} utterances of others" in caplog.text
    batch, trained = next(iter(example.module.loader("val"))), fitted_model(config, example)
    actual = model.normalisation["text"](batch.features["text"], batch.statistics["text"])
    assert torch.equal(actual, trained.normalisation["text"](batch.features["text"]))


def test_rows_without_statistics_take_those_of_the_training_split() -> None:
    speaker, train = fitted("speaker"), fitted()
    features = torch.randn(3, 4, 2)
    statistics = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[torch.nan] * 2] * 2, [[0.0, 0.0], [1.0, 1.0]]])
    actual = speaker(features, statistics)
    torch.testing.assert_close(actual[0], (features[0] - torch.tensor([1.0, 2.0])) / torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(actual[1], train(features)[1])
    torch.testing.assert_close(actual[2], features[2])
    assert torch.equal(speaker(features), train(features))


def test_other_splits_do_not_change_the_statistics(make_example: MakeExample, config: TrainConfig) -> None:
    small, large = make_example(sizes=(10, 3, 4)), make_example(sizes=(10, 30, 40))
    first, second = (fitted_model(config, item).normalisation.state_dict() for item in (small, large))
    for key, value in first.items():
        torch.testing.assert_close(value, second[key])


@pytest.mark.parametrize("constant", [0.0, 7.5, -1e6, 0.1])
def test_a_constant_column_is_only_centred(make_example: MakeExample, config: TrainConfig, constant: float) -> None:
    example = make_example(constant=constant)
    normalisation: Any = fitted_model(config, example).normalisation["audio"]
    assert float(normalisation.scale[0]) == 1.0
    row = torch.zeros(1, DIMS["audio"])
    row[:, 0] = constant
    assert float(normalisation(row)[0, 0].abs()) <= 1e-6 * max(1.0, abs(constant))
    row[:, 0] = constant + 0.5
    assert float(normalisation(row)[0, 0]) == pytest.approx(0.5, abs=0.1)


def test_the_values_are_standardised() -> None:
    normalised = fitted()(torch.tensor([[[3.0, 5.0], [1.0, 3.0]]]))
    assert normalised.tolist() == [[[0.0, 1.0], [-1.0, 0.0]]]


def test_outliers_are_cut() -> None:
    assert fitted()(torch.tensor([[1e9, -1e9]])).tolist() == [[CLIP, -CLIP]]


def test_without_normalisation_features_stay_and_nothing_is_stored() -> None:
    normalisation = fitted(kind="none")
    features = torch.tensor([[1e9, -3.0]])
    assert torch.equal(normalisation(features), features)
    assert not normalisation.state_dict()


def test_statistics_are_saved_and_loaded() -> None:
    other = Normalisation(kind="train", dim=2)
    other.load_state_dict(fitted().state_dict(), strict=True)
    features = torch.randn(4, 3, 2)
    assert torch.equal(other(features), fitted()(features))


def test_statistics_are_not_trained() -> None:
    assert not list(fitted().parameters())


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected model\.normalisation in .*got 'batch'"):
        Normalisation(kind="batch", dim=2)
