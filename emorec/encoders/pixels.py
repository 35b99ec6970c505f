"""Frames of a video as they are, for networks that train on pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from emorec.encoders.below_cut import as_rows
from emorec.encoders.encoder import Inputs, Training, UtteranceEncoder
from emorec.media.faces import FaceMisses
from emorec.media.source import Source
from emorec.media.video import VideoSettings, read_video

MEAN, DEVIATION = 127.5, 63.75  # of pixels, about


@dataclass(kw_only=True, eq=False)
class Pixels(UtteranceEncoder):
    """Pixels from 0 to 255 of each frame: (frames, size · size · 3) as uint8.

    Args:
        media: how pictures are read.
    """

    modality: ClassVar[str] = "video"
    version: ClassVar[int] = 1

    media: VideoSettings = field(default_factory=VideoSettings)
    face_misses: FaceMisses = field(default_factory=FaceMisses, init=False, repr=False)

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        self.dtype = "uint8"  # type: ignore[assignment]

    @property
    def dim(self) -> int:
        return 3 * self.media.size**2

    def settings(self) -> dict[str, Any]:
        return {}

    def as_part(self) -> None:
        return None

    def features(self, source: Source) -> NDArray[Any]:
        return as_rows(read_video(source, self.media, missed=self.face_misses), np.uint8)

    def collate(self, items: Sequence[NDArray[Any]]) -> Inputs:
        values = torch.from_numpy(np.stack(items))  # all have as many frames as the settings say
        return {"values": values, "mask": torch.ones(values.shape[:2], dtype=torch.bool)}


def pictures(values: torch.Tensor, size: int) -> torch.Tensor:
    """Stored pixels (N, T, S · S · 3) as float32 pictures (N, T, 3, S, S)."""
    return values.view(*values.shape[:2], size, size, 3).permute(0, 1, 4, 2, 3).float()


def scaled(values: torch.Tensor, size: int) -> torch.Tensor:
    """Stored pixels (N, T, S · S · 3) as (N, T, 3, S, S), about standardised."""
    return (pictures(values, size) - MEAN) / DEVIATION
