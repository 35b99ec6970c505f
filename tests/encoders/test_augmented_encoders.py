"""Encoders augment their inputs in training and never in evaluation; sound can stay sound until then."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emorec.batch import Batch
from emorec.encoders.crnn import Crnn
from emorec.encoders.encoder import Encoder
from emorec.encoders.log_mel import LogMel
from emorec.errors import UserError
from emorec.fusion.concat import Concat
from emorec.models.emotion_model import EmotionModel
from emorec.models.heads import Head
from emorec.models.normalisation import Normalisation
from emorec.models.projection import Projection
from tests.encoders.conftest import instantiated
from tests.encoders.test_trained_encoders import PRETRAINED, Media, media_of, stored_batch, trained
from tests.encoders.tiny_checkpoints import TinyCheckpoints
from tests.models.test_emotion_model import EMOTION, HIDDEN, TASK, make_batch, make_model

pytestmark = pytest.mark.slow

WAVEFORM = {"speed": [0.9, 1.1], "reverberation": [0.1, 0.3], "noise_snr": [5, 20], "gain": [-6, 6]}
SPECTROGRAM = {"crop": 0.8, "shift": 0.1, "time_masks": 2, "frequency_masks": 2}
FRAMES = {"flip": 0.5, "crop": 0.6, "color_jitter": 0.3, "drop_frames": 0.2}
DRAW = torch.tensor([11, -5, 3 << 60])


def augmentation_of(choice: str) -> dict[str, Any]:
    if choice.startswith("audio"):
        return {"spectrogram": SPECTROGRAM} if "whisper" in choice else {"waveform": WAVEFORM}
    return FRAMES if choice.startswith("video") else {"dropout": 0.5}


def crnn(**options: Any) -> Crnn:
    return instantiated(Crnn, channels=[4, 4], hidden=6, dropout=0.0, **options)


class Recorder:
    """The inputs that a part gives its network, which is not run."""

    def __init__(self, part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inputs: list[tuple[Tensor, Tensor]] = []
        monkeypatch.setattr(part, "frames", self._frames)
        monkeypatch.setattr(part, "scaled", lambda values, lengths: values)
        self._dim = part.layer_count * part.frame_dim

    def _frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        self.inputs.append((values, lengths))
        return torch.zeros(len(values), 1, self._dim), torch.ones_like(lengths)


@pytest.mark.parametrize("choice", PRETRAINED)
def test_a_pretrained_network_reads_augmented_inputs_in_training_only(
    choice: str, checkpoints: TinyCheckpoints, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = trained(choice, checkpoints, augmentation=augmentation_of(choice))
    part = encoder.trained_part()
    assert part is not None
    values, mask = stored_batch(encoder, media_of(choice, media)[:3])
    part.pads_exactly = True  # in one batch
    recorder = Recorder(part, monkeypatch)
    present = mask[:, 0]
    for mode, draw in ((False, DRAW), (True, None), (True, DRAW), (True, DRAW), (True, DRAW + 1)):
        part.train(mode)(values, mask, present, draw)
    evaluated, without, first, again, later = recorder.inputs
    for inputs, lengths in (evaluated, without):
        assert inputs.dtype == values.dtype
        assert torch.equal(inputs, values)
        assert torch.equal(lengths, mask.sum(1))
    assert torch.equal(first[0], again[0])
    assert first[0].shape != values.shape or not torch.equal(first[0], values.to(first[0].dtype))
    assert first[0].shape != later[0].shape or not torch.equal(first[0], later[0])


@pytest.mark.parametrize("choice", PRETRAINED)
def test_augmented_inputs_fit_the_network(choice: str, checkpoints: TinyCheckpoints, media: Media) -> None:
    encoder = trained(choice, checkpoints, augmentation=augmentation_of(choice))
    part = encoder.trained_part()
    assert part is not None
    values, mask = stored_batch(encoder, media_of(choice, media)[:3])
    part.train()(values, mask, mask[:, 0], DRAW)[0].square().sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in part.parameters())
    plain = trained(choice, checkpoints).trained_part()
    assert plain is not None
    assert plain.state_dict().keys() == part.state_dict().keys()


@pytest.mark.parametrize("changes", [{"training": "frozen"}, {"train_from": 1}])
def test_augmentation_of_inputs_that_are_not_stored_is_refused(
    changes: dict[str, Any], checkpoints: TinyCheckpoints
) -> None:
    with pytest.raises(UserError, match=r"expected encoder\.text\.augmentation=null"):
        trained("text/minilm", checkpoints, augmentation={"dropout": 0.1}, **changes)


def test_sound_is_augmented_where_waveforms_are_stored() -> None:
    with pytest.raises(UserError, match=r"or encoder\.audio\.inputs=waveform"):
        crnn(augmentation={"waveform": {"gain": [-6, 6]}}).trained_part()
    assert crnn(inputs="waveform", augmentation={"waveform": {"gain": [-6, 6]}}).trained_part() is not None


@pytest.mark.parametrize("window", [0.025, 0.03])
def test_the_model_computes_the_frames_of_log_mel_of_stored_waveforms(window: float, media: Media) -> None:
    sources = list(media["audio"].values())
    encoder = crnn(inputs="waveform", window=window)
    values, mask = stored_batch(encoder, sources)
    assert values.dtype == torch.int16
    front = encoder.front()
    assert front is not None
    frames, frame_mask = front(values, mask, DRAW)
    log_mel = instantiated(LogMel, window=window)
    log_mel.load()
    for row, source in enumerate(sources):
        expected = torch.from_numpy(log_mel.frames(source))
        assert int(frame_mask[row].sum()) == len(expected)
        torch.testing.assert_close(frames[row][frame_mask[row]], expected, atol=0.03, rtol=0)  # sound has 16 bits


def test_the_front_keeps_float32_under_autocast(media: Media) -> None:
    encoder = crnn(inputs="waveform")
    values, mask = stored_batch(encoder, list(media["audio"].values()))
    front = encoder.front()
    assert front is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow, _ = front(values, mask)
    assert torch.equal(narrow, front(values, mask)[0])


def model_of(encoder: Encoder, bands: int) -> EmotionModel:
    torch.manual_seed(0)
    part = encoder.trained_part()
    assert part is not None
    normalisation = Normalisation(kind="train", dim=bands)
    normalisation.fit(torch.full((bands,), -8.0), torch.full((bands,), 3.0))
    plain = make_model()
    return EmotionModel(
        task=EMOTION,
        encoders={"audio": part},
        normalisations={"audio": normalisation},
        projections={"audio": Projection(dim=part.dim, hidden=HIDDEN, dropout=0.0)},
        fusion=Concat(dims={"audio": HIDDEN}, hidden=HIDDEN, dropout=0.0),
        head=Head(hidden=HIDDEN, outputs=3, dropout=0.0),
        loss=plain.loss,
        metrics={},
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


def batch_of(encoder: Encoder, media: Media) -> Batch:
    values, mask = stored_batch(encoder, list(media["audio"].values()))
    batch = make_batch(len(values))
    missing = torch.ones(len(values), dtype=torch.bool)
    missing[1] = False
    return replace(
        batch,
        features={},
        inputs={"audio": values.where(missing[:, None, None], 0)},
        mask={"audio": mask & missing[:, None]},
        present={"audio": missing},
        draw=torch.arange(len(values)),
    )


SETTINGS: list[dict[str, Any]] = [
    {"augmentation": {"spectrogram": SPECTROGRAM}},
    {"inputs": "waveform", "augmentation": {"spectrogram": SPECTROGRAM, "waveform": WAVEFORM}},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_model_that_augments_is_bit_equal_in_evaluation(settings: dict[str, Any], media: Media) -> None:
    encoder, plain = crnn(**settings), crnn(**{**settings, "augmentation": None})
    batch = batch_of(encoder, media)
    augmenting, other = model_of(encoder, 64), model_of(plain, 64)
    assert torch.equal(augmenting.predict([batch]).logits, other.predict([batch]).logits)
    augmenting.validation_step(batch, 0)
    losses = [model.train().training_step(batch, 0).item() for model in (augmenting, other)]
    assert losses[0] != losses[1]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_part_that_gives_views_augments_in_evaluation_what_comes_with_draws(
    settings: dict[str, Any], media: Media
) -> None:
    batch, model = batch_of(crnn(**settings), media), model_of(crnn(**settings), 64).eval()
    plain = model(batch).logits[TASK]
    part: Any = model.encoder["audio"]
    assert part.augments
    assert not model_of(crnn(**{**settings, "augmentation": None}), 64).encoder["audio"].augments
    part.give_views()
    views = model(batch).logits[TASK]
    assert not torch.allclose(views, plain)
    assert torch.equal(model(batch).logits[TASK], views)
    assert torch.equal(model(replace(batch, draw=None)).logits[TASK], plain)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_training_step_depends_on_draws_and_not_on_the_order_of_the_batch(
    settings: dict[str, Any], media: Media
) -> None:
    encoder = crnn(**settings)
    batch, model = batch_of(encoder, media), model_of(encoder, 64).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    order = torch.tensor([4, 2, 0, 1, 3])
    draw = batch.draw
    assert draw is not None
    turned = replace(
        batch,
        inputs={"audio": batch.inputs["audio"][order]},
        mask={"audio": batch.mask["audio"][order]},
        present={"audio": batch.present["audio"][order]},
        targets={TASK: batch.targets[TASK][order]},
        draw=draw[order],
    )
    logits = model(batch).logits[TASK]
    torch.testing.assert_close(model(turned).logits[TASK], logits[order], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(replace(batch, draw=draw + 100)).logits[TASK], logits)
    assert torch.equal(model(batch).logits[TASK], logits)
