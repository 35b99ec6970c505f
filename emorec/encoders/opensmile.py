"""openSMILE's feature sets of functionals: eGeMAPS and ComParE 2016 (the extra `opensmile`)."""

import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from emorec.encoders.encoder import Training, UtteranceEncoder
from emorec.errors import UserError
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.source import Source

# name -> (openSMILE's name, number of functionals)
FEATURE_SETS = {"egemaps": ("eGeMAPSv02", 88), "compare": ("ComParE_2016", 6373)}


@dataclass(kw_only=True, eq=False)
class OpenSmile(UtteranceEncoder):
    """Functionals of an utterance, (1, 88) or (1, 6373).

    eGeMAPS: Eyben et al. (2016), IEEE Trans. Affective Computing 7(2). ComParE: Schuller et al. (2016), Interspeech.

    Args:
        feature_set: "egemaps" or "compare".
        media: how sound is read.
        dtype: "float32", as some of ComParE's columns overflow float16.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1

    feature_set: Literal["egemaps", "compare"]
    media: AudioSettings = field(default_factory=lambda: AudioSettings(minimum_seconds=0.1))
    dtype: Literal["float32"] = "float32"

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        self._local = threading.local()  # an openSMILE engine serves one thread

    @property
    def dim(self) -> int:
        return FEATURE_SETS[self.feature_set][1]

    def settings(self) -> dict[str, Any]:
        processor = {"feature_set": FEATURE_SETS[self.feature_set][0], "level": "functionals"}
        return {"pooling": "functionals", "processor": processor}

    def load(self) -> None:
        try:
            import opensmile  # noqa: F401
        except ImportError as error:
            raise UserError(
                "expected the package opensmile for encoder/audio=opensmile_*, got none; "
                "install emorec with its extra: pip install 'emorec[opensmile]'"
            ) from error

    def features(self, source: Source) -> NDArray[np.float32]:
        import opensmile

        if not hasattr(self._local, "engine"):
            self._local.engine = opensmile.Smile(
                feature_set=getattr(opensmile.FeatureSet, FEATURE_SETS[self.feature_set][0]),
                feature_level=opensmile.FeatureLevel.Functionals,
            )
        waveform = read_audio(source, self.media)
        values = self._local.engine.process_signal(waveform, self.media.sample_rate).to_numpy(np.float32)
        # functionals of voiced frames are undefined where there is none: 0
        defined: NDArray[np.float32] = np.nan_to_num(values.reshape(1, -1), posinf=0.0, neginf=0.0)
        return defined
