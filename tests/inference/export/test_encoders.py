"""Every encoder of `conf/encoder` is exported from media and equals its run, or is refused with its reason."""

from typing import Any

import pytest
import torch

from emorec.config.instantiation import instantiate
from emorec.encoders.encoder import Encoder
from emorec.errors import UserError
from emorec.inference.export.example import ROWS
from emorec.inference.export.parity import TOLERANCE
from emorec.media.source import Source
from tests.encoders.conftest import DISTINCT, NETWORKS, TEXTS, encoder_node, is_pretrained, settings_of
from tests.encoders.tiny_checkpoints import TinyCheckpoints
from tests.inference.export.small_models import model_of_encoder, parity_of

pytestmark = pytest.mark.slow

SMALL = {"channels": [4, 6], "hidden": 8, "bands": 16, "stem": 4, "width": 16, "depth": 1, "embedding": 8}
SMALL_PIXELS = {"frames": 5, "size": 24}
PRETRAINED = [choice for choice in DISTINCT if is_pretrained(choice)]
OTHERS = [choice for choice in DISTINCT if not is_pretrained(choice) and choice != "audio/log_mel"]
OF_BANDS = [choice for choice in NETWORKS if choice.startswith("audio")]
TRAINED = ("text/bert_base_chinese", "audio/wav2vec2_base", "audio/wavlm_large", "audio/whisper_base", "video/vit_base")
LSTM = {"hidden": 8, "depth": 2, "bidirectional": True}


def encoder_of(choice: str, settings: dict[str, Any]) -> Encoder:
    return instantiate(settings, where=f"encoder.{choice.partition('/')[0]}", kind=Encoder)


def network(choice: str, **changes: Any) -> Encoder:
    """A network of a YAML that is small; its vocabulary, if it has one, is that of some texts."""
    settings = dict(encoder_node(choice))
    small = {name: value for name, value in SMALL.items() if name in settings and name != "channels"}
    if "channels" in settings:
        small["channels"] = SMALL["channels"] if isinstance(settings["channels"], list) else 4
    if "media" in settings and choice.startswith("video"):
        settings["media"] = {**settings["media"], **SMALL_PIXELS}
    encoder = encoder_of(choice, {**settings, **small, **changes})
    if encoder.needs_fit:
        encoder.fit([Source(modality="text", text=text) for text in TEXTS])
    return encoder


def difference(encoder: Encoder, asked: str | None = "raw") -> float:
    torch.manual_seed(0)
    pads_to_30_seconds = getattr(encoder, "window", None) == "padded" and encoder.decodes == "bands"
    return parity_of(*model_of_encoder(encoder, asked), batches=(1, 3) if pads_to_30_seconds else ROWS).difference


@pytest.mark.parametrize("choice", NETWORKS)
def test_a_network_is_exported_as_it_is(choice: str) -> None:
    assert difference(network(choice)) <= TOLERANCE


@pytest.mark.parametrize("choice", OF_BANDS)
def test_a_network_of_stored_bands_is_exported(choice: str) -> None:
    assert difference(network(choice), "features") <= TOLERANCE


@pytest.mark.parametrize(("choice", "attention"), [("audio/crnn", "cbam"), ("video/conv3d_lstm", "se")])
def test_attention_of_convolutions_is_exported(choice: str, attention: str) -> None:
    assert difference(network(choice, attention=attention)) <= TOLERANCE


@pytest.mark.parametrize("choice", OF_BANDS)
def test_a_network_of_waveforms_is_exported(choice: str) -> None:
    assert difference(network(choice, inputs="waveform")) <= TOLERANCE


@pytest.mark.parametrize("choice", PRETRAINED)
def test_a_frozen_network_is_exported_with_the_model(choice: str, checkpoints: TinyCheckpoints) -> None:
    assert difference(encoder_of(choice, settings_of(choice, checkpoints))) <= TOLERANCE


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("choice", TRAINED)
def test_a_network_that_trains_is_exported(choice: str, first: int, checkpoints: TinyCheckpoints) -> None:
    changes: dict[str, Any] = {"training": "full", "train_from": first, "layer": -1}
    if "whisper" in choice:
        changes["window"] = "clip"
    assert difference(encoder_of(choice, settings_of(choice, checkpoints, **changes))) <= TOLERANCE


def test_a_pretrained_network_under_an_lstm_is_exported(checkpoints: TinyCheckpoints) -> None:
    choice = "video/efficientnet_lstm"
    assert difference(encoder_of(choice, settings_of(choice, checkpoints, **LSTM))) <= TOLERANCE


def test_the_longest_clip_of_whisper_is_exported(checkpoints: TinyCheckpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emorec.inference.export.example.STEPS", {"bands": (2995, 2997, 3002)})
    encoder = encoder_of("audio/whisper_tiny", settings_of("audio/whisper_tiny", checkpoints, window="clip"))
    torch.manual_seed(0)
    assert parity_of(*model_of_encoder(encoder, "raw"), batches=(1,)).difference <= TOLERANCE


@pytest.mark.parametrize("choice", ["audio/log_mel"])
def test_frozen_bands_are_exported(choice: str, checkpoints: TinyCheckpoints) -> None:
    assert difference(encoder_of(choice, settings_of(choice, checkpoints))) <= TOLERANCE


@pytest.mark.parametrize("choice", OTHERS)
def test_what_is_no_network_is_refused_from_media_and_exported_from_features(
    choice: str, checkpoints: TinyCheckpoints
) -> None:
    encoder = encoder_of(choice, settings_of(choice, checkpoints))
    with pytest.raises(UserError, match=r"reads=features, since encoder\..* outside a network"):
        model_of_encoder(encoder, "raw")
    model, ports = model_of_encoder(encoder, None)
    (port,) = ports.values()
    assert port.declared.kind == "features"
    assert "outside a network" in port.reason
    assert parity_of(model, ports).difference <= TOLERANCE
