"""Masks, crops, shifts and stretches of spectrograms keep to their bounds."""

import torch
from torch import Tensor

from emorec.augmentation.spectrogram import SpectrogramAugmentation
from tests.augmentation.conftest import draws

BANDS = 20


def numbered(lengths: Tensor) -> Tensor:
    """Spectrograms (N, T, bands) that hold the number of each frame from 1 on, in each band; 0 after the end."""
    frames = torch.arange(1, int(lengths.max()) + 1)
    return (frames * (frames <= lengths[:, None]))[:, :, None].expand(-1, -1, BANDS).float()


def test_masks_of_time_are_no_longer_than_a_share_of_the_clip_and_hold_its_mean() -> None:
    lengths = torch.tensor([100, 60, 9, 4] * 50)
    values = numbered(lengths)
    settings = SpectrogramAugmentation(time_masks=1, time_mask_frames=15, time_mask_share=0.2)
    varied, same = settings.vary(values, lengths, draws(200))
    assert torch.equal(same, lengths)
    is_masked = (varied != values).all(2)
    widths = is_masked.sum(1).view(50, 4)
    assert (widths <= torch.tensor([15, 12, 1, 0])).all()
    assert (widths[:, :3].amax(0) >= torch.tensor([14, 10, 1])).all()
    means = (values.sum(1) / lengths[:, None])[:, None].expand_as(varied)
    torch.testing.assert_close(varied[is_masked], means[is_masked])
    assert torch.equal(varied[~is_masked], values[~is_masked])
    positions = is_masked.view(50, 4, -1)[:, 0].sum(0)[:100]
    assert (positions[:50] > 0).any()
    assert (positions[50:] > 0).any()
    assert not is_masked[lengths == 60][:, 60:].any()


def test_masks_of_frequency_cover_the_whole_clip_and_no_more_bands_than_asked() -> None:
    lengths = torch.tensor([50, 7] * 100)
    values = torch.randn(200, 50, BANDS).where(torch.arange(50)[:, None] < lengths[:, None, None], 0)
    varied, _ = SpectrogramAugmentation(frequency_masks=2, frequency_mask_bands=5).vary(values, lengths, draws(200))
    is_masked = varied != values
    groups = is_masked[:, 0]  # (N, bands)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(is_masked[row, :length], groups[row].expand(length, BANDS))
    assert 5 < int(groups.sum(1).max()) <= 10
    assert int(groups.sum(1).min()) == 0
    assert groups.any(0).all()


def test_masks_wider_than_all_bands_are_cut() -> None:
    values, lengths = torch.randn(50, 5, 3), torch.full((50,), 5)
    varied, _ = SpectrogramAugmentation(frequency_masks=1, frequency_mask_bands=100).vary(values, lengths, draws(50))
    assert (varied != values)[:, 0].sum(1).max() == 3


def test_a_crop_is_a_stretch_of_at_least_its_share() -> None:
    lengths = torch.tensor([100, 40, 1] * 60)
    varied, counts = SpectrogramAugmentation(crop=0.5).vary(numbered(lengths), lengths, draws(180))
    assert (counts >= lengths / 2).all()
    assert (counts <= lengths).all()
    starts = varied[:, 0, 0]
    expected = starts[:, None] + torch.arange(100)
    expected = expected.where(torch.arange(100) < counts[:, None], 0)
    assert torch.equal(varied[:, :, 0], expected)
    assert (starts + counts - 1 <= lengths).all()
    assert starts.view(60, 3)[:, 0].unique().numel() > 20
    assert int(counts.view(60, 3)[:, 0].min()) < 60


def test_a_shift_turns_the_clip_within_its_length() -> None:
    lengths = torch.tensor([100, 40] * 60)
    values = numbered(lengths)
    varied, counts = SpectrogramAugmentation(shift=0.25).vary(values, lengths, draws(120))
    assert torch.equal(counts, lengths)
    moves = []
    for row, length in enumerate(lengths.tolist()):
        first = int(varied[row, 0, 0]) - 1
        assert torch.equal(varied[row, :length], values[row, :length].roll(-first, 0))
        moves.append((first + length // 2) % length - length // 2)
        assert abs(moves[-1]) <= length / 4
    assert min(moves) < -15
    assert max(moves) > 15


def test_a_stretched_clip_has_the_same_course_in_more_or_fewer_frames() -> None:
    lengths = torch.tensor([100, 40, 1] * 60)
    varied, counts = SpectrogramAugmentation(stretch=0.25).vary(numbered(lengths), lengths, draws(180))
    assert (counts >= (lengths / 1.25).round()).all()
    assert (counts <= (lengths * 1.25).round()).all()
    assert varied.shape == (180, int(counts.max()), BANDS)
    share = torch.arange(varied.shape[1]) / (counts - 1).clamp_min(1)[:, None]
    expected = (1 + share * (lengths - 1)[:, None]).where(torch.arange(varied.shape[1]) < counts[:, None], 0)
    torch.testing.assert_close(varied, expected[:, :, None].expand_as(varied))
    longest = counts[lengths == 100]
    assert int(longest.min()) < 85
    assert int(longest.max()) > 118
    assert 0.3 < float((longest > 100).float().mean()) < 0.7


def test_bands_move_alike_in_all_frames_and_the_outermost_is_repeated() -> None:
    lengths = torch.tensor([30, 12] * 100)
    bands = torch.arange(1, BANDS + 1).float()  # each band holds its number
    values = bands.expand(200, 30, -1).where(torch.arange(30)[:, None] < lengths[:, None, None], 0)
    varied, same = SpectrogramAugmentation(frequency_shift=3.5).vary(values, lengths, draws(200))
    assert torch.equal(same, lengths)
    moves = bands[9] - varied[:, 0, 9]  # of the tenth band, from which no move reaches an end
    expected = (bands - moves[:, None]).clamp(1, BANDS)[:, None] * (values > 0)
    torch.testing.assert_close(varied, expected)
    assert -3.5 <= float(moves.min()) < -3
    assert 3 < float(moves.max()) <= 3.5
