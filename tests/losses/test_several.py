"""Several losses at once."""

import math
from typing import Any

import pytest
import torch

from emorec.errors import UserError
from emorec.losses.cross_entropy import CrossEntropy
from emorec.losses.focal import Focal
from emorec.losses.loss import Loss
from emorec.losses.regression import MeanAbsoluteError
from emorec.losses.several import Several
from emorec.losses.supcon import SupCon
from tests.losses.test_every_loss import COUNTS, TASK, example

EXAMPLE = [0, 1, 3, 0, 1]


def parts() -> dict[str, Loss]:
    return {"cross_entropy": CrossEntropy(task=TASK), "supcon": SupCon(task=TASK)}


def several(**changes: Any) -> Several:
    return Several(task=TASK, **{**parts(), **changes})


def test_each_loss_has_its_name_and_its_weight() -> None:
    output, batch = example(EXAMPLE)
    expected = {name: part.total(part(output, batch)) for name, part in parts().items()}
    values = several(weights={"supcon": 0.5})(output, batch)
    torch.testing.assert_close(values, expected)
    total = several(weights={"supcon": 0.5}).total({**values, "fusion/balance": torch.tensor(2.0)})
    assert float(total) == pytest.approx(float(expected["cross_entropy"] + 0.5 * expected["supcon"] + 2))


def test_learned_weights_begin_equal_and_follow_the_losses() -> None:
    output, batch = example(EXAMPLE)
    loss = several(weighting="learned")
    values = loss(output, batch)
    total = loss.total(values)
    assert float(total.detach()) == pytest.approx(sum(float(value.detach()) for value in values.values()) / 2)
    total.backward()
    for name, variance in loss.log_variances.items():
        assert variance.grad is not None
        assert float(variance.grad) == pytest.approx((1 - float(values[name].detach())) / 2)
    with torch.no_grad():  # where the gradient is zero, the weight is 1 / (2 L)
        for name, variance in loss.log_variances.items():
            variance.fill_(math.log(float(values[name])))
    expected = sum((1 + math.log(float(value.detach()))) / 2 for value in values.values())
    assert float(loss.total(values).detach()) == pytest.approx(expected, rel=1e-5)


def test_class_counts_reach_each_loss() -> None:
    loss = Several(task=TASK, focal=Focal(task=TASK, class_weights="inverse"), supcon=SupCon(task=TASK))
    loss.fit(COUNTS)
    assert loss.parts["focal"].class_weight is not None


def test_one_that_detaches_the_head_does_so_for_all() -> None:
    assert several(supcon=SupCon(task=TASK, detach_classifier=True)).detaches_head
    assert not several().detaches_head


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cross_entropy": SupCon(task=TASK)}, "expected one that trains the head beside cross_entropy, supcon"),
        ({"weights": {"supcom": 1.0}}, r"loss\.weights: expected names of cross_entropy, supcon, got supcom"),
        (
            {"supcon": MeanAbsoluteError(task=TASK)},
            "expected losses of one kind of task, got classification, regression",
        ),
    ],
)
def test_losses_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        several(**changes)


def test_no_loss_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="expected losses, such as"):
        Several(task=TASK)
