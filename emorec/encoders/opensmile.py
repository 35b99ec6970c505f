"""openSMILE's feature sets of functionals: eGeMAPS and ComParE 2016 (the extra `opensmile`)."""

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emorec.encoders.encoder import StoredType, Training, UtteranceEncoder
from emorec.errors import UserError, choose
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.source import Source

# name -> (openSMILE's name, number of functionals)
FEATURE_SETS = {"egemaps": ("eGeMAPSv02", 88), "compare": ("ComParE_2016", 6373)}


class OpenSmile(UtteranceEncoder):
    """Functionals of an utterance, (1, 88) or (1, 6373).

    eGeMAPS: Eyben et al. (2016), IEEE Trans. Affective Computing 7(2). ComParE: Schuller et al. (2016), Interspeech.
    float16 would overflow in some of ComParE's columns, so features are stored as float32.

    Args:
        feature_set: "egemaps" or "compare".
        media: how sound is read: fields of `AudioSettings`.
        training: "frozen".
        dtype: "float32".
        views: augmented views of each utterance for training.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        feature_set: str,
        media: Mapping[str, Any] | None = None,
        training: Training = "frozen",
        dtype: StoredType = "float32",
        views: int = 0,
    ) -> None:
        super().__init__(training=training, dtype=dtype, views=views)
        if dtype != "float32":
            raise UserError(f"expected encoder.audio.dtype=float32 for openSMILE, got {dtype!r}")
        self.feature_set, self._dim = choose(FEATURE_SETS, feature_set, "encoder.audio.feature_set")
        self.media: AudioSettings = AudioSettings.of(media or {"minimum_seconds": 0.1}, "encoder.audio.media")
        self._local = threading.local()  # an openSMILE engine serves one thread

    @property
    def dim(self) -> int:
        return self._dim

    def settings(self) -> dict[str, Any]:
        processor = {"feature_set": self.feature_set, "level": "functionals"}
        return {"pooling": "functionals", "processor": processor}

    def load(self) -> None:
        try:
            import opensmile  # noqa: F401
        except ImportError as error:
            raise UserError(
                "expected the package opensmile for encoder/audio=opensmile_*, found none; "
                "install emorec with its extra: pip install 'emorec[opensmile]'"
            ) from error

    def features(self, source: Source) -> NDArray[np.float32]:
        import opensmile

        if not hasattr(self._local, "engine"):
            self._local.engine = opensmile.Smile(
                feature_set=getattr(opensmile.FeatureSet, self.feature_set),
                feature_level=opensmile.FeatureLevel.Functionals,
            )
        waveform = read_audio(source, self.media)
        values = self._local.engine.process_signal(waveform, self.media.sample_rate).to_numpy(np.float32)
        # a functional without any voiced frame is undefined: 0
        defined: NDArray[np.float32] = np.nan_to_num(values.reshape(1, -1), posinf=0.0, neginf=0.0)
        return defined
