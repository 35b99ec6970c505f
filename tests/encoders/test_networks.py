"""Networks without pretrained weights, found by their YAMLs: what they compute, and that all of it learns."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from emorec.config.instantiation import instantiate
from emorec.config.schema import ExtractionConfig, FeaturesConfig
from emorec.encoders.convolutions import ConvolutionBlock
from emorec.encoders.encoder import Encoder
from emorec.encoders.networks import NetworkEncoder, NetworkPart
from emorec.encoders.pixels import Pixels
from emorec.encoders.vocabulary import UNKNOWN, WordNumbers, packed_words, tokens_of, unpacked_words
from emorec.errors import UserError
from emorec.features.extraction import extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.media.source import Source
from emorec.media.video import VideoSettings
from emorec.storage.digests import FileDigests
from tests.encoders.conftest import NETWORKS, encoder_node, instantiated

pytestmark = pytest.mark.slow

Media = dict[str, dict[str, Source]]  # {modality: {id: source}}
SMALL_PIXELS = {"frames": 6, "size": 24}
LARGEST = 1_200_000  # parameters of a network of sound
ATTENDED = [
    (choice, kind) for choice in NETWORKS if "attention" in encoder_node(choice) for kind in ("none", "se", "cbam")
]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def network(choice: str, media: Media, **changes: Any) -> NetworkEncoder:
    """The encoder of a YAML, with small pictures; its state, if it has one, is learned from the media."""
    settings = dict(encoder_node(choice))
    modality = choice.partition("/")[0]
    if modality == "video":
        settings["media"] = {**settings["media"], **SMALL_PIXELS}
    encoder = instantiate({**settings, **changes}, where=f"encoder.{modality}", kind=NetworkEncoder)
    if encoder.needs_fit:
        encoder.fit(list(media[modality].values()))
    return encoder


def part_of(encoder: NetworkEncoder, seed: int = 0) -> NetworkPart:
    torch.manual_seed(seed)
    return encoder.trained()


def row(encoder: Encoder, source: Source) -> Tensor:
    """What the store would keep of a source, (T, I)."""
    encoder.load()
    values, mask = encoder.encode(encoder.collate([encoder.read(source)]))
    return values[0][mask[0]]


def batch_of(rows: Sequence[Tensor], junk: float = 0.0) -> tuple[Tensor, Tensor]:
    """Values (B, T, I) and mask (B, T) of rows (T, I), with padding that is `junk`."""
    lengths = torch.tensor([len(item) for item in rows])
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=junk)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def batch(encoder: NetworkEncoder, media: Media) -> tuple[Tensor, Tensor]:
    """A batch of all media of the encoder, of different lengths, frames of a video as well."""
    rows = [row(encoder.stored(), source) for source in media[encoder.modality].values()]
    if encoder.modality == "video":
        rows = [item[: len(item) - number] for number, item in enumerate(rows)]
    return batch_of(rows)


def apply(part: NetworkPart, values: Tensor, mask: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    features, frames = part(values, mask, mask[:, 0] if present is None else present)
    assert features.shape == (*frames.shape, part.dim)
    return features, frames


def shaken(part: NetworkPart) -> NetworkPart:
    """The part in evaluation, with statistics as after some training."""
    for name, buffer in part.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return part.eval()


@pytest.mark.parametrize("choice", NETWORKS)
def test_features_are_finite_and_zero_after_the_end(choice: str, media: Media) -> None:
    encoder = network(choice, media)
    features, frames = apply(part_of(encoder).eval(), *batch(encoder, media))
    assert features.isfinite().all()
    assert frames.any(1).all()
    assert (features[~frames] == 0).all()
    assert torch.pdist(features.sum(1)).min() > 1e-4  # different inputs, different features


@pytest.mark.parametrize(("choice", "attention"), [*((name, None) for name in NETWORKS), *ATTENDED])
def test_padding_and_batch_mates_change_nothing(choice: str, attention: str | None, media: Media) -> None:
    encoder = network(choice, media, **({} if attention is None else {"attention": attention}))
    part = shaken(part_of(encoder))
    values, mask = batch(encoder, media)
    together, frames = apply(part, values, mask)
    longest = int(mask.sum(1).argmax())
    for index in range(len(values)):
        own = values[index][mask[index]]
        alone, alone_frames = apply(part, *batch_of([own]))
        assert int(frames[index].sum()) == int(alone_frames.sum())
        torch.testing.assert_close(together[index][frames[index]], alone[0], **CLOSE)
        padded, padded_frames = apply(part, *batch_of([own, values[longest][mask[longest]]], junk=1))
        torch.testing.assert_close(padded[0][padded_frames[0]], alone[0], **CLOSE)


@pytest.mark.parametrize("choice", NETWORKS)
def test_padding_changes_nothing_in_training_but_for_dropout(choice: str, media: Media) -> None:
    """Statistics of batches leave padding out as well."""
    off = {name: 0.0 for name in ("dropout", "unknown") if name in encoder_node(choice)}
    encoder = network(choice, media, **off)
    values, mask = batch(encoder, media)
    lengths = mask.sum(1)
    first, second = part_of(encoder).train(), part_of(encoder).train()
    expected, counts = first.frames(values, lengths)
    actual, more_counts = second.frames(torch.nn.functional.pad(values, (0, 0, 0, 40)), lengths)
    assert torch.equal(counts, more_counts)
    for index, count in enumerate(counts.tolist()):
        torch.testing.assert_close(actual[index, :count], expected[index, :count], **CLOSE)
    for buffer, other in zip(first.buffers(), second.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, **CLOSE)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("choice", NETWORKS)
def test_missing_utterances_are_zero_and_change_nothing(choice: str, is_training: bool, media: Media) -> None:
    off = {name: 0.0 for name in ("dropout", "unknown") if name in encoder_node(choice)}
    encoder = network(choice, media, **off)
    part = part_of(encoder).train(is_training)
    values, mask = batch(encoder, media)
    present = torch.ones(len(values), dtype=torch.bool)
    present[1] = False
    features, frames = apply(part, values, mask, present)
    assert not features[1].any()
    assert not frames[1].any()
    others, other_frames = apply(part, values[present], mask[present])
    torch.testing.assert_close(features[present][frames[present]], others[other_frames], **CLOSE)
    nothing, no_frames = apply(part, values, mask, torch.zeros_like(present))
    assert not nothing.any()
    assert not no_frames.any()
    assert all(value.isfinite().all() for value in part.state_dict().values())


@pytest.mark.parametrize(("choice", "attention"), [*((name, None) for name in NETWORKS), *ATTENDED])
def test_every_parameter_gets_a_gradient(choice: str, attention: str | None, media: Media) -> None:
    encoder = network(choice, media, **({} if attention is None else {"attention": attention}))
    part = part_of(encoder).train()
    features, _ = apply(part, *batch(encoder, media))
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (features * weights).sum().backward()
    assert [name for name, item in part.named_parameters() if item.grad is None or not item.grad.any()] == []


@pytest.mark.parametrize("choice", NETWORKS)
def test_one_short_utterance_can_be_trained_on(choice: str, media: Media) -> None:
    encoder = network(choice, media)
    part = part_of(encoder).train()
    shortest = row(encoder.stored(), media[encoder.modality]["u0"])[:1]
    features, _ = apply(part, *batch_of([shortest]))
    features.sum().backward()
    assert features.isfinite().all()
    assert all(item.grad is None or item.grad.isfinite().all() for item in part.parameters())


@pytest.mark.parametrize("choice", NETWORKS)
def test_a_seed_determines_weights_and_training(choice: str, media: Media) -> None:
    encoder = network(choice, media)
    values, mask = batch(encoder, media)

    def trained(seed: int) -> dict[str, Tensor]:
        part = part_of(encoder, seed).train()
        optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            apply(part, values, mask)[0].square().mean().backward()
            optimizer.step()
        return part.state_dict()

    first, second, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("choice", NETWORKS)
def test_networks_of_sound_are_small(choice: str, media: Media) -> None:
    encoder = instantiate(encoder_node(choice), where="encoder", kind=NetworkEncoder)
    encoder.fit(list(media[encoder.modality].values()))
    count = sum(item.numel() for item in encoder.trained().parameters())
    print(f"{choice}: {count:,} parameters")
    assert 0 < count < (LARGEST if encoder.modality == "audio" else 2 * LARGEST)


@pytest.mark.parametrize("choice", NETWORKS)
def test_frozen_networks_are_refused(choice: str) -> None:
    with pytest.raises(UserError, match=r"expected encoder\.\w+\.training=full for \w+, got 'frozen'"):
        instantiate({**encoder_node(choice), "training": "frozen"}, where="encoder", kind=Encoder)


@pytest.mark.parametrize("choice", NETWORKS)
def test_the_store_keeps_what_the_network_reads(choice: str, media: Media, tmp_path: Any) -> None:
    encoder = network(choice, media)
    sources = media[encoder.modality]
    below = encoder.stored()
    spec = FeatureSpec(**below.spec())
    assert spec == FeatureSpec(**network(choice, media).stored().spec())
    store = FeatureStore(tmp_path, spec, FileDigests())
    report = extract(store, below, sources, ExtractionConfig(batch_size=3, progress=False, device="cpu"))
    assert report.computed == len(sources)
    reader = store.reader([report.keys[name] for name in sources], FeaturesConfig(preload="none"))
    for index, source in enumerate(sources.values()):
        values, mask = reader.gather(torch.tensor([index]))
        expected = row(below, source)
        if below.dtype == "float16":
            expected = expected.half()
        assert values.dtype == expected.dtype
        assert torch.equal(values[0][mask[0]], expected)


def test_views_of_sound_and_pictures_are_stored_for_networks(media: Media) -> None:
    for choice in ("audio/crnn", "video/frame_cnn_lstm"):
        encoder = network(choice, media, views=2)
        encoder.check_views()
        assert encoder.stored().views == 2
    with pytest.raises(UserError, match=r"encoder\.text\.views=0"):
        network("text/bilstm_attention", media, views=2).check_views()


def test_frames_are_kept_as_they_are(media: Media) -> None:
    """The first pixels of a stored frame are those of its first row."""
    source = media["video"]["u0"]
    encoder = instantiated(Pixels, media=VideoSettings(frames=3, size=16))
    stored = row(encoder, source)
    assert stored.dtype == torch.uint8
    assert stored.shape == (3, 16 * 16 * 3)
    digests = {
        FeatureSpec(**Pixels(media=VideoSettings(frames=frames, size=size)).spec()).digest
        for frames, size in ((3, 16), (4, 16), (3, 32))
    }
    assert len(digests) == 3


@pytest.fixture
def numbers() -> Callable[..., WordNumbers]:
    def learned(*texts: str, **options: Any) -> WordNumbers:
        encoder = instantiated(WordNumbers, **options)
        encoder.fit([Source(modality="text", text=text) for text in texts])
        return encoder

    return learned


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Well, I’m NOT so sure!", ["well", ",", "i'm", "not", "so", "sure", "!"]),
        ("rock'n'roll 'quoted' 2026", ["rock'n'roll", "'", "quoted", "'", "2026"]),
        ("我很高兴。", ["我", "很", "高", "兴", "。"]),
        ("Straße naïve 😀", ["straße", "naïve", "😀"]),
    ],
)
def test_texts_are_cut_into_words_and_marks(text: str, tokens: list[str]) -> None:
    assert tokens_of(text) == tokens


def test_the_vocabulary_holds_frequent_words_of_what_it_is_fitted_on(numbers: Callable[..., WordNumbers]) -> None:
    encoder = numbers("a b b c c c", "c d d", "   ")  # the last text has no words
    assert encoder.words == ("c", "b", "d")
    assert row(encoder, Source(modality="text", text="c a D never")).flatten().tolist() == [2, UNKNOWN, 4, UNKNOWN]
    assert numbers("a b", minimum_count=1, max_length=3).dim == 1
    assert len(row(numbers("a b", max_length=3), Source(modality="text", text="a b a b"))) == 3


def test_the_vocabulary_counts_in_the_identity_of_what_is_stored(numbers: Callable[..., WordNumbers]) -> None:
    same = numbers("a a b b"), numbers("b b", "a a")
    assert same[0].spec() == same[1].spec()
    others = numbers("a a b"), numbers("a a b b", max_length=5)
    assert len({FeatureSpec(**encoder.spec()).digest for encoder in (same[0], *others)}) == 3
    assert numbers().state is not None
    assert instantiated(WordNumbers).state is None


@pytest.mark.parametrize("words", [(), ("a",), ("我", "i'm", "😀")])
def test_a_run_keeps_the_vocabulary_beside_its_weights(words: tuple[str, ...]) -> None:
    assert unpacked_words(packed_words(words)) == words


def test_an_encoder_takes_the_vocabulary_of_a_run(media: Media) -> None:
    encoder = network("text/bilstm_attention", media)
    weights = encoder.trained().state_dict()
    other = instantiate(encoder_node("text/bilstm_attention"), where="encoder.text", kind=NetworkEncoder)
    assert other.needs_fit
    with pytest.raises(UserError, match=r"expected the vocabulary of encoder\.text"):
        other.restore({})
    other.restore(weights)
    assert not other.needs_fit
    assert other.state == encoder.state
    assert other.stored().spec() == encoder.stored().spec()


def test_unknown_words_are_learned_in_training_alone(media: Media) -> None:
    encoder = network("text/bilstm_attention", media, dropout=0.0, unknown=0.5)
    part = part_of(encoder)
    known = torch.full((4, 30, 1), 2)
    mask = torch.ones(4, 30, dtype=torch.bool)
    assert torch.equal(*(apply(part.eval(), known, mask)[0] for _ in range(2)))
    part.train()
    assert not torch.equal(*(apply(part, known, mask)[0] for _ in range(2)))


def test_a_transformer_tells_positions_apart(media: Media) -> None:
    encoder = network("audio/spectrogram_transformer", media, pooling="none")
    frames, _ = apply(part_of(encoder).eval(), *batch_of([torch.ones(100, encoder.bands)]))  # type: ignore[attr-defined]
    inner = frames[0, 3:-3]  # which the borders do not reach through the convolutions
    assert torch.pdist(inner).min() > 1e-3


def test_the_width_of_a_transformer_fits_its_heads(media: Media) -> None:
    with pytest.raises(UserError, match=r"width to be a multiple of 2 · heads=8, got 142"):
        network("audio/spectrogram_transformer", media, width=142)


@pytest.mark.parametrize("pool", [(2, 2), (1, 2), (2, 2, 2), (3, 1, 2)])
def test_blocks_divide_lengths_and_round_up(pool: tuple[int, ...]) -> None:
    block = ConvolutionBlock(2, 4, pool=pool, attention="cbam").eval()
    sizes = (7, 5, 6)[: len(pool)]
    values, lengths = torch.randn(3, 2, *sizes), torch.tensor([7, 1, 4])
    output, steps = block(values, lengths)
    assert output.shape == (3, 4, *(-(-size // step) for size, step in zip(sizes, pool, strict=True)))
    assert steps.tolist() == [-(-length // pool[0]) for length in (7, 1, 4)]
    assert not output[1, :, 1:].any()


def test_pictures_are_read_upright(media: Media) -> None:
    """Frames in another order of bytes would give other features."""
    encoder = network("video/frame_cnn_lstm", media)
    part = part_of(encoder).eval()
    values, mask = batch(encoder, media)
    side = SMALL_PIXELS["size"]
    turned = values.view(*values.shape[:2], side, side, 3).transpose(2, 3).reshape(values.shape)
    assert not torch.allclose(apply(part, values, mask)[0], apply(part, turned, mask)[0], **CLOSE)


def test_faces_are_counted_for_networks_of_pixels(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emorec.media.video.find_face", lambda *_: None)
    encoder = network("video/conv3d_lstm", media)
    below = encoder.stored()
    below.media = replace(below.media, faces="haar")  # type: ignore[type-var]
    below.read(media["video"]["u0"])
    assert below.face_misses is not None
    assert below.face_misses.take() == 1


@pytest.mark.parametrize("choice", NETWORKS)
def test_numbers_of_words_are_never_mixed(choice: str, media: Media) -> None:
    encoder = network(choice, media)
    assert part_of(encoder).reads_ids == (encoder.stored().dtype == "int32")


@pytest.mark.parametrize("choice", [choice for choice in NETWORKS if not choice.startswith("text")])
def test_a_rank_without_values_computes_gradients_in_the_order_of_the_others(
    choice: str, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def summed(value: Tensor) -> Tensor:
        events.append("sum over ranks")
        return value

    monkeypatch.setattr("emorec.encoders.masked_norm._over_ranks", summed)
    encoder = network(choice, media)
    part = part_of(encoder).train()
    for name, parameter in part.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: events.append(name))
    values, mask = batch(encoder, media)
    orders = []
    for present in (mask[:, 0], torch.zeros_like(mask[:, 0])):
        features, _ = apply(part, values, mask, present)
        forward = len(events)
        features.sum().backward()
        stretches: list[set[str]] = [set()]  # of parameters between two sums
        for event in events[forward:]:
            if event == "sum over ranks":
                stretches.append(set())
            else:
                stretches[-1].add(event)
        orders.append((forward, stretches))
        events.clear()
    assert orders[0] == orders[1]


def test_stored_waveforms_have_no_views(media: Media) -> None:
    with pytest.raises(UserError, match=r"encoder\.audio\.views=0 with inputs=waveform, got 2"):
        network("audio/crnn", media, inputs="waveform", views=2)
