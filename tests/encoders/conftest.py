"""Every encoder of `conf/encoder`, and small real media for each modality."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from emorec.batch import MODALITIES
from emorec.configuration import instantiate
from emorec.datasets.demo_synthesis import write_video
from emorec.encoders.encoder import Encoder
from emorec.media.source import Source
from tests.discovery import names, node
from tests.encoders.tiny_checkpoints import save_bert

ENCODERS = [f"{modality}/{name}" for modality in MODALITIES for name in names(f"encoder/{modality}")]
NEEDS = {"opensmile": "opensmile"}  # start of an encoder's name -> the package of an extra that it needs

TEXTS = (
    "I am so happy today!",
    "Sad.",
    "Well, this news about the rain is not what you and I feel calm about, again and again.",
    "You are angry",
    "We feel very, very calm.",
)
SECONDS = (0.5, 1.3, 0.8, 2.1, 0.61)
FRAMES = (12, 5, 30, 9, 17)


def settings_of(choice: str, checkpoints: dict[str, Path], **changes: Any) -> dict[str, Any]:
    """The config of an encoder; a model of the hub is replaced by a small one of its modality."""
    modality, _, name = choice.partition("/")
    for start, package in NEEDS.items():
        if name.startswith(start) and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package}")
    settings = node(f"encoder/{modality}", name)
    if "model" in settings:
        settings["model"] = str(checkpoints[modality])
    return {**settings, **changes}


def is_pretrained(choice: str) -> bool:
    modality, _, name = choice.partition("/")
    return "model" in node(f"encoder/{modality}", name)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{modality: folder of a small pretrained model}."""
    return {"text": save_bert(tmp_path_factory.mktemp("tiny_bert"))}


@pytest.fixture(params=ENCODERS)
def choice(request: pytest.FixtureRequest) -> str:
    """`modality/name` of each encoder."""
    return str(request.param)


@pytest.fixture
def make(choice: str, checkpoints: dict[str, Path]) -> Callable[..., Encoder]:
    """Makes the encoder, with changes to its config."""

    def make_encoder(**changes: Any) -> Encoder:
        encoder = instantiate(settings_of(choice, checkpoints, **changes), where=f"encoder.{choice}")
        assert isinstance(encoder, Encoder)
        return encoder

    return make_encoder


def voice(seconds: float, pitch: float, seed: int, rate: int = 16_000) -> np.ndarray:
    """Harmonics that rise in pitch, in syllables, with noise: (samples,)."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.2 * time)) / rate
    sound = sum(np.sin(number * phase) / number for number in range(1, 8)) * (0.3 + np.sin(2 * np.pi * 2 * time) ** 2)
    return (0.1 * sound + np.random.default_rng(seed).normal(0, 0.003, len(time))).astype(np.float32)


def moving_picture(frames: int, seed: int) -> np.ndarray:
    """A soft spot that wanders over a gradient: (frames, 96, 128, 3)."""
    rows, columns = np.mgrid[0:96, 0:128]
    pictures = []
    for frame in range(frames):
        spot = np.exp(-((rows - 40 - seed) ** 2 + (columns - 20 - 5 * frame) ** 2) / 400)
        shade = np.stack([60 + rows / 2 + 100 * spot, 80 + columns / 2 + 40 * spot, 90 + 60 * spot], axis=-1)
        pictures.append(shade)
    return np.clip(np.stack(pictures), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Source]]:
    """{modality: {id: source}}, five of different lengths each."""
    folder = tmp_path_factory.mktemp("media")
    found: dict[str, dict[str, Source]] = {modality: {} for modality in MODALITIES}
    for number, (text, seconds, frames) in enumerate(zip(TEXTS, SECONDS, FRAMES, strict=True)):
        sound, video = folder / f"{number}.wav", folder / f"{number}.mp4"
        soundfile.write(sound, voice(seconds, 120 + 30 * number, number), 16_000)
        write_video(video, moving_picture(frames, number), 12, None, 16_000)
        found["text"][f"u{number}"] = Source(modality="text", text=text)
        found["audio"][f"u{number}"] = Source(modality="audio", path=sound)
        found["video"][f"u{number}"] = Source(modality="video", path=video)
    return found


@pytest.fixture
def sources(choice: str, media: dict[str, dict[str, Source]]) -> dict[str, Source]:
    """Five sources of the encoder's modality."""
    return media[choice.partition("/")[0]]


@pytest.fixture(scope="session")
def unusable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """{modality: a source whose content cannot be used}."""
    folder = tmp_path_factory.mktemp("unusable")
    soundfile.write(folder / "silence.wav", np.zeros(16_000, np.float32), 16_000)
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    return {
        "text": Source(modality="text", text="  \n"),
        "audio": Source(modality="audio", path=folder / "silence.wav"),
        "video": Source(modality="video", path=folder / "broken.mp4"),
    }
