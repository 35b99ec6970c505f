"""The encoder of pretrained speech models: padding, windows, layers, and the input of a checkpoint."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from emorec.config.schema import ExtractionConfig
from emorec.encoders.huggingface_audio import HuggingFaceAudio, windows
from emorec.errors import UserError
from emorec.features.extraction import extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.media.signal import Waveform
from emorec.media.source import MediaError, Source
from emorec.storage.digests import FileDigests
from tests.encoders.bfloat16 import bfloat16_is_wrong
from tests.encoders.conftest import instantiated, voice
from tests.encoders.tiny_checkpoints import HIDDEN, LAYERS, TinyCheckpoints

pytestmark = pytest.mark.slow

EXACT = ("wav2vec2_layer", "hubert_layer", "wavlm_layer")
LEAKY = ("wav2vec2_group", "hubert_group", "wavlm_group", "data2vec_audio")
FAMILIES = (*EXACT, *LEAKY, "whisper")
RATE = 16_000
STEP = 320  # samples of a frame


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(checkpoints: TinyCheckpoints, family: str, **settings: Any) -> HuggingFaceAudio:
    encoder = instantiated(HuggingFaceAudio, model=str(checkpoints[family]), **{"pooling": "none", **settings})
    encoder.load()
    return encoder


def encoded(encoder: HuggingFaceAudio, *waveforms: Waveform) -> list[Tensor]:
    """The features (T, D) of each sound, all in one batch."""
    with torch.inference_mode():
        features, mask = encoder.encode(encoder.collate(waveforms))
    assert (features[~mask] == 0).all()
    return [values[kept] for values, kept in zip(features, mask, strict=True)]


def by_hand(folder: Path, waveform: Waveform, layer: int = -1) -> Tensor:
    """The features (T, D) of one sound, straight from transformers."""
    from transformers import AutoFeatureExtractor, AutoModel

    model = AutoModel.from_pretrained(str(folder)).eval()
    extractor = AutoFeatureExtractor.from_pretrained(str(folder))
    network = model.get_encoder() if model.config.model_type == "whisper" else model
    inputs = extractor(waveform, sampling_rate=RATE, return_tensors="pt")
    values = inputs["input_values" if network is model else "input_features"]
    with torch.inference_mode():
        network.config.tie_last_hidden_states = False  # else Whisper's last layer is the output
        output = network(values, output_hidden_states=True)
    hidden = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    return hidden[0]


def check_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=5e-5)


def sounds() -> list[Waveform]:
    return [voice(seconds, 130 + 20 * number, number) for number, seconds in enumerate((0.5, 1.3, 0.83))]


# What comes out


@pytest.mark.parametrize("layer", [-1, *range(LAYERS + 1)])
def test_a_layer_is_that_hidden_state_of_transformers(checkpoints: TinyCheckpoints, family: str, layer: int) -> None:
    sound = sounds()[1]
    actual = encoded(make(checkpoints, family, layer=layer), sound)[0]
    assert actual.shape[1] == HIDDEN
    check_close(actual, by_hand(checkpoints[family], sound, layer)[: len(actual)])


def test_several_layers_stand_side_by_side(checkpoints: TinyCheckpoints, family: str) -> None:
    sound = sounds()[0]
    encoder = make(checkpoints, family, layer=[2, -1, 0])
    assert (encoder.layers, encoder.dim) == ((2, -1, 0), HIDDEN)
    parts = [encoded(make(checkpoints, family, layer=layer), sound)[0] for layer in (2, -1, 0)]
    check_close(encoded(encoder, sound)[0], torch.cat(parts, dim=1))


def test_all_layers_are_known_without_loading_weights(
    checkpoints: TinyCheckpoints, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = HuggingFaceAudio(model=str(checkpoints[family]), layer="all")
    monkeypatch.setattr(encoder, "load", lambda: pytest.fail("expected specs() to load nothing"))
    specs = encoder.specs()
    assert [spec["layer"] for spec in specs] == list(range(LAYERS + 1))
    assert len({FeatureSpec(**spec).digest for spec in specs}) == LAYERS + 1


@pytest.mark.parametrize(("family", "same"), [("wav2vec2_group", True), ("wav2vec2_layer", False), ("whisper", False)])
def test_a_last_normalisation_is_in_the_output_alone(checkpoints: TinyCheckpoints, family: str, same: bool) -> None:
    sound = sounds()[0]
    output, last = (encoded(make(checkpoints, family, layer=layer), sound)[0] for layer in (-1, LAYERS))
    assert torch.allclose(output, last, atol=1e-4) == same


def test_pooling_is_the_mean_of_real_frames(checkpoints: TinyCheckpoints, family: str) -> None:
    pooled = encoded(make(checkpoints, family, pooling="mean"), *[sounds()[1]] * 2)
    frames = encoded(make(checkpoints, family), sounds()[1])[0]
    check_close(pooled[0], frames.mean(0, keepdim=True))


def test_two_calls_are_equal_as_dropout_is_off(checkpoints: TinyCheckpoints, family: str) -> None:
    encoder = make(checkpoints, family)
    assert torch.equal(encoded(encoder, sounds()[0])[0], encoded(encoder, sounds()[0])[0])
    assert not any(module.training for module in encoder._backbone.backbone.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


# What goes in


@pytest.mark.parametrize("family", [*EXACT, *LEAKY])
def test_a_batch_is_normalised_as_the_checkpoints_own_extractor_does(checkpoints: TinyCheckpoints, family: str) -> None:
    from transformers import AutoFeatureExtractor

    encoder, batch = make(checkpoints, family), sounds()
    extractor = AutoFeatureExtractor.from_pretrained(str(checkpoints[family]))
    # without a mask transformers would take a batch's padding for recorded silence
    options = {"padding": True, "return_attention_mask": True, "return_tensors": "pt"}
    expected = extractor(batch, sampling_rate=RATE, **options)["input_values"]
    inputs = encoder.collate(batch)
    assert inputs["samples"].tolist() == [[len(sound)] for sound in batch]
    torch.testing.assert_close(inputs["values"][:, 0], expected, rtol=0, atol=1e-6)
    changed = not np.allclose(inputs["values"][0, 0, : len(batch[0])], batch[0])
    assert changed == extractor.do_normalize


def test_whisper_reads_what_its_own_extractor_makes(checkpoints: TinyCheckpoints) -> None:
    from transformers import AutoFeatureExtractor

    encoder, batch = make(checkpoints, "whisper"), sounds()
    extractor = AutoFeatureExtractor.from_pretrained(str(checkpoints["whisper"]))
    expected = extractor(batch, sampling_rate=RATE, return_tensors="pt")["input_features"]
    torch.testing.assert_close(encoder.collate(batch)["values"][:, 0], expected, rtol=0, atol=1e-6)


def test_another_sample_rate_is_refused(checkpoints: TinyCheckpoints, family: str) -> None:
    with pytest.raises(UserError, match=r"expected encoder\.audio\.media\.sample_rate=16000 .*got 8000"):
        make(checkpoints, family, media={"sample_rate": 8000})


@pytest.mark.parametrize("samples", [1, 399, 400])
def test_sound_shorter_than_the_first_frame_cannot_be_read(
    checkpoints: TinyCheckpoints, tmp_path: Path, samples: int
) -> None:
    soundfile.write(tmp_path / "click.wav", voice(1.0, 200, 0)[4000 : 4000 + samples], RATE)
    encoder = make(checkpoints, "wav2vec2_layer", media={"minimum_seconds": 0})
    source = Source(modality="audio", path=tmp_path / "click.wav")
    if samples < 400:
        with pytest.raises(MediaError, match=rf"too short: expected 400 samples, got {samples}"):
            encoder.read(source)
    else:
        assert len(encoded(encoder, encoder.read(source))[0]) == 1


# Padding


@pytest.mark.parametrize("family", [*EXACT, "whisper"])
@pytest.mark.parametrize("layer", ["all", -1])
def test_padding_changes_nothing_where_a_network_pads_exactly(
    checkpoints: TinyCheckpoints, family: str, layer: Any
) -> None:
    encoder = make(checkpoints, family, layer=layer)
    assert encoder.pads_exactly
    for sound, values in zip(sounds(), encoded(encoder, *sounds()), strict=True):
        check_close(values, encoded(encoder, sound)[0])


@pytest.mark.parametrize("family", LEAKY)
def test_padding_would_change_the_features_of_other_networks(checkpoints: TinyCheckpoints, family: str) -> None:
    encoder = make(checkpoints, family)
    assert not encoder.pads_exactly
    padded, alone = encoded(encoder, *sounds())[0], encoded(encoder, sounds()[0])[0]
    assert padded.shape == alone.shape
    assert (padded - alone).abs().max() > 1e-3


@pytest.mark.parametrize(("family", "batches"), [("wav2vec2_group", [1, 2, 2]), ("wav2vec2_layer", [5])])
def test_networks_that_do_not_pad_exactly_get_batches_of_equal_length(
    checkpoints: TinyCheckpoints, tmp_path: Path, family: str, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {}
    for number, seconds in enumerate((0.5, 0.9, 0.5, 0.9, 0.7)):
        soundfile.write(tmp_path / f"{number}.wav", voice(seconds, 150, number), RATE)
        sources[f"u{number}"] = Source(modality="audio", path=tmp_path / f"{number}.wav")
    encoder = make(checkpoints, family)
    lengths: list[list[int]] = []
    collate = encoder.collate
    monkeypatch.setattr(
        encoder, "collate", lambda items: lengths.append([len(item) for item in items]) or collate(items)
    )
    store = FeatureStore(tmp_path / "cache", FeatureSpec(**encoder.spec()), FileDigests())
    extract(store, encoder, sources, ExtractionConfig(batch_size=8, progress=False, device="cpu"))
    assert sorted(len(batch) for batch in lengths) == batches
    assert all(len(set(batch)) == 1 for batch in lengths) or encoder.pads_exactly


# Windows


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 199, 200, 201, 1234])
def test_windows_are_equal_and_as_few_as_possible(samples: int) -> None:
    actual = windows(samples, 100)
    assert len(actual) == -(-samples // 100)
    assert (actual[0][0], actual[-1][1]) == (0, samples)
    assert all(end == start for (_, end), (start, _) in pairwise(actual))
    lengths = [end - start for start, end in actual]
    assert max(lengths) <= 100
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("pooling", ["none", "mean"])
def test_windows_join_exactly(checkpoints: TinyCheckpoints, family: str, pooling: str) -> None:
    encoder = make(checkpoints, family, max_seconds=0.7, pooling=pooling)
    whole = make(checkpoints, family)
    sound = encoder._backbone.normalised(voice(1.7, 140, 5))
    whole._backbone.normalised = lambda waveform: waveform  # it is normalised as a whole, before it is cut
    parts = [encoded(whole, sound[start:end])[0] for start, end in windows(len(sound), round(0.7 * RATE))]
    expected = torch.cat(parts)
    assert len(parts) == 3
    actual = encoded(encoder, voice(1.7, 140, 5))[0]
    check_close(actual, expected.mean(0, keepdim=True) if pooling == "mean" else expected)


@pytest.mark.parametrize("family", [*EXACT, "whisper"])
def test_utterances_with_different_numbers_of_windows_share_a_batch(checkpoints: TinyCheckpoints, family: str) -> None:
    encoder = make(checkpoints, family, max_seconds=0.6)
    batch = [voice(seconds, 140, number) for number, seconds in enumerate((0.5, 1.9, 1.0))]
    for sound, values in zip(batch, encoded(encoder, *batch), strict=True):
        check_close(values, encoded(encoder, sound)[0])


def test_one_pass_takes_one_window_of_each_utterance(
    checkpoints: TinyCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make(checkpoints, "wav2vec2_layer", max_seconds=0.5)
    seen: list[tuple[int, ...]] = []
    forward = encoder._backbone.forward

    def watched(values: Tensor, samples: Tensor, **options: Any) -> Any:
        seen.append((len(values), int(samples.max())))
        return forward(values, samples, **options)

    monkeypatch.setattr(encoder._backbone, "forward", watched)
    encoded(encoder, voice(0.4, 100, 0), voice(1.5, 100, 0))
    assert seen == [(2, 8000), (1, 8000), (1, 8000)]


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 16_000, 20_001])
def test_whispers_features_end_with_the_sound(checkpoints: TinyCheckpoints, samples: int) -> None:
    sound = voice(2.0, 150, 0)[:samples]
    actual = encoded(make(checkpoints, "whisper"), sound)[0]
    assert len(actual) == -(-samples // STEP)
    check_close(actual, by_hand(checkpoints["whisper"], sound)[: len(actual)])


def test_sound_longer_than_whispers_30_seconds_is_cut_into_windows(checkpoints: TinyCheckpoints) -> None:
    encoder, sound = make(checkpoints, "whisper"), voice(35.0, 150, 0)
    actual = encoded(encoder, sound)[0]
    assert len(actual) == 1750
    half = len(sound) // 2
    check_close(actual[875:], by_hand(checkpoints["whisper"], sound[half:])[:875])


# Settings


@pytest.mark.skipif(bfloat16_is_wrong(), reason="this CPU computes grouped convolutions wrongly in bfloat16")
def test_bfloat16_comes_close_and_is_stored_as_float32(checkpoints: TinyCheckpoints, family: str) -> None:
    full = encoded(make(checkpoints, family), sounds()[1])[0]
    half = encoded(make(checkpoints, family, precision="bfloat16"), sounds()[1])[0]
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().mean() < 0.1 * full.abs().mean()


def test_float16_on_a_cpu_is_refused(checkpoints: TinyCheckpoints, family: str) -> None:
    encoder = make(checkpoints, family, precision="float16")
    with pytest.raises(UserError, match=r"expected encoder\.audio\.precision=float32 or bfloat16 on a CPU"):
        encoded(encoder, sounds()[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer": -2}, r"encoder\.audio\.layer from -1 to 2 .*got -2"),
        ({"layer": 3}, r"encoder\.audio\.layer from -1 to 2 .*got 3"),
        ({"layer": [1, 7, 8]}, r"encoder\.audio\.layer from -1 to 2 .*got \[7, 8\]"),
        ({"layer": [1, 1]}, r"encoder\.audio\.layer .*different.*got \[1, 1\]"),
        ({"layer": []}, r"encoder\.audio\.layer .*got \[\]"),
        ({"layer": "last"}, r"encoder\.audio\.layer: expected .*got 'last'"),
        ({"pooling": "max"}, r"encoder\.audio\.pooling: expected 'none', 'mean' or 'mean_std', got 'max'"),
        ({"precision": "half"}, r"encoder\.audio\.precision: expected .*got 'half'"),
        ({"max_seconds": 0}, r"encoder\.audio\.max_seconds: expected a number of at least 0\.5, got 0"),
        ({"media": {"rate": 16_000}}, r"encoder\.audio\.media\.rate: unknown key"),
    ],
)
def test_an_invalid_setting_is_refused(checkpoints: TinyCheckpoints, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(checkpoints, "wav2vec2_group", **settings)


def test_whisper_refuses_windows_that_it_cannot_read(checkpoints: TinyCheckpoints) -> None:
    with pytest.raises(UserError, match=r"encoder\.audio\.max_seconds up to 30 .*got 31"):
        make(checkpoints, "whisper", max_seconds=31)


# Checkpoints


@pytest.fixture
def copied(checkpoints: TinyCheckpoints, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["wav2vec2_layer"], tmp_path / "copy"))


def without_weight(folder: Path, part: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def test_the_vector_that_masks_frames_in_pretraining_may_be_missing(checkpoints: TinyCheckpoints, copied: Path) -> None:
    without_weight(copied, "masked_spec_embed")
    actual = HuggingFaceAudio(model=str(copied), pooling="none")
    actual.load()
    check_close(encoded(actual, sounds()[0])[0], encoded(make(checkpoints, "wav2vec2_layer"), sounds()[0])[0])


def test_a_checkpoint_that_lacks_weights_is_refused(copied: Path) -> None:
    without_weight(copied, "layers.1.attention")
    with pytest.raises(UserError, match=r"expected all weights .*layers\.1\.attention"):
        HuggingFaceAudio(model=str(copied)).load()


def test_a_checkpoint_without_an_extractor_is_refused(checkpoints: TinyCheckpoints, copied: Path) -> None:
    (copied / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="copy"):
        HuggingFaceAudio(model=str(copied)).load()


def test_a_model_of_something_else_is_refused(checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints["bert"], tmp_path / "words"))
    shutil.copy(checkpoints["wav2vec2_group"] / "preprocessor_config.json", folder)
    with pytest.raises(UserError, match=r"expected a model that reads waveforms .*got 'bert'"):
        HuggingFaceAudio(model=str(folder)).load()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(checkpoints: TinyCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model in the local cache of a hub that is out of reach."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub" / "models--lab--speech"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(checkpoints["wavlm_layer"], folder / "snapshots" / COMMIT))


def test_a_cached_model_needs_no_network(checkpoints: TinyCheckpoints, cached: Path) -> None:
    encoder = HuggingFaceAudio(model="lab/speech", layer="all", pooling="none")
    assert [spec["revision"] for spec in encoder.specs()] == [COMMIT] * (LAYERS + 1)
    encoder.load()
    check_close(
        encoded(encoder, sounds()[0])[0], encoded(make(checkpoints, "wavlm_layer", layer="all"), sounds()[0])[0]
    )


def test_an_extractor_that_is_missing_in_the_cache_is_requested_from_the_hub(cached: Path) -> None:
    (cached / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"'lab/speech' cannot be loaded: .*huggingface\.co|lab/speech") as refusal:
        HuggingFaceAudio(model="lab/speech").load()
    assert str(cached) not in str(refusal.value)  # the hub was asked, not the folder


@pytest.mark.parametrize(("window", "versions"), [("padded", [1, 1, 2, 1]), ("clip", [1, 1, 1, 1])])
def test_stored_states_of_whispers_last_layer_have_a_version_of_their_own(
    checkpoints: TinyCheckpoints, window: str, versions: list[int]
) -> None:
    encoder = HuggingFaceAudio(model=str(checkpoints["whisper"]), layer=[0, 1, LAYERS, -1], window=window)
    assert [spec["version"] for spec in encoder.specs()] == versions
