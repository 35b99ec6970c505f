import pytest
import torch
from torch import nn

from emorec.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(500, 401), (250, 8, 101), (1, 200_001)])
def test_the_share_of_zeros_and_the_mean_are_those_of_torch(p: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = Dropout(p)(torch.ones(shape))
    assert float((values == 0).float().mean()) == pytest.approx(p, abs=0.005)
    assert float(values.mean()) == pytest.approx(1, abs=0.02)
    assert values.unique().tolist() == [0, pytest.approx(1 / (1 - p), rel=1e-3)]


def test_values_are_dropped_independently_of_their_neighbours() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(200_000)) != 0).float() - 0.5
    for distance in range(1, 9):  # four neighbours share one random number
        assert abs(float((kept[distance:] * kept[:-distance]).mean())) < 0.005


def test_the_gradient_is_that_of_the_values_that_stay() -> None:
    values = torch.randn(40, 30, requires_grad=True)
    dropped = Dropout(0.4)(values)
    (gradient,) = torch.autograd.grad(dropped.sum(), values)
    assert torch.equal(gradient != 0, dropped != 0)
    assert torch.allclose(gradient * values, dropped)


def test_the_seed_decides_and_evaluation_changes_nothing() -> None:
    values, dropout = torch.randn(64, 48).t(), Dropout(0.3)  # not contiguous
    first, second = (torch.manual_seed(seed) and dropout(values) for seed in (1, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, dropout(values))
    assert dropout.eval()(values) is values


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0), (1e-9, 1.0)])
def test_the_extremes_are_those_of_torch(p: float, expected: float) -> None:
    assert torch.equal(Dropout(p)(torch.ones(1000)), torch.full((1000,), expected))


def test_narrow_types_and_empty_batches_keep_their_type() -> None:
    values = torch.ones(0, 8), torch.ones(16, 8, dtype=torch.bfloat16)
    for value in values:
        dropped = Dropout(0.5)(value)
        assert (dropped.shape, dropped.dtype) == (value.shape, value.dtype)
        assert set(dropped.unique().tolist()) <= {0.0, 2.0}


def test_it_is_a_dropout_of_torch() -> None:
    assert isinstance(Dropout(0.3), nn.Dropout)
    assert repr(Dropout(0.3)) == repr(nn.Dropout(0.3))
