"""Pretrained encoders that train: what they compute, and that all of it that trains gets a gradient."""

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emorec.config.instantiation import instantiate
from emorec.encoders.encoder import Encoder
from emorec.encoders.trained import TrainedPart
from emorec.encoders.waveform import sixteen_bit
from emorec.errors import UserError
from emorec.media.source import Source
from tests.encoders.conftest import DISTINCT, is_pretrained, settings_of, voice
from tests.encoders.tiny_checkpoints import LAYERS, TinyCheckpoints

pytestmark = pytest.mark.slow

Media = dict[str, dict[str, Source]]  # {modality: {id: source}}
PRETRAINED = [choice for choice in DISTINCT if is_pretrained(choice)]
STACKED = [choice for choice in PRETRAINED if "efficientnet" not in choice]  # networks of layers
ONE_OF_A_FAMILY = ("bert_base_chinese", "wav2vec2_base", "wavlm_large", "whisper_base", "vit_base", "videomae_base")
TRANSFORMER_TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


def trained(choice: str, checkpoints: TinyCheckpoints, **changes: Any) -> Encoder:
    changes.setdefault("layer", -1)
    if "whisper" in choice:
        changes.setdefault("window", "clip")
    settings = settings_of(choice, checkpoints, **{"training": "full", "dtype": "float32", **changes})
    return instantiate(settings, where=f"encoder.{choice.partition('/')[0]}", kind=Encoder)


def media_of(choice: str, media: Media) -> list[Source]:
    return list(media[choice.partition("/")[0]].values())


