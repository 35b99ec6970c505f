"""Coarse statistics of video frames: what is bright where, and what moves. Small, without any download."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emorec.encoders.encoder import StoredType, Training, UtteranceEncoder
from emorec.encoders.functionals import COUNT, checked_pooling, functionals
from emorec.errors import UserError
from emorec.media.fields import checked_count
from emorec.media.source import Source
from emorec.media.video import VideoSettings, read_video

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


class FrameStatistics(UtteranceEncoder):
    """Mean luminance, and mean luminance change since the frame before, of each cell of a grid.

    Args:
        media: how pictures are read: fields of `VideoSettings`; 8 frames of 96 pixels where it is not given.
        grid: cells a side.
        pooling: "none" for frames (frames, 2 grid²), "functionals" for one vector of 8 times that.
        training: "frozen".
        dtype: how features are stored.
        views: augmented views of each utterance for training.
    """

    modality: ClassVar[str] = "video"
    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        media: Mapping[str, Any] | None = None,
        grid: int = 16,
        pooling: str = "none",
        training: Training = "frozen",
        dtype: StoredType = "float32",
        views: int = 0,
    ) -> None:
        super().__init__(training=training, dtype=dtype, views=views)
        self.media: VideoSettings = VideoSettings.of(media or {"frames": 8, "size": 96}, "encoder.video.media")
        checked_count(grid, "encoder.video.grid", low=1)
        if self.media.size % grid:
            raise UserError(f"expected encoder.video.media.size to be a multiple of grid={grid}, got {self.media.size}")
        self.grid = grid
        self.pooling = checked_pooling(pooling, "encoder.video.pooling")

    @property
    def dim(self) -> int:
        return 2 * self.grid**2 * (COUNT if self.pooling == "functionals" else 1)

    def settings(self) -> dict[str, Any]:
        return {"pooling": self.pooling, "processor": {"grid": self.grid}}

    def features(self, source: Source) -> NDArray[np.float32]:
        grey = read_video(source, self.media).astype(np.float32) @ LUMINANCE / 255  # (N, H, W)
        cell = self.media.size // self.grid
        cells = grey.reshape(len(grey), self.grid, cell, self.grid, cell).mean(axis=(2, 4))  # (N, grid, grid)
        cells = cells.reshape(len(grey), -1)
        change = np.abs(np.diff(cells, axis=0, prepend=cells[:1]))
        rows = np.concatenate([cells, change], axis=1)
        return functionals(rows) if self.pooling == "functionals" else rows
