"""Features that were computed elsewhere."""

import logging
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emorec.annotations import PositiveCount
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.encoders.checkpoint import LOCAL
from emorec.encoders.encoder import Training, UtteranceEncoder
from emorec.encoders.feature_files import LARGEST_ARRAY, FeatureFile, open_features
from emorec.media.source import MediaError, Source
from emorec.storage.digests import digest_of

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Precomputed(UtteranceEncoder):
    """Arrays (D,) or (T, D) by utterance id: features (1, D) or (T, D).

    The content of the file or folder is its identity; the path does not count. An utterance whose id is missing lacks
    the modality.

    Args:
        path: a .safetensors or .npz file with one array a key, a folder of <id>.npy files, or a .npy table (N, D) or
            (N, T, D) beside a .txt file of the same name with the rows' ids, one a line. Nothing is unpickled.
        largest_array: bytes of the array of one utterance; a larger one is refused.
    """

    version: ClassVar[int] = 1

    path: Path
    largest_array: PositiveCount = LARGEST_ARRAY

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        self.path = Path(self.path).expanduser()
        self._compared: set[str] = set()

    @cached_property
    def _file(self) -> FeatureFile:
        return open_features(self.path, f"{self.where}.path", self.largest_array)

    @cached_property
    def _state(self) -> str:
        return digest_of({name: self.digests.digest(path) for name, path in self._file.files.items()})

    @property
    def dim(self) -> int:
        return self._file.dim

    def settings(self) -> dict[str, Any]:
        return {"checkpoint": LOCAL, "state": self._state}

    def source(self, utterance: Utterance, manifest: Manifest, *, view: int = 0) -> Source | None:
        if manifest.dataset not in self._compared:
            self._compared.add(manifest.dataset)
            self._log_differences({item.id for item in manifest.utterances}, set(self._file.ids), manifest.dataset)
        if utterance.id not in self._file.ids:
            return None
        return Source(modality=self.modality, path=self._file.location(utterance.id), text=utterance.id)

    def _log_differences(self, corpus: Set[str], stored: Set[str], dataset: str) -> None:
        """Logs how many ids are in the corpus or in the file only."""
        if missing := corpus - stored:
            message = "%s: %d of %d utterances of %s have no features in %s and lack the modality, such as %s"
            log.warning(message, self.modality, len(missing), len(corpus), dataset, self.path, min(missing))
        if unused := stored - corpus:
            message = "%s: %d of %d ids in %s belong to no utterance of %s, such as %s"
            log.info(message, self.modality, len(unused), len(stored), self.path, dataset, min(unused))

    def load(self) -> None:
        """Checks every array."""
        self._file.check()

    def features(self, source: Source) -> NDArray[np.float32]:
        assert source.text is not None
        if source.text not in self._file.ids:
            raise MediaError(f"expected features of {source.text!r} in {self.path.name}, got none")
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
