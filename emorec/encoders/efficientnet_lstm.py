"""A pretrained EfficientNet of each frame under an LSTM, trained together."""

from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.checkpoint import read_settings
from emorec.encoders.encoder import Training
from emorec.encoders.huggingface_video import HuggingFaceVideo
from emorec.encoders.picture_part import ConvolutionPart
from emorec.encoders.recurrent import run_lstm
from emorec.errors import UserError


@dataclass(kw_only=True, eq=False)
class EfficientNetLstm(HuggingFaceVideo):
    """A pretrained EfficientNet reads each frame, an LSTM their sequence (LRCN, Donahue et al. 2015, arXiv 1411.4389);
    both train.

    Args:
        hidden: units of the LSTM, in each direction.
        depth: its layers.
        bidirectional: whether it also reads the frames from the last to the first.
        dropout: before and after the LSTM.
        pooling: over time: "mean", "mean_std", "last", or "none" for all frames.
    """

    trainable: ClassVar[tuple[Training, ...]] = ("full",)

    training: InitVar[Training] = "full"  # type: ignore[assignment]
    pooling: Literal["none", "mean", "mean_std", "last"] = "mean"  # type: ignore[assignment]
    hidden: PositiveCount = 128
    depth: PositiveCount = 1
    bidirectional: bool = False
    dropout: Share = 0.3

    @property
    def dim(self) -> int:
        return self._pooled_width(self.hidden * (2 if self.bidirectional else 1))

    def _load_network(self) -> Any:
        if self._kind.tokens:
            kind = read_settings(self.model, self.resolved[1], "config.json")["model_type"]
            raise UserError(f"expected an EfficientNet as {self.where}.model, got {kind!r} of {self.model!r}")
        return super()._load_network()

    def _convolution_part(self) -> ConvolutionPart:
        return ConvolutionLstmPart(self, **self._convolution_options())


class ConvolutionLstmPart(ConvolutionPart):
    """The network of `EfficientNetLstm`: pixels (N, F, S · S · 3) to frames (N, F, hidden).

    Args:
        encoder: the settings of the LSTM.
        options: of `ConvolutionPart`.
    """

    def __init__(self, encoder: EfficientNetLstm, **options: Any) -> None:
        super().__init__(**options)
        shape: dict[str, Any] = {"num_layers": encoder.depth, "bidirectional": encoder.bidirectional}
        self.lstm = nn.LSTM(super().frame_dim, encoder.hidden, batch_first=True, **shape)
        self.dropout = nn.Dropout(encoder.dropout)

    @property
    def frame_dim(self) -> int:
        return self.lstm.hidden_size * (2 if self.lstm.bidirectional else 1)

    def is_new(self, name: str) -> bool:
        return name.startswith("lstm.")

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        vectors, lengths = super().frames(values, lengths)
        return self.dropout(run_lstm(self.lstm, self.dropout(vectors), lengths)), lengths
