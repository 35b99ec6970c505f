"""Pretrained networks of speech under one interface: those that read a waveform, and Whisper, which reads mel bands."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from emorec.errors import UserError
from emorec.media.signal import Waveform

# Networks whose features do not depend on a batch's padding, if their convolutions normalise each frame separately.
# data2vec-audio is not among them: its later positional convolutions read what the first one computes of the padding.
EXACT = frozenset({"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"})


class Speech(nn.Module, ABC):
    """A pretrained network with its own preparation of sound.

    Attributes:
        shortest: samples of the shortest input that gives a frame.
        longest: samples of the longest input of one pass; `None` where only memory limits it.
        pads_exactly: see `Encoder`.
    """

    shortest: int = 1
    longest: int | None = None
    pads_exactly: bool = True

    def __init__(self, extractor: Any, backbone: Any) -> None:
        super().__init__()
        self.extractor = extractor
        self.backbone: Any = backbone

    @property
    def config(self) -> Any:
        """The network's config."""
        return self.backbone.config

    def normalised(self, waveform: Waveform) -> Waveform:
        """The whole sound of an utterance as the network expects it, before it is cut into windows."""
        return waveform

    @abstractmethod
    def prepared(self, window: Waveform) -> Tensor:
        """The network's input for one window, time last."""

    @abstractmethod
    def frames(self, samples: Tensor) -> Tensor:
        """The number of frames for numbers of samples; both (N,)."""

    @abstractmethod
    def forward(self, values: Tensor, samples: Tensor, *, output_hidden_states: bool) -> Any:
        """The network's output for N `prepared` windows (N, …, S), padded with zeros, of `samples` (N,) each."""


class WaveformSpeech(Speech):
    """wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477) and related networks.

    HuBERT (Hsu et al. 2021, arXiv 2106.07447), WavLM (Chen et al. 2022, arXiv 2110.13900), XLS-R (Babu et al. 2021,
    arXiv 2111.09296), data2vec (Baevski et al. 2022, arXiv 2202.03555), UniSpeech. Where the first convolution
    normalises over time ("group"), the models were trained without a mask and padding changes every frame.
    """

    def __init__(self, extractor: Any, backbone: Any) -> None:
        super().__init__(extractor, backbone)
        self.masked = getattr(self.config, "feat_extract_norm", "layer") == "layer"  # data2vec has no such key
        kind = self.config.model_type
        self.pads_exactly = self.masked and kind in EXACT and not getattr(self.config, "conv_pos_batch_norm", False)
        for kernel, stride in zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True):
            self.shortest = (self.shortest - 1) * stride + kernel

    def normalised(self, waveform: Waveform) -> Waveform:
        values = self.extractor(waveform, sampling_rate=self.extractor.sampling_rate, return_tensors="np")
        normalised: Waveform = values["input_values"][0]
        return normalised

    def prepared(self, window: Waveform) -> Tensor:
        return torch.from_numpy(window)

    def frames(self, samples: Tensor) -> Tensor:
        lengths: Tensor = self.backbone._get_feat_extract_output_lengths(samples)
        return lengths

    def forward(self, values: Tensor, samples: Tensor, *, output_hidden_states: bool) -> Any:
        values = values[:, : int(samples.max())]  # other windows of the batch may be longer
        mask = torch.arange(values.shape[1], device=values.device) < samples[:, None] if self.masked else None
        return self.backbone(values, attention_mask=mask, output_hidden_states=output_hidden_states)


class WhisperSpeech(Speech):
    """The encoder of Whisper (Radford et al. 2022, arXiv 2212.04356).

    It always reads 30 s of log mel bands: shorter sound is padded with silence, and the frames of the padding are cut
    off. The output does not depend on the batch.
    """

    def __init__(self, extractor: Any, backbone: Any) -> None:
        super().__init__(extractor, backbone.get_encoder())  # without the decoder
        self.longest = extractor.n_samples
        self.step = extractor.n_samples // self.config.max_source_positions  # samples of a frame

    def prepared(self, window: Waveform) -> Tensor:
        values = self.extractor(window, sampling_rate=self.extractor.sampling_rate, return_tensors="pt")
        bands: Tensor = values["input_features"][0]  # (bands, frames of 30 s)
        return bands

    def frames(self, samples: Tensor) -> Tensor:
        return torch.div(samples + self.step - 1, self.step, rounding_mode="floor")

    def forward(self, values: Tensor, samples: Tensor, *, output_hidden_states: bool) -> Any:
        """See `Speech`. The last hidden states are those of the last layer; transformers puts the output there."""
        last: list[Any] = []
        hook = self.backbone.layers[-1].register_forward_hook(lambda _, inputs, output: last.append(output))
        try:
            output = self.backbone(values, output_hidden_states=output_hidden_states)
        finally:
            hook.remove()
        if output_hidden_states:
            states = last[0][0] if isinstance(last[0], tuple) else last[0]
            output.hidden_states = (*output.hidden_states[:-1], states)
        return output


def speech_network(extractor: Any, backbone: Any, model: str) -> Speech:
    """Wraps the network of a checkpoint.

    Raises:
        UserError: the kind of network is not supported.
    """
    if backbone.config.model_type == "whisper":
        return WhisperSpeech(extractor, backbone)
    supported = hasattr(backbone, "_get_feat_extract_output_lengths") and hasattr(backbone.config, "conv_kernel")
    if not supported or getattr(backbone.config, "add_adapter", False):
        raise UserError(
            f"expected a model that reads waveforms (wav2vec 2.0, HuBERT, WavLM, data2vec-audio, UniSpeech; without "
            f"adapter layers) or Whisper, got {backbone.config.model_type!r} (encoder.audio.model={model})"
        )
    return WaveformSpeech(extractor, backbone)
