"""Numbers of a key are spread as they should be, and depend on nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from emorec.draws import between, chance, keys_of, normal, uniform, white_noise

KEYS = keys_of([f"u{number}" for number in range(500)])
FUNCTIONS: list[Callable[..., Tensor]] = [uniform, normal, white_noise]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_numbers_depend_on_the_key_the_stream_and_their_position_alone(function: Callable[..., Tensor]) -> None:
    numbers = function(KEYS, 30, stream=3)
    assert torch.equal(function(KEYS[[7, 2]], 11, stream=3), numbers[[7, 2], :11])
    assert not torch.isclose(function(KEYS, 30, stream=4), numbers).all(1).any()
    assert len(numbers.unique(dim=0)) == len(KEYS)


@pytest.mark.parametrize(
    ("function", "mean", "variance"), [(uniform, 0.5, 1 / 12), (normal, 0.0, 1.0), (white_noise, 0.0, 1.0)]
)
def test_numbers_have_their_moments_and_no_correlation(
    function: Callable[..., Tensor], mean: float, variance: float
) -> None:
    numbers = function(KEYS, 400, stream=1).double()
    assert float(numbers.mean()) == pytest.approx(mean, abs=0.01)
    assert float(numbers.var()) == pytest.approx(variance, rel=0.02)
    centred = numbers - mean
    for lag in (1, 2, 3, 4, 5):
        assert abs(float((centred[:, lag:] * centred[:, :-lag]).mean())) < 0.01
    other = function(KEYS, 400, stream=2).double() - mean
    assert abs(float((centred * other).mean())) < 0.01
    assert abs(float((centred[1:] * centred[:-1]).mean())) < 0.01


def test_intervals_and_chances_are_kept() -> None:
    numbers = between(KEYS, (-6.0, 6.0), stream=1)
    assert -6 <= numbers.min() < -5.8
    assert 5.8 < numbers.max() < 6
    assert 0.2 < float(chance(KEYS, 0.3, stream=1).float().mean()) < 0.4
    assert not chance(KEYS, 0.0, stream=1).any()
    assert chance(KEYS, 1.0, stream=1).all()
