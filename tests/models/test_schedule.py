"""Warm-up and decay against values computed by hand."""

from itertools import pairwise

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from emorec.config.instantiation import instantiate
from emorec.errors import UserError
from emorec.models.schedule import WarmupCosine

RATE = 0.1


def schedule(**settings: float) -> WarmupCosine:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    return WarmupCosine(optimizer, **{"total_steps": 20, **settings})  # type: ignore[arg-type]


def rates(made: WarmupCosine, steps: int) -> list[float]:
    """The rate of each step, as the optimiser sees it."""
    values = []
    for _ in range(steps):
        values.append(made.optimizer.param_groups[0]["lr"])
        made.optimizer.step()
        made.step()
    return values


def test_the_rate_climbs_in_equal_steps_to_the_whole_rate() -> None:
    lr = rates(schedule(warmup=0.25), 20)
    assert lr[:5] == pytest.approx([RATE * share for share in (0.2, 0.4, 0.6, 0.8, 1.0)])
    assert max(lr) == pytest.approx(RATE)


def test_after_the_warm_up_the_rate_falls_as_half_a_cosine() -> None:
    lr = rates(schedule(warmup=0.2), 21)
    assert lr[4] == pytest.approx(RATE)
    assert lr[8] == pytest.approx(RATE * (2 + 2**0.5) / 4)  # a quarter of the way
    assert lr[12] == pytest.approx(RATE / 2)
    assert lr[20] == pytest.approx(0.0, abs=1e-12)
    falling = lr[4:]
    assert all(later < earlier for earlier, later in pairwise(falling))


def test_the_floor_is_what_is_left_at_the_end_and_after_it() -> None:
    lr = rates(schedule(warmup=0.1, floor=0.3), 30)
    assert lr[20:] == pytest.approx([0.3 * RATE] * 10)
    assert min(lr[2:]) >= 0.3 * RATE - 1e-12


def test_a_floor_of_one_keeps_the_rate() -> None:
    assert rates(schedule(warmup=0.1, floor=1.0), 25)[2:] == pytest.approx([RATE] * 23)


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert rates(schedule(warmup=0.0), 20)[0] == pytest.approx(RATE)


@pytest.mark.parametrize("total_steps", [1, 2, 3])
def test_a_very_short_training_has_a_rate_in_each_step(total_steps: int) -> None:
    lr = rates(schedule(total_steps=total_steps), total_steps)
    assert all(0 < rate <= RATE for rate in lr)


def test_each_parameter_group_keeps_its_own_rate() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.01)]
    optimizer = SGD(groups)
    WarmupCosine(optimizer, total_steps=20, warmup=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.001])


def test_a_saved_schedule_goes_on_where_it_was() -> None:
    whole = rates(schedule(), 20)
    first = schedule()
    rates(first, 9)
    state, rate = first.state_dict(), first.optimizer.state_dict()
    second = schedule()
    second.optimizer.load_state_dict(rate)
    second.load_state_dict(state)
    assert rates(second, 11) == pytest.approx(whole[9:])


@pytest.mark.parametrize("settings", [{"warmup": -0.1}, {"warmup": 1.0}, {"floor": -0.1}, {"floor": 1.5}])
def test_shares_outside_their_range_are_refused(settings: dict[str, float]) -> None:
    node = {"_target_": "emorec.models.schedule.WarmupCosine", **settings}
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    (key,) = settings
    with pytest.raises(
        UserError, match=rf"scheduler\.{key}: expected a number of at least 0 and .* 1, got {settings[key]}"
    ):
        instantiate(node, where="scheduler", kind=LRScheduler, optimizer=optimizer, total_steps=20)
