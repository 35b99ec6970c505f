"""Log mel spectrogram: frames, or functionals of them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from emorec.encoders.encoder import StoredType, Training, UtteranceEncoder
from emorec.encoders.functionals import COUNT, checked_pooling, functionals
from emorec.errors import check_all
from emorec.media.audio import AudioSettings, read_view
from emorec.media.fields import checked_count, checked_number
from emorec.media.source import Source

LONGEST_FRAME = 10.0  # seconds
FLOOR = 1e-6  # power below it is taken for it: -60 dB


class LogMel(UtteranceEncoder):
    """Natural logarithm of mel band power.

    Args:
        media: how sound is read: fields of `AudioSettings`.
        bands: how many mel bands.
        window: seconds of a frame.
        hop: seconds between frames.
        pooling: "none" for frames (T, bands), "functionals" for one vector (1, 8 bands).
        training: "frozen".
        dtype: how features are stored.
        views: augmented views of each utterance for training.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1
    has_spectrogram: ClassVar[bool] = True

    def __init__(
        self,
        *,
        media: Mapping[str, Any] | None = None,
        bands: int = 64,
        window: float = 0.025,
        hop: float = 0.010,
        pooling: str = "none",
        training: Training = "frozen",
        dtype: StoredType = "float32",
        views: int = 0,
    ) -> None:
        super().__init__(training=training, dtype=dtype, views=views)
        self.media: AudioSettings = AudioSettings.of(media, "encoder.audio.media")
        rate, where = self.media.sample_rate, "encoder.audio"
        check_all(
            where,
            [
                lambda: checked_count(bands, f"{where}.bands", low=1),
                lambda: checked_number(window, f"{where}.window", low=1 / rate, high=LONGEST_FRAME),
                lambda: checked_number(hop, f"{where}.hop", low=1 / rate, high=LONGEST_FRAME),
            ],
        )
        self.bands = bands
        self.window = round(window * rate)
        self.hop = round(hop * rate)
        self.pooling = checked_pooling(pooling, "encoder.audio.pooling")
        self._transform: Any = None

    @property
    def dim(self) -> int:
        return self.bands * (COUNT if self.pooling == "functionals" else 1)

    def settings(self) -> dict[str, Any]:
        processor = {"bands": self.bands, "window": self.window, "hop": self.hop, "floor": FLOOR}
        return {"pooling": self.pooling, "processor": processor}

    def load(self) -> None:
        import torchaudio

        self._transform = torchaudio.transforms.MelSpectrogram(
            sample_rate=self.media.sample_rate,
            n_fft=self.window,
            hop_length=self.hop,
            n_mels=self.bands,
            pad_mode="constant",  # mirrored edges would refuse sound shorter than half a window
        )

    def features(self, source: Source) -> NDArray[np.float32]:
        waveform, generator = read_view(source, self.media)
        with torch.inference_mode():
            frames = self._transform(torch.from_numpy(waveform)).clamp_min(FLOOR).log().T.contiguous().numpy()
        variation = self.media.variation
        if generator is not None and variation is not None and variation.masks_frames:
            frames = variation.mask(frames, generator, hop=self.hop / self.media.sample_rate)  # (T, bands)
        return functionals(frames) if self.pooling == "functionals" else frames
