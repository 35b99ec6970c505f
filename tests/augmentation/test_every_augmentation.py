"""What an utterance becomes depends on its draw alone, and stays usable however short it is."""

import pytest
import torch
from torch import Tensor

from emorec.augmentation.frames import FrameAugmentation
from emorec.augmentation.sound import SoundAugmentation
from emorec.augmentation.spectrogram import SpectrogramAugmentation
from emorec.augmentation.tokens import TokenAugmentation
from emorec.augmentation.waveform import WaveformAugmentation
from emorec.config.validation import validated
from emorec.errors import UserError
from tests.augmentation.conftest import EVERYTHING, MAKE, RATE, draws, padded

KINDS = list(EVERYTHING)
LENGTHS = (50, 31, 80, 12, 67)


def rows_of(kind: str, lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    torch.manual_seed(1)
    return [MAKE[kind](length) for length in lengths]


def varied(kind: str, rows: list[Tensor], draw: Tensor) -> list[Tensor]:
    values, lengths = EVERYTHING[kind](*padded(rows), draw)
    return [row[:length] for row, length in zip(values, lengths.tolist(), strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_utterance_is_augmented_alike_whatever_its_batch_mates_and_their_order(kind: str) -> None:
    rows, draw = rows_of(kind), draws(len(LENGTHS))
    expected = varied(kind, rows, draw)
    order = [4, 1, 3, 0, 2]
    shuffled = varied(kind, [rows[index] for index in order], draw[order])
    alone = [varied(kind, [row], draw[index : index + 1])[0] for index, row in enumerate(rows)]
    for index, row in enumerate(expected):
        for other in (shuffled[order.index(index)], alone[index]):
            torch.testing.assert_close(other, row, atol=1e-5 * float(row.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_draws_give_the_same_bits_and_another_epoch_others(kind: str) -> None:
    rows = rows_of(kind)
    first, again, later = (varied(kind, rows, draws(len(rows), epoch)) for epoch in (0, 0, 1))
    for row, same, other in zip(first, again, later, strict=True):
        assert torch.equal(row, same)
        assert row.shape != other.shape or not torch.equal(row, other)


@pytest.mark.parametrize("kind", KINDS)
def test_global_generators_are_neither_read_nor_advanced(kind: str) -> None:
    rows = rows_of(kind)
    state = torch.random.get_rng_state()
    varied(kind, rows, draws(len(rows)))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_all_is_zero_after_the_end(kind: str) -> None:
    rows = rows_of(kind)
    values, lengths = EVERYTHING[kind](*padded(rows), draws(len(rows)))
    assert int(lengths.max()) <= values.shape[1]
    assert values.shape[2] == rows[0].shape[1]
    for row, length in zip(values, lengths.tolist(), strict=True):
        assert row[:length].any()
        assert not row[length:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_inputs_stay_finite(kind: str) -> None:
    rows = [row[:1] for row in rows_of(kind)] + rows_of(kind, (1, 2, 3))
    for epoch in range(20):
        values, lengths = EVERYTHING[kind](*padded(rows), draws(len(rows), epoch))
        assert values.isfinite().all()
        assert (lengths >= 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_change_nothing_return_the_inputs(kind: str) -> None:
    off = {
        "waveform": lambda *inputs: WaveformAugmentation().vary(*inputs, rate=RATE),
        "spectrogram": SpectrogramAugmentation().vary,
        "frames": FrameAugmentation().vary,
        "tokens": lambda *inputs: TokenAugmentation().vary(*inputs, replacement=3),
    }
    values, lengths = padded(rows_of(kind))
    same, same_lengths = off[kind](values, lengths, draws(len(lengths)))
    assert torch.equal(same, values.to(same.dtype))
    assert torch.equal(same_lengths, lengths)


def test_settings_are_checked_under_their_keys() -> None:
    node = {"waveform": {"gain": [6, -6], "noise": "brown"}, "spectrogram": {"crop": 0, "time_mask": 2}}
    with pytest.raises(UserError) as caught:
        validated(SoundAugmentation, node, path="encoder.audio.augmentation")
    for expected in ("waveform.noise: expected", "spectrogram.crop: expected", "did you mean"):
        assert expected in str(caught.value)
    with pytest.raises(UserError, match=r"waveform\.gain: expected \[lowest, highest\], got \[6, -6\]"):
        validated(SoundAugmentation, {"waveform": {"gain": [6, -6]}})


def test_an_encoder_that_reads_a_spectrogram_augments_no_waveform() -> None:
    settings = SoundAugmentation(waveform=WaveformAugmentation())
    with pytest.raises(UserError, match=r"encoder\.audio\.augmentation\.waveform=null"):
        settings.of("spectrogram", rate=RATE, where="encoder.audio.augmentation")