def stored_batch(encoder: Encoder, sources: Sequence[Source]) -> tuple[Tensor, Tensor]:
    """What the store would keep of some sources, as a batch: values (B, T, I) and mask (B, T)."""
    stored = encoder.stored()
    stored.load()
    stored.eval()
    rows = []
    with torch.no_grad():
        for source in sources:
            values, mask = stored.encode(stored.collate([stored.read(source)]))
            rows.append(values[0][mask[0]])
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def features(part: TrainedPart, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    values, mask = batch
    encoded: tuple[Tensor, Tensor] = part(values, mask, mask[:, 0])
    return encoded


@pytest.mark.parametrize("pooling", ["mean", "none"])
@pytest.mark.parametrize("choice", STACKED)
def test_a_cut_network_computes_what_the_uncut_one_does(
    choice: str, pooling: str, checkpoints: TinyCheckpoints, media: Media
) -> None:
    sources = media_of(choice, media)[:3]
    whole = trained(choice, checkpoints, pooling=pooling)
    expected, expected_mask = features(whole.trained().eval(), stored_batch(whole, sources))
    cut = trained(choice, checkpoints, pooling=pooling, train_from=1)
    actual, mask = features(cut.trained().eval(), stored_batch(cut, sources))
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(actual, expected, **TRANSFORMER_TOLERANCE)


def losses_of(part: TrainedPart, batch: tuple[Tensor, Tensor], names: Sequence[str]) -> list[float]:
    """The losses of 20 steps without dropout, for which the mode of evaluation is enough, of the named parameters."""
    own = dict(part.named_parameters())
    optimizer = torch.optim.AdamW([own[name] for name in names], lr=1e-3)
    target = torch.linspace(-1, 1, part.dim)
    losses = []
    for _ in range(20):
        loss = (features(part.eval(), batch)[0][:, 0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("training", ["full", "lora"])
@pytest.mark.parametrize("choice", [choice for choice in STACKED if choice.partition("/")[2] in ONE_OF_A_FAMILY])
def test_a_cut_network_learns_what_the_uncut_one_does(
    choice: str, training: str, checkpoints: TinyCheckpoints, media: Media
) -> None:
    sources = media_of(choice, media)[:3]
    cut, whole = (trained(choice, checkpoints, training=training, train_from=first) for first in (1, 0))
    upper, uncut = cut.trained(), whole.trained()
    deepest = max(upper.depth(name) for name, _ in upper.trained())
    chosen = [name for name, _ in uncut.trained() if uncut.depth(name) <= deepest]
    same = dict(upper.trained())
    assert len(chosen) == len(same) < len(list(uncut.trained()))
    with torch.no_grad():  # adapters begin with other random numbers
        for name, (_, parameter) in zip(chosen, upper.trained(), strict=True):
            dict(uncut.named_parameters())[name].copy_(parameter)
    expected = losses_of(uncut, stored_batch(whole, sources), chosen)
    actual = losses_of(upper, stored_batch(cut, sources), list(same))
    assert actual == pytest.approx(expected, rel=1e-4)
    assert actual[-1] < 0.98 * actual[0]


@pytest.mark.parametrize("choice", PRETRAINED)
def test_before_training_an_encoder_computes_what_the_frozen_one_does(
    choice: str, checkpoints: TinyCheckpoints, media: Media
) -> None:
    sources = media_of(choice, media)[:3]
    changes: dict[str, Any] = {"window": "padded", "layer": -1} if "whisper" in choice else {}
    encoder = trained(choice, checkpoints, **changes)
    actual, _ = features(encoder.trained().eval(), stored_batch(encoder, sources))
    frozen = trained(choice, checkpoints, training="frozen", **changes)
    frozen.load()
    frozen.eval()
    with torch.no_grad():
        expected = torch.cat([frozen.encode(frozen.collate([frozen.read(source)]))[0] for source in sources])
    scale = float(expected.std())
    torch.testing.assert_close(actual, expected, atol=0.01 * scale, rtol=0.01)  # sound is rounded to 16 bits


@pytest.mark.parametrize("choice", PRETRAINED)
def test_batch_mates_do_not_change_features(choice: str, checkpoints: TinyCheckpoints, media: Media) -> None:
    sources = media_of(choice, media)
    encoder = trained(choice, checkpoints)
    part = encoder.trained().eval()
    values, mask = stored_batch(encoder, sources)
    together, _ = features(part, (values, mask))
    missing = mask[:, 0].clone()
    missing[1] = False
    without, without_mask = part(values, mask, missing)
    assert not without[1].any()
    assert not without_mask[1].any()
    for row in (0, 2):
        length = int(mask[row].sum())
        alone, _ = features(part, (values[row : row + 1, :length], mask[row : row + 1, :length]))
        torch.testing.assert_close(together[row], alone[0], **TRANSFORMER_TOLERANCE)
        torch.testing.assert_close(without[row], alone[0], **TRANSFORMER_TOLERANCE)


@pytest.mark.parametrize("train_from", [0, 1])
@pytest.mark.parametrize("choice", STACKED)
def test_every_adapter_gets_a_gradient(
    choice: str, train_from: int, checkpoints: TinyCheckpoints, media: Media
) -> None:
    encoder = trained(choice, checkpoints, training="lora", train_from=train_from)
    part = encoder.trained().train()
    features(part, stored_batch(encoder, media_of(choice, media)[:2]))[0].square().sum().backward()
    adapters = {name: parameter for name, parameter in part.named_parameters() if "lora_B" in name}
    assert len(adapters) >= LAYERS - train_from
    assert [name for name, item in adapters.items() if item.grad is None or not item.grad.any()] == []
    assert [name for name, _ in part.trained() if "lora_" not in name] == []


@pytest.mark.parametrize("train_from", [0, 1])
@pytest.mark.parametrize("choice", STACKED)
def test_everything_that_trains_gets_a_gradient(
    choice: str, train_from: int, checkpoints: TinyCheckpoints, media: Media
) -> None:
    encoder = trained(choice, checkpoints, train_from=train_from)
    part = encoder.trained().train()
    features(part, stored_batch(encoder, media_of(choice, media)[:2]))[0].square().sum().backward()
    assert [name for name, item in part.trained() if item.grad is None] == []


@pytest.mark.parametrize("train_from", [0, 1])
def test_all_layers_are_those_that_train(train_from: int, checkpoints: TinyCheckpoints) -> None:
    encoder = trained("text/minilm", checkpoints, layer="all", train_from=train_from)
    assert encoder.layers == tuple(range(train_from + 1, LAYERS + 1))
    part = encoder.trained()
    assert part is not None
    assert part.layer_count == LAYERS - train_from


def test_weights_that_do_not_train_are_not_in_the_state(checkpoints: TinyCheckpoints) -> None:
    part = trained("text/minilm", checkpoints, training="lora").trained()
    state = part.state_dict()
    assert state
    assert all("lora_" in name for name in state)
    other = trained("text/minilm", checkpoints, training="lora").trained()
    changed = {name: torch.randn_like(value) for name, value in state.items()}
    other.load_state_dict(changed, strict=True)
    assert all(torch.equal(value, changed[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_from": LAYERS}, f"train_from from 0 to {LAYERS - 1}"),
        ({"training": "lora", "lora": {"targets": ["nowhere"]}}, "lora.targets among the linear layers"),
        ({"training": "frozen", "train_from": 1}, "train_from=0 with training=frozen"),
        ({"train_from": 1, "layer": [0, 1, -1]}, "layer above train_from=1"),
        ({"training": "lora", "train_front": True}, "train_front=false with training=lora"),
        ({"train_from": 1, "train_front": True}, "train_front=false with train_from=1"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(
    changes: dict[str, Any], message: str, checkpoints: TinyCheckpoints
) -> None:
    with pytest.raises(UserError, match=message):
        trained("text/minilm", checkpoints, **changes).trained()


@pytest.mark.parametrize("choice", STACKED)
def test_nothing_trains_that_a_lower_layer_does_not_use(
    choice: str, checkpoints: TinyCheckpoints, media: Media
) -> None:
    encoder = trained(choice, checkpoints, layer=LAYERS)
    part = encoder.trained().train()
    features(part, stored_batch(encoder, media_of(choice, media)[:2]))[0].square().sum().backward()
    assert [name for name, item in part.trained() if item.grad is None] == []


@pytest.mark.parametrize("choice", STACKED)
def test_several_layers_are_those_of_the_frozen_network(
    choice: str, checkpoints: TinyCheckpoints, media: Media
) -> None:
    sources = media_of(choice, media)[:1]
    changes: dict[str, Any] = {"layer": [LAYERS, -1], "pooling": "mean"}
    if "whisper" in choice:
        changes["window"] = "padded"
    encoder = trained(choice, checkpoints, **changes)
    actual, _ = features(encoder.trained().eval(), stored_batch(encoder, sources))
    frozen = trained(choice, checkpoints, training="frozen", **changes)
    frozen.load()
    frozen.eval()
    with torch.no_grad():
        expected, _ = frozen.encode(frozen.collate([frozen.read(sources[0])]))
    scale = float(expected.std())
    torch.testing.assert_close(actual, expected, atol=0.01 * scale, rtol=0.01)


def test_long_sound_is_standardised_before_it_is_cut_into_windows(checkpoints: TinyCheckpoints) -> None:
    changes: dict[str, Any] = {"max_seconds": 0.5, "pooling": "none"}
    encoder = trained("audio/wav2vec2_large_robust", checkpoints, **changes)
    loud = voice(0.9, 140, 0)
    loud[: len(loud) // 2] *= 0.3  # the windows differ in level
    values = torch.from_numpy(sixteen_bit(loud))[None]
    actual, _ = features(encoder.trained().eval(), (values, torch.ones(values.shape[:2], dtype=torch.bool)))
    frozen = trained("audio/wav2vec2_large_robust", checkpoints, training="frozen", **changes)
    frozen.load()
    frozen.eval()
    with torch.no_grad():
        expected, _ = frozen.encode(frozen.collate([loud]))
    assert (actual - expected).abs().mean() < 0.01 * expected.std()  # sound is rounded to 16 bits


def test_windows_of_log_mel_bands_are_those_of_the_sound(checkpoints: TinyCheckpoints) -> None:
    """0.5003 s are 50.03 hops: the last frame of a window is begun, and belongs to it."""
    encoder = trained("audio/whisper_base", checkpoints, max_seconds=0.5003)
    encoder.load()
    rows = encoder.bands_of(voice(0.5003, 140, 0))
    part = encoder.trained()
    assert part is not None
    assert part.longest == len(rows)


def test_the_longest_window_identifies_stored_log_mel_bands(checkpoints: TinyCheckpoints) -> None:
    specs = [trained("audio/whisper_base", checkpoints, max_seconds=seconds).stored().spec() for seconds in (5.0, 10.0)]
    assert specs[0] != specs[1]


def test_one_thread_at_a_time_uses_a_tokenizer(checkpoints: TinyCheckpoints) -> None:
    """A fast tokenizer refuses to be set up by one thread while another uses it."""
    encoder = trained("text/minilm", checkpoints)
    encoder.load()
    tokenizer, using, most = encoder._tokenizer, [0], [0]

    def watched(*texts: str, **options: Any) -> Any:
        using[0] += 1
        most[0] = max(most[0], using[0])
        time.sleep(0.002)
        tokens = tokenizer(*texts, **options)
        using[0] -= 1
        return tokens

    encoder._tokenizer = watched
    stored = encoder.stored()
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(stored.read, [Source(modality="text", text="i am happy")] * 12))
    assert len(rows) == 12
    assert most == [1]


@pytest.mark.parametrize(("train_from", "expected"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("choice", ["text/minilm", "audio/wav2vec2_base", "audio/whisper_base", "video/vit_base"])
def test_a_network_is_loaded_once_for_each_side_of_the_cut(
    *,
    choice: str,
    train_from: int,
    expected: int,
    checkpoints: TinyCheckpoints,
    media: Media,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = trained(choice, checkpoints, train_from=train_from)
    loaded, load = [], encoder._load_network
    monkeypatch.setattr(encoder, "_load_network", lambda: loaded.append(choice) or load())
    assert encoder.trained() is not None
    stored_batch(encoder, media_of(choice, media)[:1])
    assert len(loaded) == expected


def test_a_checkpoint_of_half_precision_trains_in_float32(checkpoints: TinyCheckpoints, tmp_path: Path) -> None:
    from transformers import AutoModel

    shutil.copytree(checkpoints["bert"], tmp_path / "half")
    AutoModel.from_pretrained(checkpoints["bert"]).half().save_pretrained(tmp_path / "half")
    part = trained("text/minilm", checkpoints, model=str(tmp_path / "half")).trained()
    assert part is not None
    assert {item.dtype for item in part.parameters()} == {torch.float32}
    frozen = [
        trained("text/minilm", checkpoints, model=str(folder), training="frozen").spec()["processor"]
        for folder in (checkpoints["bert"], tmp_path / "half")
    ]
    assert frozen[1] == {**frozen[0], "weights": "float32"}  # not the features of half precision


def test_no_bar_is_drawn_of_weights(checkpoints: TinyCheckpoints, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    was_drawn = logging.is_progress_bar_enabled()
    trained("text/minilm", checkpoints).trained()
    assert capfd.readouterr().err == ""
    assert logging.is_progress_bar_enabled() == was_drawn


def test_rates_fall_from_the_output_down(checkpoints: TinyCheckpoints) -> None:
    """What follows the layers has the encoder's rate, the uppermost layer that times the decay, and so on."""
    part = trained("audio/wav2vec2_large_robust", checkpoints).trained()
    assert part is not None
    layers = "stack.network.encoder.layers"
    depths = {name: part.depth(name) for name, _ in part.trained()}
    assert depths["stack.network.encoder.layer_norm.weight"] == 0
    for number in range(LAYERS):
        assert {depth for name, depth in depths.items() if name.startswith(f"{layers}.{number}.")} == {LAYERS - number}
    assert depths["stack.network.feature_projection.projection.weight"] == LAYERS + 1


def test_whispers_sinusoidal_positions_stay(checkpoints: TinyCheckpoints) -> None:
    part = trained("audio/whisper_base", checkpoints).trained()
    assert part is not None
    assert not [name for name, _ in part.trained() if "positions" in name]


@pytest.mark.parametrize("train_from", [0, 1])
@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_texts_of_near_equal_length_are_computed_together(
    train_from: int, pooling: str, checkpoints: TinyCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = trained("text/minilm", checkpoints, train_from=train_from, pooling=pooling)
    texts = [" ".join(["word"] * (1 + 7 * number % 40)) for number in range(40)]
    batch = stored_batch(encoder, [Source(modality="text", text=text) for text in texts])
    part, results, sizes = encoder.trained().eval(), [], []
    part.stack.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2].numel()))
    for group in (len(texts), 16):
        monkeypatch.setattr("emorec.encoders.text_part.GROUP", group)
        sizes.clear()
        part.zero_grad()
        values, mask = features(part, batch)
        values.square().sum().backward()
        gradients = {name: item.grad.clone() for name, item in part.trained() if item.grad is not None}
        results.append((values.detach(), mask, gradients, sum(sizes)))
    (values, mask, gradients, whole), (grouped, grouped_mask, grouped_gradients, less) = results
    assert torch.equal(mask, grouped_mask)
    torch.testing.assert_close(grouped, values, **TRANSFORMER_TOLERANCE)
    torch.testing.assert_close(grouped_gradients, gradients, rtol=1e-3, atol=1e-5)
    assert less < 0.9 * whole
