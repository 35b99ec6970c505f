"""Augmentation of frames of video."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from emorec.annotations import Probability
from emorec.augmentation.spans import length_mask
from emorec.augmentation.streams import Stream
from emorec.draws import chance, uniform

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
BRIGHTEST = 255.0


@dataclass(frozen=True, kw_only=True)
class FrameAugmentation:
    """All frames of a clip change alike, except for those that are dropped.

    Attributes:
        drop_frames: probability that a frame is replaced by the one before.
        crop: smallest share of the area that is cut out, in the same aspect, and resized to the frame's size.
        flip: probability of a horizontal flip.
        color_jitter: brightness, contrast and saturation are each multiplied by a factor that differs from 1 by at most
            this much.
    """

    drop_frames: Probability = 0.0
    crop: Annotated[float, Ge(0.05), Le(1)] = 1.0
    flip: Probability = 0.0
    color_jitter: Probability = 0.0

    def vary(self, values: Tensor, lengths: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, F, S · S · 3) of pixels from 0 to 255, as float32; zero after `lengths` (N,), which stay.

        Args:
            draw: (N,) int64, from which all is drawn.
        """
        size = math.isqrt(values.shape[2] // 3)
        pixels = values.float().view(*values.shape[:2], size, size, 3)
        if self.drop_frames > 0:
            pixels = self._dropped(pixels, draw)
        if self.crop < 1:
            numbers = uniform(draw, 3, stream=Stream.PICTURE_CROP)
            pixels = cropped(pixels, (self.crop + (1 - self.crop) * numbers[:, 0]).sqrt(), numbers[:, 1:])
        if self.flip > 0:
            flipped = chance(draw, self.flip, stream=Stream.FLIP)[:, None, None, None, None]
            pixels = pixels.flip(3).where(flipped, pixels)
        if self.color_jitter > 0:
            factors = 1 + self.color_jitter * (2 * uniform(draw, 3, stream=Stream.COLOURS) - 1)
            pixels = with_colors(pixels, lengths, factors)
        valid = length_mask(lengths, values.shape[1])[:, :, None]
        return pixels.reshape(values.shape).where(valid, 0), lengths

    def _dropped(self, pixels: Tensor, draw: Tensor) -> Tensor:
        count = pixels.shape[1]
        kept = uniform(draw, count, stream=Stream.DROPPED_FRAMES) >= self.drop_frames
        index = torch.arange(count, device=draw.device).where(kept, 0).cummax(1).values  # (N, F)
        return pixels[torch.arange(len(pixels), device=draw.device)[:, None], index]


def cropped(pixels: Tensor, scale: Tensor, place: Tensor) -> Tensor:
    """A part of frames (N, F, S, S, 3), resized to S.

    Args:
        scale: (N,) the part's share of each side.
        place: (N, 2) where it lies: from 0, at the left or the top, to 1.
    """
    count, frames, size = pixels.shape[:3]
    affine = torch.zeros(count, 2, 3, device=pixels.device)
    affine[:, 0, 0] = affine[:, 1, 1] = scale
    affine[:, :, 2] = (2 * place - 1) * (1 - scale)[:, None]
    grid = torch.nn.functional.affine_grid(affine, [count, 1, size, size], align_corners=False)
    planes = pixels.permute(0, 1, 4, 2, 3).flatten(1, 2)  # (N, F · 3, S, S)
    cut = torch.nn.functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return cut.view(count, frames, 3, size, size).permute(0, 1, 3, 4, 2)


def with_colors(pixels: Tensor, lengths: Tensor, factors: Tensor) -> Tensor:
    """Multiplies brightness, contrast around the clip's mean, and saturation of frames (N, F, S, S, 3).

    Args:
        lengths: (N,) frames of each clip.
        factors: (N, 3) of the three.
    """
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1, 1).unbind(1)
    weights = torch.tensor(LUMINANCE, device=pixels.device)
    pixels = pixels * brightness
    grey = pixels @ weights  # (N, F, S, S)
    valid = length_mask(lengths, pixels.shape[1])
    mean = (grey.mean((2, 3)).where(valid, 0).sum(1) / lengths).view(-1, 1, 1, 1, 1)
    pixels, grey = (mean + (item - mean) * contrast for item in (pixels, grey[..., None]))
    return (grey + (pixels - grey) * saturation).clamp(0, BRIGHTEST)
