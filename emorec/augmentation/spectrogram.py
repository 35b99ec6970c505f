"""Augmentation of spectrograms."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from emorec.annotations import Count, NonNegative, Share
from emorec.augmentation.spans import length_mask, span_mask
from emorec.augmentation.streams import Stream
from emorec.draws import between, uniform


@dataclass(frozen=True, kw_only=True)
class SpectrogramAugmentation:
    """The speaker and the tempo vary, a part of the frames is kept, they are shifted, then masks cover some of them.

    On the mel scale a shift of the bands changes the pitch and the length of the vocal tract as another speaker would
    (after Jaitly & Hinton 2013, "Vocal tract length perturbation", which scales frequencies). The masks are those of
    SpecAugment (Park et al. 2019, Interspeech), without time warping. A mask holds the mean frame of the utterance,
    which needs no standardised bands.

    Attributes:
        stretch: largest share of the length by which a clip becomes longer; shorter by the same factor.
        frequency_shift: largest number of bands by which spectra move up or down; the outermost band is repeated.
        crop: smallest share of the frames that is kept.
        shift: largest share of the length by which frames move; those that leave at one end come in at the other.
        time_masks: number of masked stretches of frames.
        time_mask_frames: length of the longest stretch.
        time_mask_share: largest share of an utterance's frames in one stretch.
        frequency_masks: number of masked groups of neighbouring bands.
        frequency_mask_bands: size of the largest group.
    """

    stretch: Share = 0.0
    frequency_shift: NonNegative = 0.0
    crop: Annotated[float, Gt(0), Le(1)] = 1.0
    shift: Share = 0.0
    time_masks: Count = 0
    time_mask_frames: Count = 20
    time_mask_share: Share = 0.2
    frequency_masks: Count = 0
    frequency_mask_bands: Count = 8

    def vary(self, values: Tensor, lengths: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrograms (N, T, bands) of `lengths` (N,), as float32, and their new lengths; zero after the end.

        Args:
            draw: (N,) int64, from which all is drawn.
        """
        values = values.float()
        if self.stretch > 0:
            values, lengths = self._stretched(values, lengths, draw)
        if self.frequency_shift > 0:
            values = self._with_moved_bands(values, draw)
        if self.crop < 1 or self.shift > 0:
            values, lengths = self._moved(values, lengths, draw)
        valid = length_mask(lengths, values.shape[1])[:, :, None]
        values = values.where(valid, 0)
        if not (self.time_masks or self.frequency_masks):
            return values, lengths
        mean = (values.double().sum(1, keepdim=True) / lengths[:, None, None]).float()  # (N, 1, bands)
        return values.where(~(self._masks(values, lengths, draw) & valid), mean), lengths

    def _stretched(self, values: Tensor, lengths: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        largest = math.log1p(self.stretch)
        factors = between(draw, (-largest, largest), stream=Stream.STRETCH).exp()
        counts = (factors * lengths).round().long().clamp_min(1)
        steps = (lengths - 1) / (counts - 1).clamp_min(1)  # frames between two that are read
        positions = torch.arange(int(counts.max()), device=draw.device) * steps[:, None]  # (N, T')
        return _interpolated(values, positions, lengths - 1), counts

    def _with_moved_bands(self, values: Tensor, draw: Tensor) -> Tensor:
        bands = values.shape[2]
        moves = between(draw, (-self.frequency_shift, self.frequency_shift), stream=Stream.FREQUENCY_SHIFT)
        positions = torch.arange(bands, device=draw.device) - moves[:, None]  # (N, bands)
        last = torch.full_like(draw, bands - 1)
        return _interpolated(values.transpose(1, 2), positions, last).transpose(1, 2)

    def _moved(self, values: Tensor, lengths: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        kept = between(draw, (self.crop, 1), stream=Stream.CROP)
        counts = (kept * lengths).ceil().long().clamp_min(1).minimum(lengths)
        starts = (uniform(draw, 1, stream=Stream.CROP_START)[:, 0] * (lengths - counts + 1)).long()
        moves = (between(draw, (-self.shift, self.shift), stream=Stream.SHIFT) * counts).long()
        times = torch.arange(values.shape[1], device=draw.device)
        index = starts[:, None] + (times + moves[:, None]) % counts[:, None]  # (N, T)
        return values.gather(1, index[:, :, None].expand_as(values)), counts

    def _masks(self, values: Tensor, lengths: Tensor, draw: Tensor) -> Tensor:
        """(N, T, bands) true where a mask lies."""
        bands = lengths.new_full(lengths.shape, values.shape[2])
        longest = (self.time_mask_share * lengths).long().clamp_max(self.time_mask_frames)
        numbers = uniform(draw, 2 * self.time_masks, stream=Stream.TIME_MASKS)
        times = _drawn(numbers, longest, lengths, values.shape[1])
        largest = bands.clamp_max(self.frequency_mask_bands)
        numbers = uniform(draw, 2 * self.frequency_masks, stream=Stream.FREQUENCY_MASKS)
        groups = _drawn(numbers, largest, bands, values.shape[2])
        return times[:, :, None] | groups[:, None, :]


def _interpolated(values: Tensor, positions: Tensor, last: Tensor) -> Tensor:
    """(N, M, D) what lies at positions (N, M) of the rows of values (N, T, D), on lines between neighbours.

    Args:
        last: (N,) the last row; positions beyond it, or before the first one, give the outermost row.
    """
    positions = positions.clamp_min(0).minimum(last[:, None])
    below = positions.long()
    above = (below + 1).minimum(last[:, None])
    lower, upper = (values.gather(1, rows[:, :, None].expand(-1, -1, values.shape[2])) for rows in (below, above))
    return torch.lerp(lower, upper, (positions - below)[:, :, None])


def _drawn(numbers: Tensor, widest: Tensor, lengths: Tensor, total: int) -> Tensor:
    """(N, total) true in any of M masks: widths are from 0 to `widest` (N,), positions from all of `lengths` (N,).

    Args:
        numbers: (N, 2 M) from 0 to 1, from which both are drawn.
    """
    widths = (numbers[:, ::2] * (widest + 1)[:, None]).long()
    starts = (numbers[:, 1::2] * (lengths[:, None] - widths + 1)).long()
    return span_mask(starts, widths, total).any(1)
