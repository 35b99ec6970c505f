"""Any speech model of the Hugging Face hub, or of a local folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from emorec.augmentation.sound import SoundAugmentation
from emorec.augmentation.streams import Augment
from emorec.encoders.below_cut import as_rows, padded_rows
from emorec.encoders.checkpoint import read_settings
from emorec.encoders.encoder import Decoded, Inputs
from emorec.encoders.huggingface import HuggingFaceEncoder
from emorec.encoders.layer_stack import LayerStack
from emorec.encoders.speech import speech_network
from emorec.encoders.speech_part import TAIL, WaveformPart, WhisperPart
from emorec.encoders.trained import pool_layers, windows
from emorec.encoders.waveform import sixteen_bit
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.signal import Waveform
from emorec.media.source import MediaError, Source

SHORTEST_SECONDS = 0.05  # shorter clips are padded where all layers train


@dataclass(kw_only=True, eq=False)
class HuggingFaceAudio(HuggingFaceEncoder):
    """A pretrained speech encoder: about 50 frames a second (T, D), or their mean (1, D), with their standard deviation
    (1, 2 D).

    Sound longer than `max_seconds` is encoded in windows of equal length, and their frames are joined.

    Args:
        media: how sound is read.
        max_seconds: the longest window; Whisper takes up to 30.
        augmentation: of the waveform, or of Whisper's spectrogram, where all layers train.
        window: whether Whisper reads 30 s, "padded" with silence as in its training, or each "clip" at its own length.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1

    media: AudioSettings = field(default_factory=AudioSettings)
    pooling: Literal["none", "mean", "mean_std"] = "mean"
    max_seconds: Annotated[float, Ge(0.5)] = 30.0
    window: Literal["padded", "clip"] = "padded"
    augmentation: SoundAugmentation | None = None

    @property
    def processor(self) -> dict[str, Any]:
        return {"max_seconds": self.max_seconds, **({"window": "clip"} if self.window == "clip" else {})}

    def specs(self, *, augmented: bool = False) -> tuple[dict[str, Any], ...]:
        specs = super().specs(augmented=augmented)
        if self.mode != "frozen" or not self.is_whisper or self.window == "clip":
            return specs
        # version 1 had the output, after the last normalisation, in place of the last layer's states
        return tuple({**spec, "version": 2} if spec["layer"] == self.layer_count else spec for spec in specs)

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

    def load(self) -> None:
        super().load()
        if self.mode == "frozen" and self._is_cut_to_clips and self._part_of_clips is None:
            part = self.part(first=0, wanted=self.layers, loaded=self._backbone)
            self._part_of_clips = part.requires_grad_(False).eval()

    @cached_property
    def _is_cut_to_clips(self) -> bool:
        """Whether each clip is encoded at its own length, of a network that else reads padded ones."""
        return self.window == "clip" and self.is_whisper

    def read(self, source: Source) -> Waveform | NDArray[np.float32]:
        """The sound, or log mel bands (T, bands) where clips are encoded at their own length."""
        waveform = self._waveform(source)
        return self.bands_of(waveform) if self._is_cut_to_clips else waveform

    def _waveform(self, source: Source) -> Waveform:
        self.load()
        waveform = read_audio(source, self.media)
        if len(waveform) < self._backbone.shortest:
            raise MediaError(f"the sound is too short: expected {self._backbone.shortest} samples, got {len(waveform)}")
        return waveform

    def _part(self, loaded: Any, stack: LayerStack, **options: Any) -> WaveformPart | WhisperPart:
        rate, options["train_front"] = self.media.sample_rate, self.train_front
        if self.is_whisper:
            if self.train_from and self.window == "padded":
                raise self._misfit("window=clip with train_from above 0", "'padded'")
            longest = -(-self._longest // loaded.extractor.hop_length)  # as many as `bands_of` gives, less the tail
            shortest, longest = (1, (longest + 1) // 2) if stack.first else (2 + TAIL, longest + TAIL)
            return WhisperPart(
                stack=stack, padded=self.window == "padded", shortest=shortest, longest=longest, **options
            )
        frames = int(loaded.frames(torch.tensor([self._longest])))
        return WaveformPart(
            stack=stack,
            standardises=bool(loaded.extractor.do_normalize),
            shortest=1 if stack.first else max(loaded.shortest, round(SHORTEST_SECONDS * rate)),
            longest=frames if stack.first else self._longest,
            pads_exactly=loaded.pads_exactly or bool(stack.first),
            **options,
        )

    @property
    def decodes(self) -> Decoded:
        return "bands" if self.is_whisper else "sound"

    def augment(self) -> Augment | None:
        if self.augmentation is None:
            return None
        inputs: Literal["waveform", "spectrogram"] = "spectrogram" if self.is_whisper else "waveform"
        return self.augmentation.of(inputs, rate=self.media.sample_rate, where=f"{self.where}.augmentation")

    @cached_property
    def is_whisper(self) -> bool:
        """Whether the network reads log mel bands."""
        return bool(read_settings(self.model, self.resolved[1], "config.json").get("model_type") == "whisper")

    @property
    def decoded_dtype(self) -> Any:
        return self.dtype if self.is_whisper else "int16"

    @property
    def decoded_width(self) -> int:
        self.load()
        return int(self._backbone.extractor.feature_size) if self.is_whisper else 1

    def decoded_settings(self) -> dict[str, Any]:
        if not self.is_whisper:
            return {}
        names = ("feature_size", "hop_length", "n_fft", "sampling_rate")
        stated = read_settings(self.model, self.resolved[1], "preprocessor_config.json")
        return {"processor": {"max_seconds": self.max_seconds, **{name: stated.get(name) for name in names}}}

    def decoded(self, source: Source) -> NDArray[Any]:
        waveform = self._waveform(source)
        if not self.is_whisper:
            return sixteen_bit(waveform)
        return as_rows(self.bands_of(waveform), self.decoded_dtype)

    def log_mel(self, source: Source) -> NDArray[np.float32]:
        """The log mel bands (T, bands) of Whisper of a source; raises as `read` does."""
        return self.bands_of(self._waveform(source))

    def bands_of(self, waveform: Waveform) -> NDArray[np.float32]:
        """The log mel bands (T, bands) of Whisper of a clip, with a tail that its last windows reach into."""
        pieces = [
            self._backbone.prepared(waveform[start:end])[
                :, : -(-(end - start) // self._backbone.extractor.hop_length) + TAIL
            ]
            for start, end in windows(len(waveform), self._longest)
        ]
        return np.ascontiguousarray(torch.cat(pieces, dim=1).T.numpy())

    def collate(self, items: Sequence[Waveform | NDArray[np.float32]]) -> Inputs:
        """`values`: (B, W, …, S) of W windows, and `samples`: (B, W), 0 where an utterance has fewer windows; or
        `values`: (B, T, bands), and `mask`: (B, T), where clips are encoded at their own length."""
        if self._is_cut_to_clips:
            return padded_rows(items)
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
        if self._part_of_clips is not None:
            values, mask = inputs["values"], inputs["mask"]
            with self._autocast(values.device):
                clips, frames = self._part_of_clips(values, mask, mask[:, 0])
            return clips.float(), frames
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
        joined = [self._pooled(torch.cat(states)) for states in parts]  # B of (T, L · D)
        lengths = torch.tensor([len(states) for states in joined], device=values.device)
        features = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)  # (B, T, L · D)
        return features, torch.arange(features.shape[1], device=values.device) < lengths[:, None]

    def _pooled(self, states: Tensor) -> Tensor:
        """The pooled states (1, …), or all of them, of one utterance (T, L · D)."""
        whole = torch.ones(1, len(states), dtype=torch.bool, device=states.device)
        return pool_layers(states[None], whole, self.pooling, len(self.layers))[0][0]
