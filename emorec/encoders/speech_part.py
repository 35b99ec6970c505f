"""The trained parts of speech encoders."""

from typing import Any

import torch
from torch import Tensor

from emorec.augmentation.spans import length_mask
from emorec.encoders.pretrained_part import PretrainedPart
from emorec.layers import within

FULL_SCALE = 32767  # of 16-bit sound
DYNAMICS, FLOOR = 2.0, -1.5  # of Whisper's log mel bands: 80 dB below the loudest value, and at least -100 dB
TAIL = 2  # frames of log mel bands after the end of a clip: their windows still reach into it
SILENT = 4  # further frames
VARIANCE_FLOOR = 1e-7  # of the feature extractors of transformers


class WaveformPart(PretrainedPart):
    """Reads 16-bit sound (N, S, 1), or states of a layer (N, T, D).

    Args:
        standardises: whether the network expects sound of mean 0 and variance 1.
        options: of `PretrainedPart`.
    """

    def __init__(self, *, standardises: bool, **options: Any) -> None:
        super().__init__(**options)
        self.standardises = standardises

    def scaled(self, values: Tensor, lengths: Tensor) -> Tensor:
        if self.stack.first:
            return values
        waveform = values.float() / FULL_SCALE
        if not self.standardises:
            return waveform
        valid, count = length_mask(lengths, values.shape[1])[:, :, None], lengths[:, None, None]
        mean = waveform.sum(1, keepdim=True) / count
        variance = ((waveform - mean).square() * valid).sum(1, keepdim=True) / count
        return (waveform - mean) / (variance + VARIANCE_FLOOR).sqrt() * valid

    def prepared(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = self.stack.network._get_feat_extract_output_lengths(lengths)
        return values[:, :, 0], length_mask(frames, self._frame_count(values.shape[1]))

    def _frame_count(self, samples: int) -> int:
        """The number of frames of some samples; also of a size that is traced."""
        config = self.stack.network.config
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples


class WhisperPart(PretrainedPart):
    """Reads log mel bands (N, T, bands), or states of a layer (N, T / 2, D).

    Args:
        padded: whether clips are padded with silence to the length that Whisper was trained with; else each clip is
            encoded at its own length, with a mask.
        options: of `PretrainedPart`.
    """

    def __init__(self, *, padded: bool, **options: Any) -> None:
        super().__init__(**options)
        self.padded = padded

    def prepared(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        valid = length_mask(lengths, values.shape[1])[:, :, None]
        bands = values.float()
        loudest = bands.where(valid, -torch.inf).amax((1, 2), keepdim=True)
        silence = (loudest - DYNAMICS).clamp_min(FLOOR)
        bands = bands.where(valid, silence)
        longest = 2 * self.stack.network.config.max_source_positions
        if not self.padded:  # the convolutions see silence after each clip, also after the longest of a batch
            longest = within(values.shape[1] + values.shape[1] % 2 + SILENT, most=longest)
        missing = silence.expand(-1, within(longest - values.shape[1], least=0), bands.shape[2])
        bands = torch.cat([bands, missing], dim=1)[:, :longest].transpose(1, 2)  # (N, bands, longest)
        frames = torch.full_like(lengths, longest // 2) if self.padded else self._frames(lengths)
        return bands, length_mask(frames, longest // 2)

    @staticmethod
    def _frames(lengths: Tensor) -> Tensor:
        return (lengths - TAIL + 1) // 2

    def states(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        states, counts = super().states(values, lengths)
        return states, self._frames(lengths) if self.padded and not self.stack.first else counts
