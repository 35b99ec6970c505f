"""Any speech model of the Hugging Face hub, or of a local folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from emorec.encoders.encoder import Inputs
from emorec.encoders.huggingface import HuggingFaceEncoder
from emorec.encoders.speech import speech_network
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.signal import Waveform
from emorec.media.source import MediaError, Source


def windows(samples: int, longest: int) -> list[tuple[int, int]]:
    """The borders [(start, end)] of the fewest equal windows that are no longer than `longest`.

    They are equal because a short rest at the end would be encoded without context.
    """
    count = -(-samples // longest)
    borders = [round(index * samples / count) for index in range(count + 1)]
    return list(pairwise(borders))


@dataclass(kw_only=True, eq=False)
class HuggingFaceAudio(HuggingFaceEncoder):
    """A pretrained speech encoder, frozen: about 50 frames a second (T, D), or their mean (1, D).

    Sound longer than `max_seconds` is encoded in windows of equal length, and their frames are joined.

    Args:
        media: how sound is read.
        max_seconds: the longest window; Whisper takes up to 30.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1

    media: AudioSettings = field(default_factory=AudioSettings)
    pooling: Literal["none", "mean"] = "mean"
    max_seconds: Annotated[float, Ge(0.5)] = 30.0

    @property
    def processor(self) -> dict[str, Any]:
        return {"max_seconds": self.max_seconds}

    def _load_network(self) -> Any:
        import transformers

        extractor = self._pretrained(transformers.AutoFeatureExtractor)
        if extractor.sampling_rate != self.media.sample_rate:
            raise self._misfit(f"media.sample_rate={extractor.sampling_rate}", self.media.sample_rate)
        speech = speech_network(extractor, self._frozen(transformers.AutoModel), self.model)
        self._require_layers(speech)
        if speech.longest is not None and self._longest > speech.longest:
            limit = speech.longest / self.media.sample_rate
            raise self._misfit(f"max_seconds up to {limit:g}", self.max_seconds)
        self.pads_exactly = speech.pads_exactly
        return speech

    @property
    def _longest(self) -> int:
        """Samples of the longest window."""
        return round(self.max_seconds * self.media.sample_rate)

    def read(self, source: Source) -> Waveform:
        self.load()
        waveform = read_audio(source, self.media)
        if len(waveform) < self._backbone.shortest:
            raise MediaError(f"the sound is too short: expected {self._backbone.shortest} samples, got {len(waveform)}")
        return waveform

    def collate(self, items: Sequence[Waveform]) -> Inputs:
        """`values`: (B, W, …, S) of W windows, and `samples`: (B, W), 0 where an utterance has fewer windows."""
        borders = [windows(len(item), self._longest) for item in items]
        samples = torch.zeros(len(items), max(map(len, borders)), dtype=torch.long)
        prepared: list[tuple[int, int, Tensor]] = []
        for row, item in enumerate(items):
            waveform = self._backbone.normalised(item)
            for index, (start, end) in enumerate(borders[row]):
                samples[row, index] = end - start
                prepared.append((row, index, self._backbone.prepared(waveform[start:end])))
        longest = max(window.shape[-1] for _, _, window in prepared)
        values = torch.zeros(*samples.shape, *prepared[0][2].shape[:-1], longest)
        for row, index, window in prepared:
            values[row, index, ..., : window.shape[-1]] = window
        return {"values": values, "samples": samples}

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        values, samples = inputs["values"], inputs["samples"]
        parts: list[list[Tensor]] = [[] for _ in samples]
        for index in range(samples.shape[1]):  # one window of each utterance at a time, to save memory
            rows = samples[:, index].nonzero()[:, 0]
            with self._autocast(values.device):
                output = self._output(values[rows, index], samples[rows, index])
            hidden = self._states(output).float()  # (N, T, L · D)
            counts = self._backbone.frames(samples[rows, index]).tolist()
            for row, states, count in zip(rows.tolist(), hidden, counts, strict=True):
                parts[row].append(states[:count])
        joined = [torch.cat(states) for states in parts]  # B of (T, L · D)
        if self.pooling == "mean":
            joined = [states.mean(0, keepdim=True) for states in joined]
        lengths = torch.tensor([len(states) for states in joined], device=values.device)
        features = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)  # (B, T, L · D)
        return features, torch.arange(features.shape[1], device=values.device) < lengths[:, None]
