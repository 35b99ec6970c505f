"""A residual LSTM of log mel bands with attention, trained from scratch."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.log_mel import Duration
from emorec.encoders.masked_norm import MaskedBatchNorm
from emorec.encoders.networks import LogMelNetwork, NetworkPart
from emorec.encoders.recurrent import FrameAttention, run_lstm


@dataclass(kw_only=True, eq=False)
class ResidualLstmAttention(LogMelNetwork):
    """An LSTM with a connection around it, a second one, and attention over its frames: one vector, D = hidden
    (ResLSTM-SA, Krasnoproshin & Vashkevich 2026, arXiv 2606.03359).

    It reads log mel bands of the paper's long windows instead of MFCCs and chroma.

    Args:
        hidden: units of the second LSTM; the first one has as many as there are bands.
        dropout: after the attention.
    """

    version: ClassVar[int] = 1

    window: Duration = 0.085
    hop: Duration = 0.043
    hidden: PositiveCount = 64
    dropout: Share = 0.1

    def trained(self) -> NetworkPart:
        return ResidualLstmAttentionPart(self)


class ResidualLstmAttentionPart(NetworkPart):
    """The network of `ResidualLstmAttention`: (N, T, bands) to (N, 1, hidden)."""

    def __init__(self, encoder: ResidualLstmAttention) -> None:
        super().__init__(standardised=encoder.bands)
        bands, hidden = encoder.bands, encoder.hidden
        self.first = _initialised(nn.LSTM(bands, bands, batch_first=True))
        self.first_norm = MaskedBatchNorm(bands)
        self.second = _initialised(nn.LSTM(bands, hidden, batch_first=True))
        self.attention = FrameAttention(hidden)
        self.second_norm = MaskedBatchNorm(hidden)
        self.dropout = nn.Dropout(encoder.dropout)

    @property
    def frame_dim(self) -> int:
        return self.second.hidden_size

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.mask(values, lengths)[:, None]  # (N, 1, T)
        residual = (run_lstm(self.first, values, lengths) + values).transpose(1, 2)  # (N, bands, T)
        normalised = self.first_norm(residual, mask).transpose(1, 2)
        pooled = self.attention(run_lstm(self.second, normalised, lengths), lengths)  # (N, 1, hidden)
        vector = self.dropout(self.second_norm(pooled[:, 0]))
        return vector[:, None], torch.ones_like(lengths)


def _initialised(lstm: nn.LSTM) -> nn.LSTM:
    """The LSTM with Xavier's weights, orthogonal recurrent ones, and a bias that keeps what it remembers."""
    inputs, recurrent, *biases = lstm.parameters()
    nn.init.xavier_normal_(inputs)
    nn.init.orthogonal_(recurrent)
    for bias in biases:
        nn.init.zeros_(bias)
        nn.init.constant_(bias[lstm.hidden_size : 2 * lstm.hidden_size], 0.5)  # of the forget gate: 1 in sum
    return lstm
