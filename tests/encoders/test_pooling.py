"""Mean and standard deviation over time of frozen encoders, and Whisper on clips at their own length."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emorec.config.instantiation import instantiate
from emorec.encoders.encoder import Encoder
from emorec.media.source import Source
from tests.encoders.conftest import DISTINCT, is_pretrained, settings_of
from tests.encoders.tiny_checkpoints import TinyCheckpoints

Media = dict[str, dict[str, Source]]  # {modality: {id: source}}
PRETRAINED = [choice for choice in DISTINCT if is_pretrained(choice)]
WHISPER = next(choice for choice in PRETRAINED if "whisper" in choice)


def loaded(choice: str, checkpoints: TinyCheckpoints, **changes: Any) -> Encoder:
    settings = settings_of(choice, checkpoints, **changes)
    encoder = instantiate(settings, where=f"encoder.{choice.partition('/')[0]}", kind=Encoder)
    encoder.load()
    return encoder.eval()


def encoded(encoder: Encoder, *sources: Source) -> list[Tensor]:
    """The features (T, D) of each source, encoded as one batch."""
    with torch.inference_mode():
        features, mask = encoder.encode(encoder.collate([encoder.read(source) for source in sources]))
    return [row[valid] for row, valid in zip(features, mask, strict=True)]


@pytest.mark.parametrize("choice", PRETRAINED)
def test_mean_and_deviation_of_each_layer_equal_numpys(choice: str, checkpoints: TinyCheckpoints, media: Media) -> None:
    layer = -1 if "efficientnet" in choice else [1, -1]
    source = media[choice.partition("/")[0]]["u2"]
    frames = encoded(loaded(choice, checkpoints, layer=layer, pooling="none"), source)[0].double().numpy()
    encoder = loaded(choice, checkpoints, layer=layer, pooling="mean_std")
    (actual,) = encoded(encoder, source)
    parts = np.split(frames, len(encoder.layers), axis=1)
    expected = np.concatenate([part for own in parts for part in (own.mean(0), own.std(0))])
    assert actual.shape == (1, len(encoder.layers) * encoder.dim)
    np.testing.assert_allclose(actual[0].numpy(), expected, rtol=1e-3, atol=1e-5)


def test_whisper_on_a_clip_does_not_depend_on_batch_mates(checkpoints: TinyCheckpoints, media: Media) -> None:
    encoder = loaded(WHISPER, checkpoints, window="clip", pooling="none")
    sources = list(media["audio"].values())
    together = encoded(encoder, *sources)
    for source, expected in zip(sources, together, strict=True):
        torch.testing.assert_close(encoded(encoder, source)[0], expected, atol=1e-5, rtol=1e-4)


def test_frozen_whisper_on_a_clip_equals_its_trained_part(checkpoints: TinyCheckpoints, media: Media) -> None:
    changes = {"window": "clip", "layer": "all", "pooling": "mean_std", "dtype": "float32"}
    sources = list(media["audio"].values())
    frozen = loaded(WHISPER, checkpoints, **changes)
    expected = torch.cat(encoded(frozen, *sources))
    encoder = loaded(WHISPER, checkpoints, training="full", train_from=0, **{**changes, "layer": [1, -1]})
    stored = encoder.stored()
    inputs = stored.collate([stored.read(source) for source in sources])
    part = encoder.trained()
    assert part is not None
    with torch.no_grad():
        actual, _ = part.eval()(inputs["values"], inputs["mask"], inputs["mask"][:, 0])
    width = frozen.dim
    torch.testing.assert_close(actual[:, 0, :width], expected[:, width : 2 * width], atol=1e-5, rtol=1e-4)  # layer 1


def test_the_length_of_whispers_window_is_part_of_the_features_identity(checkpoints: TinyCheckpoints) -> None:
    padded, clip = (loaded(WHISPER, checkpoints, window=window) for window in ("padded", "clip"))
    assert padded.spec() != clip.spec()
    assert padded.spec()["processor"].keys() < clip.spec()["processor"].keys()
