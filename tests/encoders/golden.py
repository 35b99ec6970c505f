"""A summary of an encoder's output on one fixed input; another output has another summary."""

import importlib.util
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from emorec.config.instantiation import instantiate
from emorec.datasets.demo_synthesis import write_video
from emorec.encoders.encoder import Encoder
from emorec.encoders.networks import NetworkEncoder
from emorec.media.source import Source
from tests.discovery import node
from tests.encoders.conftest import ENCODERS, NEEDS, is_computed, is_pretrained, moving_picture, voice

FILE = Path(__file__).with_name("golden.json")
HOW_TO_RENEW = "count the encoder's `version` up, then run: python -m tests.encoders.renew_golden"
# Without models of the hub, and without features that were computed elsewhere.
CHOICES = [choice for choice in ENCODERS if is_computed(choice) and not is_pretrained(choice)]
TEXT = "Well, I am not so sure about this news, are you? Not so sure at all."
ENTRIES = 8
# Decoders and mathematical libraries round differently from release to release: relative, then of the range.
TOLERANCE = {"text": (1e-5, 1e-6), "audio": (1e-3, 1e-3), "video": (1e-2, 1e-2)}


def can_run(choice: str) -> bool:
    """Whether the packages that the encoder needs are installed."""
    name = choice.partition("/")[2]
    return all(importlib.util.find_spec(needed) for start, needed in NEEDS.items() if name.startswith(start))


def make(choice: str) -> Encoder:
    modality, _, name = choice.partition("/")
    return instantiate(node(f"encoder/{modality}", name), where=f"encoder.{modality}", kind=Encoder)


def fixed_source(modality: str, folder: Path) -> Source:
    """The input; its media are written into `folder`."""
    if modality == "text":
        return Source(modality="text", text=TEXT)
    if modality == "audio":
        soundfile.write(folder / "voice.wav", voice(1.2, 150, seed=11), 16_000, subtype="FLOAT")
        return Source(modality="audio", path=folder / "voice.wav")
    write_video(folder / "spot.mp4", moving_picture(20, seed=3), 12, None, 16_000)
    return Source(modality="video", path=folder / "spot.mp4")


def output(encoder: Encoder, folder: Path) -> NDArray[np.float64]:
    """The features (T, D) of the fixed input; a network has weights that depend on their names and shapes alone."""
    encoder.fit([fixed_source(encoder.modality, folder)])
    encoder.load()
    encoder.eval()
    with torch.inference_mode():
        features, mask = encoder.encode(encoder.collate([encoder.read(fixed_source(encoder.modality, folder))]))
        if isinstance(encoder, NetworkEncoder):
            part = encoder.trained().eval()
            for name, parameter in part.named_parameters():
                numbers = np.random.RandomState(zlib.crc32(name.encode())).normal(size=tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(numbers) * parameter.shape[-1] ** -0.5)
            features, mask = part(features, mask, mask[:, 0])
    return features[0][mask[0]].double().numpy()


def summary(values: NDArray[np.float64]) -> dict[str, Any]:
    """Shape, mean, deviation, a mean that depends on the order of the values, and some of them."""
    flat = values.ravel()
    indices = np.linspace(0, len(flat) - 1, ENTRIES).round().astype(int)
    return {
        "shape": list(values.shape),
        "mean": float(f"{flat.mean():.8g}"),
        "deviation": float(f"{flat.std():.8g}"),
        "ramp": float(f"{(flat * np.linspace(-1, 1, len(flat))).mean():.8g}"),
        "entries": [float(f"{flat[index]:.8g}") for index in indices],
    }


def agree(modality: str, actual: dict[str, Any], golden: dict[str, Any]) -> bool:
    """Whether two summaries are of the same output."""
    relative, of_the_range = TOLERANCE[modality]
    if actual["shape"] != golden["shape"]:
        return False
    pairs = [(actual[key], golden[key]) for key in ("mean", "deviation", "ramp", "entries")]
    absolute = of_the_range * golden["deviation"]
    return all(np.allclose(left, right, rtol=relative, atol=absolute) for left, right in pairs)


def read() -> dict[str, dict[str, Any]]:
    """{choice: {"version": …, "summary": …}} of the golden file."""
    golden: dict[str, dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return golden
