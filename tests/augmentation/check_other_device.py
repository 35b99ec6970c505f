"""Run by `tests/test_other_device.py` in a process of its own: inputs are augmented where they lie."""

import pytest
import torch

from emorec.augmentation.mixup import Mixup
from tests.augmentation.conftest import EVERYTHING, MAKE, draws, padded
from tests.stand_in_device import NAME, stand_in_device


@pytest.mark.parametrize("kind", list(EVERYTHING))
def test_inputs_on_another_device_become_what_they_do_on_the_cpu(kind: str) -> None:
    torch.manual_seed(0)
    values, lengths = padded([MAKE[kind](length) for length in (30, 12)])
    expected = EVERYTHING[kind](values, lengths, draws(2))
    with stand_in_device():
        there = EVERYTHING[kind](values.to(NAME), lengths.to(NAME), draws(2).to(NAME))
        assert {tensor.device.type for tensor in there} == {NAME}
        there = there[0].cpu(), there[1].cpu()
    torch.testing.assert_close(there, expected, atol=1e-2, rtol=1e-4)


def test_a_batch_on_another_device_is_mixed_as_on_the_cpu() -> None:
    expected = Mixup(0.4)(draws(5))
    with stand_in_device():
        there = Mixup(0.4).to(NAME)(draws(5).to(NAME))
        assert there.partner.tolist() == expected.partner.tolist()
        assert there.share.item() == pytest.approx(expected.share.item())
