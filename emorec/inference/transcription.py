"""Makes the text of clips that have none, by a local Whisper model."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from emorec.config.schema import WhisperConfig
from emorec.datasets.utterance import Utterance
from emorec.encoders.checkpoint import load_pretrained, resolve_revision
from emorec.encoders.trained import windows
from emorec.errors import UserError
from emorec.features.devices import own_device
from emorec.inference.clips import UNREADABLE
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.signal import Waveform
from emorec.media.source import MediaError, Source
from emorec.storage.digests import FileDigests

AT_ONCE = 8  # windows of 30 seconds that are transcribed at a time
WINDOW_SECONDS = 30  # that Whisper reads


class Transcriber:
    """Transcribes speech by Whisper (Radford et al. 2022, arXiv 2212.04356).

    Args:
        settings: the model, a folder of this machine or a name on the hub, and the language.

    Raises:
        UserError: no model is named, or it is not there.
    """

    def __init__(self, settings: WhisperConfig) -> None:
        if settings.model is None:
            raise UserError("whisper.model: expected a folder, or a name on the hub, for text=whisper, got null")
        self.model, self.language = settings.model, settings.language
        self.revision = resolve_revision(settings.model, settings.revision, FileDigests())[1]

    def with_texts(self, clips: Sequence[Utterance]) -> list[Utterance]:
        """The clips; those that have sound and no text with what is said in it.

        Where the sound cannot be used, the reason is in the metadata, under `UNREADABLE`.
        """
        return [clip if clip.text is not None or clip.audio is None else self._with_text(clip) for clip in clips]

    def _with_text(self, clip: Utterance) -> Utterance:
        start, end = clip.segment("audio")
        source = Source(modality="audio", path=clip.audio, start=start, end=end)
        try:
            waveform = read_audio(source, AudioSettings(sample_rate=self._extractor.sampling_rate))
        except (MediaError, OSError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            return replace(clip, metadata={**clip.metadata, UNREADABLE: f"cannot be transcribed: {reason}"})
        metadata = {key: value for key, value in clip.metadata.items() if key != UNREADABLE}
        return replace(clip, text=self.text(waveform), metadata=metadata)

    def text(self, waveform: Waveform) -> str:
        """What is said in a waveform (S,) at the model's rate; long ones are read in equal windows."""
        borders = windows(len(waveform), WINDOW_SECONDS * self._extractor.sampling_rate)
        pieces = [waveform[start:end] for start, end in borders]
        texts: list[str] = []
        for first in range(0, len(pieces), AT_ONCE):
            inputs = self._extractor(
                pieces[first : first + AT_ONCE], sampling_rate=self._extractor.sampling_rate, return_tensors="pt"
            )
            with torch.inference_mode():
                tokens = self._network.generate(inputs.input_features.to(self._network.device), **self._options)
            texts += self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return " ".join(text.strip() for text in texts).strip()

    @property
    def _options(self) -> dict[str, Any]:
        """Of the generation; English models take no language."""
        return {} if self.language is None else {"language": self.language, "task": "transcribe"}

    @cached_property
    def _extractor(self) -> Any:
        from transformers import AutoFeatureExtractor

        return load_pretrained(AutoFeatureExtractor, self.model, self.revision)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return load_pretrained(AutoTokenizer, self.model, self.revision)

    @cached_property
    def _network(self) -> Any:
        from transformers import WhisperForConditionalGeneration

        network = load_pretrained(WhisperForConditionalGeneration, self.model, self.revision)
        return network.eval().to(own_device())
