"""Frames of a clip change alike, and drops repeat the frame before."""

import torch
from torch import Tensor

from emorec.augmentation.frames import FrameAugmentation, cropped, with_colors
from tests.augmentation.conftest import SIZE, draws

FRAMES = 6


def clips(count: int) -> Tensor:
    """(N, F, S, S, 3): each frame is the first one plus its number."""
    torch.manual_seed(0)
    first = torch.randint(0, 200, (count, 1, SIZE, SIZE, 3))
    return (first + torch.arange(FRAMES)[:, None, None, None]).to(torch.uint8)


def vary(pixels: Tensor, settings: FrameAugmentation) -> Tensor:
    lengths = torch.full((len(pixels),), pixels.shape[1])
    varied, same = settings.vary(pixels.flatten(2), lengths, draws(len(pixels)))
    assert torch.equal(same, lengths)
    return varied.view(pixels.shape)


def test_a_clip_is_flipped_as_a_whole_with_its_probability() -> None:
    pixels = clips(200)
    varied = vary(pixels, FrameAugmentation(flip=0.3))
    is_flipped = (varied != pixels).flatten(1).any(1)
    assert torch.equal(varied[is_flipped], pixels[is_flipped].flip(3).float())
    assert 0.2 < float(is_flipped.float().mean()) < 0.4


def test_a_dropped_frame_is_the_one_before() -> None:
    pixels = clips(200)
    varied = vary(pixels, FrameAugmentation(drop_frames=0.4))
    shown = (varied[:, :, 0, 0, 0] - pixels[:, :1, 0, 0, 0]).long()  # the number of the frame that is seen
    is_kept = shown == torch.arange(FRAMES)
    assert is_kept[:, 0].all()
    assert 0.5 < float(is_kept[:, 1:].float().mean()) < 0.7
    assert torch.equal(shown[:, 1:].where(~is_kept[:, 1:], -1), shown[:, :-1].where(~is_kept[:, 1:], -1))


def test_a_crop_enlarges_the_same_part_of_all_frames() -> None:
    columns = torch.arange(SIZE).float()
    pixels = columns[:, None].expand(2, FRAMES, SIZE, SIZE, 3).contiguous()  # brightness is the column
    whole = cropped(pixels, torch.ones(2), torch.rand(2, 2))
    torch.testing.assert_close(whole, pixels)
    half = cropped(pixels, torch.full((2,), 0.5), torch.tensor([[0.0, 0.5], [1.0, 0.5]]))
    expected = torch.stack([columns / 2 - 0.25, columns / 2 + SIZE / 2 - 0.25]).clamp(0, SIZE - 1)
    torch.testing.assert_close(half[:, 0, 3, :, 1], expected)
    torch.testing.assert_close(half, half[:, :1].expand_as(half))
    varied = vary(clips(50), FrameAugmentation(crop=0.4))
    steps = varied - varied[:, :1]
    expected = torch.arange(FRAMES)[:, None, None, None].expand_as(steps).float()
    torch.testing.assert_close(steps, expected, atol=1e-3, rtol=0)


def test_colours_are_multiplied_as_stated() -> None:
    pixels, lengths = clips(1).float(), torch.tensor([FRAMES])
    brighter = with_colors(pixels, lengths, torch.tensor([[1.2, 1.0, 1.0]]))
    torch.testing.assert_close(brighter, (1.2 * pixels).clamp(0, 255), atol=1e-3, rtol=1e-5)
    grey = with_colors(pixels, lengths, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(grey[..., 0], pixels @ torch.tensor([0.299, 0.587, 0.114]), atol=1e-3, rtol=1e-5)
    flat = with_colors(pixels, lengths, torch.tensor([[1.0, 0.0, 1.0]]))
    mean = (pixels @ torch.tensor([0.299, 0.587, 0.114])).mean()
    torch.testing.assert_close(flat, mean.expand_as(flat), atol=1e-2, rtol=1e-4)


def test_padding_does_not_count_in_the_contrast() -> None:
    pixels = clips(1).float()
    longer = torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, 4))
    factors = torch.tensor([[1.0, 0.5, 1.0]])
    expected = with_colors(pixels, torch.tensor([FRAMES]), factors)
    torch.testing.assert_close(with_colors(longer, torch.tensor([FRAMES]), factors)[:, :FRAMES], expected)
