"""Frames of an utterance, or one vector of statistics of them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emorec.encoders.encoder import UtteranceEncoder
from emorec.media.source import Source

PERCENTILES = (5, 25, 50, 75, 95)
COUNT = 3 + len(PERCENTILES)


def functionals(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, D) to (1, 8 D): mean, standard deviation, five percentiles, mean absolute difference of neighbours."""
    movement = np.abs(np.diff(frames, axis=0)).mean(axis=0) if len(frames) > 1 else np.zeros_like(frames[0])
    percentiles = np.percentile(frames, PERCENTILES, axis=0)  # (5, D)
    rows = np.vstack([frames.mean(axis=0), frames.std(axis=0), percentiles, movement])
    return rows.reshape(1, -1).astype(np.float32)


@dataclass(kw_only=True, eq=False)
class FrameEncoder(UtteranceEncoder):
    """An encoder that computes frames (T, D), or functionals of them (1, 8 D).

    Args:
        pooling: "none" for frames, "functionals" for one vector.
    """

    pooling: Literal["none", "functionals"] = "none"

    @property
    @abstractmethod
    def frame_dim(self) -> int:
        """D of a frame."""

    @abstractmethod
    def frames(self, source: Source) -> NDArray[np.float32]:
        """The frames (T, D) of one source."""

    @property
    def dim(self) -> int:
        return self.frame_dim * (COUNT if self.pooling == "functionals" else 1)

    def features(self, source: Source) -> NDArray[np.float32]:
        frames = self.frames(source)
        return functionals(frames) if self.pooling == "functionals" else frames
