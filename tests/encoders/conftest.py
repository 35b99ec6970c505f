"""Every encoder of `conf/encoder`, and small real media for each modality."""

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from emorec.batch import MODALITIES
from emorec.config.instantiation import instantiate
from emorec.config.locations import config_folder
from emorec.datasets.demo_synthesis import write_video
from emorec.encoders.encoder import Encoder
from emorec.encoders.networks import NetworkEncoder
from emorec.media.source import Source
from tests.discovery import names, node
from tests.encoders.tiny_checkpoints import TinyCheckpoints, family_of

T = TypeVar("T", bound=Encoder)
ENCODERS = [f"{modality}/{name}" for modality in MODALITIES for name in names(f"encoder/{modality}")]
PRECOMPUTED = "precomputed"
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


@cache
def encoder_node(choice: str) -> dict[str, Any]:
    """The config of an encoder as it is composed, with some name for a path that must be given."""
    modality, _, name = choice.partition("/")
    if name != PRECOMPUTED:
        return node(f"encoder/{modality}", name)
    settings = OmegaConf.to_container(OmegaConf.load(config_folder() / "encoder" / modality / f"{name}.yaml"))
    assert isinstance(settings, dict)
    return {**settings, "path": "features.npz"}


def settings_of(choice: str, checkpoints: TinyCheckpoints, **changes: Any) -> dict[str, Any]:
    """The config of an encoder, with a small model of the same kind instead of a hub model, and a small file."""
    name = choice.partition("/")[2]
    for start, package in NEEDS.items():
        if name.startswith(start) and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package}")
    settings = dict(encoder_node(choice))
    if "model" in settings:
        settings["model"] = str(checkpoints[family_of(choice)])
    if "path" in settings:
        settings["path"] = str(write_features(checkpoints.folder / "features.npz"))
    return {**settings, **changes}


def is_pretrained(choice: str) -> bool:
    return "model" in encoder_node(choice)


def is_computed(choice: str) -> bool:
    """Whether the encoder computes its features from media."""
    return choice.partition("/")[2] != PRECOMPUTED


@cache
def is_network(choice: str) -> bool:
    """Whether the encoder is a network without pretrained weights, which trains with the model."""
    module, _, name = encoder_node(choice)["_target_"].rpartition(".")
    return issubclass(getattr(importlib.import_module(module), name), NetworkEncoder)


@cache
def can_be_frozen(choice: str) -> bool:
    module, _, name = encoder_node(choice)["_target_"].rpartition(".")
    return "frozen" in getattr(importlib.import_module(module), name).trainable


def write_features(path: Path) -> Path:
    """Five arrays (T, 12) of different lengths, by the ids of the sources."""
    if not path.exists():
        random = np.random.default_rng(3)
        arrays = {f"u{number}": random.normal(size=(frames, 12)) for number, frames in enumerate(FRAMES)}
        np.savez(path, **arrays)
    return path


def distinct() -> list[str]:
    """One encoder of each group that differs in the name of the model only, as their small models are the same.

    Those that cannot be frozen have tests of their own.
    """
    choices: dict[str, str] = {}
    for choice in ENCODERS:
        if not can_be_frozen(choice):
            continue
        settings = dict(encoder_node(choice))
        if "model" in settings:
            settings["model"] = family_of(choice)
        choices.setdefault(repr(sorted(settings.items())), choice)
    return list(choices.values())


DISTINCT = distinct()
NETWORKS = [choice for choice in ENCODERS if is_network(choice)]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoints:
    """{kind of network: folder of a small pretrained model}."""
    return TinyCheckpoints(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=DISTINCT)
def choice(request: pytest.FixtureRequest) -> str:
    """`modality/name` of each encoder that is tested."""
    return str(request.param)


@pytest.fixture
def make(choice: str, checkpoints: TinyCheckpoints) -> Callable[..., Encoder]:
    """Makes the encoder, with changes to its config."""

    def make_encoder(**changes: Any) -> Encoder:
        where = f"encoder.{choice.partition('/')[0]}"
        return instantiate(settings_of(choice, checkpoints, **changes), where=where, kind=Encoder)

    return make_encoder


def instantiated(cls: type[T], **arguments: Any) -> T:
    """An encoder that is made as from a config: its arguments are checked."""
    node = {"_target_": f"{cls.__module__}.{cls.__qualname__}", **arguments}
    return instantiate(node, where=f"encoder.{cls.modality}", kind=cls)


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
    sources: dict[str, dict[str, Source]] = {modality: {} for modality in MODALITIES}
    for number, (text, seconds, frames) in enumerate(zip(TEXTS, SECONDS, FRAMES, strict=True)):
        sound, video = folder / f"{number}.wav", folder / f"{number}.mp4"
        soundfile.write(sound, voice(seconds, 120 + 30 * number, number), 16_000)
        write_video(video, moving_picture(frames, number), 12, None, 16_000)
        sources["text"][f"u{number}"] = Source(modality="text", text=text)
        sources["audio"][f"u{number}"] = Source(modality="audio", path=sound)
        sources["video"][f"u{number}"] = Source(modality="video", path=video)
    return sources


@pytest.fixture
def sources(choice: str, media: dict[str, dict[str, Source]], checkpoints: TinyCheckpoints) -> dict[str, Source]:
    """Five sources of the encoder's modality."""
    decoded = media[choice.partition("/")[0]]
    if is_computed(choice):
        return decoded
    path = Path(settings_of(choice, checkpoints)["path"])
    return {name: Source(modality=source.modality, path=path, text=name) for name, source in decoded.items()}


@pytest.fixture
def unusable(choice: str, tmp_path_factory: pytest.TempPathFactory, checkpoints: TinyCheckpoints) -> Source:
    """A source whose content cannot be used."""
    modality, folder = choice.partition("/")[0], tmp_path_factory.mktemp("unusable")
    if not is_computed(choice):
        return Source(modality=modality, path=Path(settings_of(choice, checkpoints)["path"]), text="nobody")
    if modality == "text":
        return Source(modality=modality, text="  \n")
    path = folder / ("silence.wav" if modality == "audio" else "broken.mp4")
    if modality == "audio":
        soundfile.write(path, np.zeros(16_000, np.float32), 16_000)
    else:
        path.write_bytes(b"not a video at all")
    return Source(modality=modality, path=path)
