"""A bidirectional LSTM of words with attention, trained from scratch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.networks import NetworkEncoder, NetworkPart
from emorec.encoders.recurrent import FrameAttention, run_lstm
from emorec.encoders.vocabulary import FIRST, PADDING, UNKNOWN, WordNumbers, packed_words, unpacked_words
from emorec.errors import UserError

VOCABULARY = "vocabulary"  # name of the buffer


@dataclass(kw_only=True, eq=False)
class BilstmAttention(NetworkEncoder):
    """Embeddings of words, a bidirectional LSTM, and attention over its states: one vector, D = 2 hidden (after Zhou et
    al. 2016, "Attention-based bidirectional long short-term memory networks for relation classification").

    The directions lie side by side instead of being added, the attention has a layer of its own, and some words are
    hidden from the network in training, so that it learns what unknown ones mean. The vocabulary is that of the
    training split; a run keeps it beside its weights.

    Args:
        minimum_count: rarer words of the training split are unknown ones.
        max_length: longer texts are cut, in words.
        embedding: width of the embeddings.
        hidden: units of the LSTM in each direction.
        unknown: share of the words that are unknown ones in training.
        dropout: after the embeddings and the attention.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    minimum_count: PositiveCount = 2
    max_length: PositiveCount = 128
    embedding: PositiveCount = 300
    hidden: PositiveCount = 128
    unknown: Share = 0.1
    dropout: Share = 0.5

    @cached_property
    def below(self) -> WordNumbers:
        return WordNumbers(minimum_count=self.minimum_count, max_length=self.max_length)

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        if VOCABULARY not in weights:
            raise UserError(f"expected the vocabulary of {self.where} among its weights, got {sorted(weights)}")
        self.below.words = unpacked_words(weights[VOCABULARY])

    def trained(self) -> NetworkPart:
        return BilstmAttentionPart(self)


class BilstmAttentionPart(NetworkPart):
    """The network of `BilstmAttention`: numbers of words (N, T, 1) to (N, 1, 2 hidden)."""

    def __init__(self, encoder: BilstmAttention) -> None:
        super().__init__()
        words, hidden = encoder.below.words, encoder.hidden
        assert words is not None
        self.reads_ids = True
        self.register_buffer(VOCABULARY, packed_words(words))
        self.unknown = encoder.unknown
        self.embedding = nn.Embedding(FIRST + len(words), encoder.embedding, padding_idx=PADDING)
        self.lstm = nn.LSTM(encoder.embedding, hidden, batch_first=True, bidirectional=True)
        self.attention = FrameAttention(2 * hidden, hidden=hidden)
        self.dropout = nn.Dropout(encoder.dropout)

    @property
    def frame_dim(self) -> int:
        return 2 * self.lstm.hidden_size

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        numbers = values[:, :, 0].long()
        if self.training:
            hidden = torch.rand(numbers.shape, device=numbers.device) < self.unknown
            numbers = numbers.masked_fill(hidden & (numbers != PADDING), UNKNOWN)
        states = run_lstm(self.lstm, self.dropout(self.embedding(numbers)), lengths)
        return self.dropout(self.attention(states, lengths)), torch.ones_like(lengths)
