"""Any speech model of the Hugging Face hub, or of a local folder."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from emorec.encoders.encoder import Inputs, StoredType, Training
from emorec.encoders.huggingface import HuggingFaceEncoder, Precision
from emorec.encoders.layers import Layer, chosen_states, needs_hidden_states
from emorec.encoders.speech import speech_network
from emorec.errors import UserError, choose
from emorec.media.audio import AudioSettings, Waveform, read_audio
from emorec.media.fields import checked_number
from emorec.media.source import MediaError, Source

POOLINGS = {"none": False, "mean": True}  # name -> whether frames are averaged
SHORTEST_WINDOW = 0.5  # seconds


def windows(samples: int, longest: int) -> list[tuple[int, int]]:
    """The borders of the fewest equal stretches that are no longer than `longest`: [(start, end)].

    Equal ones, for a short rest at the end would be encoded without any context.
    """
    count = -(-samples // longest)
    borders = [round(place * samples / count) for place in range(count + 1)]
    return list(pairwise(borders))


class HuggingFaceAudio(HuggingFaceEncoder):
    """A pretrained speech encoder, frozen: about 50 frames a second (T, D), or their mean (1, D).

    Sound longer than `max_seconds` is encoded in windows of equal length, side by side and one after another; their
    frames are joined.

    Args:
        model: the model's name on the hub, or a local folder made by `save_pretrained`.
        revision: branch, tag or commit on the hub; what it resolves to counts. Not used for a local folder.
        layer: a number, a list of numbers, or "all": -1 the network's output, 0 the embeddings, n the n-th layer.
            Where a last normalisation follows the layers (`do_stable_layer_norm`), -1 has it and the n-th has not.
        pooling: "mean" over time, or "none" for all frames.
        media: how sound is read: fields of `AudioSettings`.
        max_seconds: the longest window; Whisper takes up to 30.
        precision: what the forward pass computes in: "float32", "bfloat16", or "float16" (on a GPU).
        training: "frozen".
        dtype: how features are stored.
        views: augmented views of each utterance for training.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        model: str,
        revision: str = "main",
        layer: Layer = -1,
        pooling: str = "mean",
        media: Mapping[str, Any] | None = None,
        max_seconds: float = 30.0,
        precision: Precision = "float32",
        training: Training = "frozen",
        dtype: StoredType = "float32",
        views: int = 0,
    ) -> None:
        super().__init__(
            model=model,
            revision=revision,
            layer=layer,
            precision=precision,
            training=training,
            dtype=dtype,
            views=views,
        )
        self.media: AudioSettings = AudioSettings.of(media, "encoder.audio.media")
        self.averaged = choose(POOLINGS, pooling, "encoder.audio.pooling")
        checked_number(max_seconds, "encoder.audio.max_seconds", low=SHORTEST_WINDOW)
        self.pooling = pooling
        self.max_seconds = max_seconds

    def settings(self) -> dict[str, Any]:
        checkpoint, revision = self._resolve()
        processor = {"max_seconds": self.max_seconds, "precision": self.precision}
        return {"checkpoint": checkpoint, "revision": revision, "pooling": self.pooling, "processor": processor}

    def load(self) -> None:
        if self._backbone is not None:
            return
        import transformers

        extractor = self._pretrained(transformers.AutoFeatureExtractor)
        if extractor.sampling_rate != self.media.sample_rate:
            raise UserError(
                f"expected encoder.audio.media.sample_rate={extractor.sampling_rate} for {self.model}, "
                f"got {self.media.sample_rate}"
            )
        speech = speech_network(extractor, self._frozen(transformers.AutoModel), self.model)
        self._require_layers(speech)
        if speech.longest is not None and self._longest > speech.longest:
            limit = speech.longest / self.media.sample_rate
            raise UserError(
                f"expected encoder.audio.max_seconds up to {limit:g} for {self.model}, got {self.max_seconds}"
            )
        self.pads_exactly = speech.pads_exactly
        self._backbone = speech

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

    def length(self, item: Waveform) -> int:
        return len(item)

    def collate(self, items: Sequence[Waveform]) -> Inputs:
        """`values`: (B, W, …, S) of W windows, and `samples`: (B, W), 0 where an utterance has fewer windows."""
        borders = [windows(len(item), self._longest) for item in items]
        samples = torch.zeros(len(items), max(map(len, borders)), dtype=torch.long)
        prepared: list[tuple[int, int, Tensor]] = []
        for row, item in enumerate(items):
            waveform = self._backbone.normalised(item)
            for place, (start, end) in enumerate(borders[row]):
                samples[row, place] = end - start
                prepared.append((row, place, self._backbone.prepared(waveform[start:end])))
        longest = max(window.shape[-1] for _, _, window in prepared)
        values = torch.zeros(*samples.shape, *prepared[0][2].shape[:-1], longest)
        for row, place, window in prepared:
            values[row, place, ..., : window.shape[-1]] = window
        return {"values": values, "samples": samples}

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        values, samples = inputs["values"], inputs["samples"]
        parts: list[list[Tensor]] = [[] for _ in samples]
        for place in range(samples.shape[1]):  # one window of each utterance at a time: memory for one is enough
            rows = samples[:, place].nonzero()[:, 0]
            hidden = self._hidden(values[rows, place], samples[rows, place])  # (N, T, L · D)
            counts = self._backbone.frames(samples[rows, place]).tolist()
            for row, states, count in zip(rows.tolist(), hidden, counts, strict=True):
                parts[row].append(states[:count])
        joined = [torch.cat(states) for states in parts]  # B of (T, L · D)
        if self.averaged:
            joined = [states.mean(0, keepdim=True) for states in joined]
        lengths = torch.tensor([len(states) for states in joined], device=values.device)
        features = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)  # (B, T, L · D)
        return features, torch.arange(features.shape[1], device=values.device) < lengths[:, None]

    def _hidden(self, values: Tensor, samples: Tensor) -> Tensor:
        with self._autocast(values.device):
            output = self._backbone(values, samples, output_hidden_states=needs_hidden_states(self.layers))
            return chosen_states(output, self.layers).float()
