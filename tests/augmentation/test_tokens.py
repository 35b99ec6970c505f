"""Tokens are hidden with their probability, and those that frame a text never."""

import torch

from emorec.augmentation.tokens import TokenAugmentation
from tests.augmentation.conftest import draws


def test_tokens_are_hidden_with_their_probability_and_special_ones_never() -> None:
    torch.manual_seed(0)
    values = torch.randint(10, 99, (100, 40, 1), dtype=torch.int32)
    values[:, 0], values[:, -1] = 1, 2
    lengths = torch.full((100,), 40)
    varied, same = TokenAugmentation(dropout=0.25).vary(values, lengths, draws(100), replacement=3, kept=(1, 2))
    assert varied.dtype == values.dtype
    assert same is lengths
    is_hidden = varied != values
    assert (varied[is_hidden] == 3).all()
    assert not is_hidden[:, [0, -1]].any()
    assert 0.22 < float(is_hidden[:, 1:-1].float().mean()) < 0.28
