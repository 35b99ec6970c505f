"""The loss of ordered classes against a loop written from the paper's formula."""

import math
from pathlib import Path

import pytest
import torch

from emorec.batch import IGNORED
from emorec.cli import main
from emorec.losses.ordinal import Corn, log_probabilities
from emorec.models.heads import OrdinalHead
from tests.losses.test_every_loss import CLASSES, TASK, example

TARGETS = [0, 3, 1, 2, IGNORED, 0]


def from_the_paper(steps: list[list[float]], targets: list[int]) -> float:
    """For each k: the binary cross-entropy of "above k" over the utterances whose class is at least k."""
    total, terms = 0.0, 0
    for k in range(CLASSES - 1):
        for row, target in zip(steps, targets, strict=True):
            if target >= k:
                above = 1 / (1 + math.exp(-row[k]))
                total -= math.log(above if target > k else 1 - above)
                terms += 1
    return total / terms


def test_it_is_the_mean_over_all_conditional_decisions() -> None:
    steps = torch.randn(len(TARGETS), CLASSES - 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    output, batch = example(TARGETS)
    output.logits[TASK] = log_probabilities(steps)
    expected = from_the_paper(steps.tolist(), TARGETS)
    assert float(Corn(task=TASK)(output, batch)["corn"]) == pytest.approx(expected, rel=1e-6)


def test_the_probabilities_of_all_classes_sum_to_1_and_follow_from_the_steps() -> None:
    steps = torch.tensor([[0.3, -1.2, 2.0], [40.0, 40.0, 40.0], [-90.0, 5.0, 0.0]], dtype=torch.float64)
    logs = log_probabilities(steps)
    assert bool(logs.isfinite().all())
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    above = torch.sigmoid(steps[0])
    torch.testing.assert_close(logs[0, 2].exp(), above[0] * above[1] * (1 - above[2]))
    assert logs.argmax(1).tolist()[1:] == [3, 0]
    assert torch.autograd.gradcheck(log_probabilities, steps[:1].clone().requires_grad_())


def test_a_head_of_ordered_classes_has_one_step_less_than_classes() -> None:
    head = OrdinalHead(hidden=6, outputs=4, dropout=0.0)
    assert sum(item.numel() for item in head.parameters()) == 6 * 3 + 3
    torch.testing.assert_close(head(torch.randn(5, 6)).exp().sum(1), torch.ones(5))


def test_a_run_with_ordered_classes_trains_and_late_fusion_is_refused(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *train_overrides, "loss=[corn,supcon]"]) == 0
    assert "test/uar" in capsys.readouterr().out
    assert main(["train", *train_overrides, "loss=corn", "fusion=mean_logits"]) == 2
    assert "for a loss of ordered classes, got WeightedLogits" in capsys.readouterr().err
