"""Coarse statistics of video frames: what is bright where, and what moves. Small, without any download."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emorec.annotations import PositiveCount
from emorec.encoders.encoder import Training
from emorec.encoders.functionals import FrameEncoder
from emorec.errors import UserError
from emorec.media.augmentation import LUMINANCE
from emorec.media.faces import FaceMisses
from emorec.media.source import Source
from emorec.media.video import VideoSettings, read_video


@dataclass(kw_only=True, eq=False)
class FrameStatistics(FrameEncoder):
    """Mean luminance, and mean luminance change since the frame before, of each cell of a grid: D = 2 grid².

    Args:
        media: how pictures are read; 8 frames of 96 pixels by default.
        grid: cells a side.
    """

    modality: ClassVar[str] = "video"
    version: ClassVar[int] = 1

    media: VideoSettings = field(default_factory=lambda: VideoSettings(frames=8, size=96))
    grid: PositiveCount = 16
    face_misses: FaceMisses = field(default_factory=FaceMisses, init=False, repr=False)

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        if self.media.size % self.grid:
            size, grid = self.media.size, self.grid
            raise UserError(f"expected encoder.video.media.size to be a multiple of grid={grid}, got {size}")

    @property
    def frame_dim(self) -> int:
        return 2 * self.grid**2

    def settings(self) -> dict[str, Any]:
        return {"pooling": self.pooling, "processor": {"grid": self.grid}}

    def frames(self, source: Source) -> NDArray[np.float32]:
        pictures = read_video(source, self.media, missed=self.face_misses)
        grey = pictures.astype(np.float32) @ LUMINANCE / 255  # (N, H, W)
        cell = self.media.size // self.grid
        cells = grey.reshape(len(grey), self.grid, cell, self.grid, cell).mean(axis=(2, 4))  # (N, grid, grid)
        cells = cells.reshape(len(grey), -1)
        change = np.abs(np.diff(cells, axis=0, prepend=cells[:1]))
        return np.concatenate([cells, change], axis=1)
