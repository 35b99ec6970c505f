"""Networks of convolutions over pixels under an LSTM, trained from scratch."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.convolutions import ChannelAttention, ConvolutionBlock
from emorec.encoders.encoder import Encoder
from emorec.encoders.networks import NetworkEncoder, NetworkPart
from emorec.encoders.pixels import Pixels, scaled
from emorec.encoders.recurrent import run_lstm
from emorec.media.faces import FaceMisses
from emorec.media.video import VideoSettings


@dataclass(kw_only=True, eq=False)
class PixelLstm(NetworkEncoder):
    """Blocks of convolutions read the pixels of frames, an LSTM what they make of them.

    Args:
        media: how pictures are read.
        channels: of each block; a block halves height and width.
        hidden: D, units of the LSTM.
        attention: of each block: "none", "se" (channels) or "cbam" (channels and places).
        dropout: before and after the LSTM.
        pooling: over time: "mean", "mean_std", "last", or "none" for all frames.
    """

    modality: ClassVar[str] = "video"

    media: VideoSettings = field(default_factory=VideoSettings)
    face_misses: FaceMisses = field(default_factory=FaceMisses, init=False, repr=False)
    channels: list[PositiveCount] = field(default_factory=lambda: [16, 32, 64, 128])
    hidden: PositiveCount = 128
    attention: ChannelAttention = "none"
    dropout: Share = 0.3
    pooling: Literal["none", "mean", "mean_std", "last"] = "mean"

    @cached_property
    def below(self) -> Encoder:
        pixels = Pixels(media=self.media, views=self.views)
        pixels.face_misses = self.face_misses
        return pixels


class PixelLstmPart(NetworkPart):
    """The network of a `PixelLstm`: pixels (N, T, S · S · 3) to frames (N, T', hidden).

    Args:
        encoder: the settings.
        pools: for each block, the neighbours of which one is kept, in each dimension.
    """

    def __init__(self, encoder: PixelLstm, pools: Iterable[tuple[int, ...]]) -> None:
        super().__init__(pooling=encoder.pooling)
        self.size = encoder.media.size
        self.blocks = nn.ModuleList(
            ConvolutionBlock(*sizes, pool=pool, attention=encoder.attention)
            for sizes, pool in zip(pairwise([3, *encoder.channels]), pools, strict=True)
        )
        self.lstm = nn.LSTM(encoder.channels[-1], encoder.hidden, batch_first=True)
        self.dropout = nn.Dropout(encoder.dropout)

    @property
    def frame_dim(self) -> int:
        return self.lstm.hidden_size

    @abstractmethod
    def vectors(self, pixels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The LSTM's input (N, T', channels) and its lengths (N,), of pixels (N, T, 3, S, S) of `lengths` (N,)."""

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        vectors, lengths = self.vectors(scaled(values, self.size), lengths)
        return self.dropout(run_lstm(self.lstm, self.dropout(vectors), lengths)), lengths
