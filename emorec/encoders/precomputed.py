"""Features that were computed elsewhere, taken as they are."""

import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.encoders.checkpoint import LOCAL
from emorec.encoders.encoder import StoredType, Training, UtteranceEncoder
from emorec.encoders.feature_files import FeatureFile, open_features
from emorec.media.source import MediaError, Source

log = logging.getLogger(__name__)


class Precomputed(UtteranceEncoder):
    """Arrays (D,) or (T, D) by utterance id: features (1, D) or (T, D).

    The identity is the content of the file or folder; where it lies does not count. An utterance whose id is not
    there lacks the modality.

    Args:
        path: a .safetensors or .npz file with one array a key, a folder of <id>.npy files, or a .npy table (N, D) or
            (N, T, D) beside a .txt file of the same name with the rows' ids, one a line. Nothing is unpickled.
        training: "frozen".
        dtype: how features are stored.
    """

    version: ClassVar[int] = 1

    def __init__(self, *, path: str, training: Training = "frozen", dtype: StoredType = "float32") -> None:
        super().__init__(training=training, dtype=dtype)
        self.path = Path(path).expanduser()
        self._opened: FeatureFile | None = None
        self._told: set[str] = set()

    @property
    def _file(self) -> FeatureFile:
        if self._opened is None:
            self._opened = open_features(self.path, f"encoder.{self.modality}.path")
        return self._opened

    @property
    def dim(self) -> int:
        return self._file.dim

    def settings(self) -> dict[str, Any]:
        return {"checkpoint": LOCAL, "state": self._file.digest}

    def source(self, utterance: Utterance, manifest: Manifest, *, view: int = 0) -> Source | None:
        self._tell(manifest)
        if utterance.id not in self._file.ids:
            return None
        return Source(modality=self.modality, path=self._file.location(utterance.id), text=utterance.id)

    def _tell(self, manifest: Manifest) -> None:
        """Says once how many ids of the corpus and of the file have no counterpart."""
        if manifest.dataset in self._told:
            return
        self._told.add(manifest.dataset)
        wanted, found = {item.id for item in manifest.utterances}, set(self._file.ids)
        if wanted - found:
            log.warning(
                "%s: %d of %d utterances of %s have no features in %s and lack the modality, such as %s",
                self.modality,
                len(wanted - found),
                len(wanted),
                manifest.dataset,
                self.path,
                min(wanted - found),
            )
        if found - wanted:
            log.info(
                "%s: %d of %d ids in %s are of no utterance of %s, such as %s",
                self.modality,
                len(found - wanted),
                len(found),
                self.path,
                manifest.dataset,
                min(found - wanted),
            )

    def load(self) -> None:
        """Checks every array."""
        self._file.check()

    def features(self, source: Source) -> NDArray[np.float32]:
        assert source.text is not None
        if source.text not in self._file.ids:
            raise MediaError(f"expected features of {source.text!r} in {self.path.name}, found none")
        return self._file.features(source.text)


class PrecomputedText(Precomputed):
    """Features of text."""

    modality: ClassVar[str] = "text"


class PrecomputedAudio(Precomputed):
    """Features of sound."""

    modality: ClassVar[str] = "audio"


class PrecomputedVideo(Precomputed):
    """Features of pictures."""

    modality: ClassVar[str] = "video"
