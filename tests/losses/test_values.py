"""Losses and class weights against values computed by hand and by torch."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from emorec.batch import IGNORED
from emorec.config.instantiation import instantiate
from emorec.errors import UserError
from emorec.losses.class_weights import Weighting, weigh_classes
from emorec.losses.cross_entropy import CrossEntropy
from emorec.losses.focal import focal_loss
from emorec.losses.loss import Loss
from tests.losses.test_every_loss import CLASSES, COUNTS, TASK, example

TARGETS = [0, 1, 3, 0, 1]


def fitted(**settings: Any) -> CrossEntropy:
    loss = CrossEntropy(task=TASK, **settings)
    loss.fit(COUNTS)
    return loss


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(label_smoothing: float) -> None:
    loss = fitted(label_smoothing=label_smoothing)
    output, batch = example(TARGETS)
    expected = cross_entropy(output.logits[TASK], torch.tensor(TARGETS), label_smoothing=label_smoothing)
    torch.testing.assert_close(loss(output, batch)["cross_entropy"], expected)


def test_weighted_cross_entropy_is_a_mean_over_weights() -> None:
    loss = fitted(class_weights="inverse")
    output, batch = example(TARGETS)
    weight = weigh_classes(COUNTS, "inverse")
    assert weight is not None
    chosen = weight[TARGETS]
    single = -output.logits[TASK].log_softmax(1)[torch.arange(len(TARGETS)), TARGETS]
    torch.testing.assert_close(loss(output, batch)["cross_entropy"], (chosen * single).sum() / chosen.sum())


def test_logits_are_adjusted_in_training_by_the_shares_of_the_classes() -> None:
    loss, output, batch = fitted(logit_adjustment=2.0), *example(TARGETS)
    shares = torch.tensor([40.0, 10, 1, 25]) / 76  # the class without utterances counts as if it had one
    expected = cross_entropy(output.logits[TASK] + 2 * shares.log(), torch.tensor(TARGETS))
    torch.testing.assert_close(loss.train()(output, batch)["cross_entropy"], expected)
    plain = cross_entropy(output.logits[TASK], torch.tensor(TARGETS))
    torch.testing.assert_close(loss.eval()(output, batch)["cross_entropy"], plain)
    assert not loss.state_dict()


def test_votes_are_targets_where_there_are_any_and_labels_elsewhere() -> None:
    loss, output, batch = fitted(targets="votes"), *example([0, 1, IGNORED])
    assert_same(loss(output, batch), fitted()(output, batch))  # no votes at all
    votes = torch.tensor([[0.5, 0.25, 0, 0.25], [math.nan] * 4, [1, 0, 0, 0]])
    log_share = output.logits[TASK].log_softmax(1)
    expected = -((votes[0] * log_share[0]).sum() + log_share[1, 1]) / 2
    voted = replace(batch, votes={TASK: votes})
    torch.testing.assert_close(loss(output, voted)["cross_entropy"], expected)
    weighted = fitted(targets="votes", class_weights="inverse")
    weight = weigh_classes(COUNTS, "inverse")
    assert weight is not None
    sums = [(weight * votes[0] * log_share[0]).sum(), weight[1] * log_share[1, 1]]
    expected = -sum(sums) / ((weight * votes[0]).sum() + weight[1])
    torch.testing.assert_close(weighted(output, voted)["cross_entropy"], expected)


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(actual, expected)


def test_focal_loss_with_gamma_zero_is_cross_entropy() -> None:
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 1, 2, 3, IGNORED, 1])
    torch.testing.assert_close(focal_loss(logits, target, 0.0), cross_entropy(logits, target))


def test_focal_loss_equals_the_formula_by_hand() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    alpha = torch.tensor([0.5, 1.0, 2.0])
    expected = (0.5 * (1 - 0.7) ** 2 * -math.log(0.7) + 2.0 * (1 - 0.4) ** 2 * -math.log(0.4)) / 2
    value = focal_loss(probabilities.log(), torch.tensor([0, 2]), 2.0, alpha)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_focal_loss_reduces_the_share_of_easy_utterances() -> None:
    easy, hard = torch.tensor([[4.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    target = torch.tensor([0])
    shares = [float(focal_loss(logits, target, 2.0) / focal_loss(logits, target, 0.0)) for logits in (easy, hard)]
    assert shares[0] < 0.01 < shares[1]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_gradient_of_the_focal_loss_is_finite_for_certain_and_ignored_utterances(gamma: float) -> None:
    logits = torch.tensor([[300.0, 0.0], [0.0, 1.0], [2.0, 1.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0, IGNORED, 1]), gamma).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[2].abs().sum() > 0


def test_inverse_weights_by_hand() -> None:
    # 1/40, 1/10 and 1/25 have the mean 0.055
    weights = weigh_classes(torch.tensor([40, 10, 0, 25]), "inverse")
    torch.testing.assert_close(weights, torch.tensor([0.025, 0.1, 0.0, 0.04]) / 0.055)


def test_effective_number_weights_by_hand() -> None:
    # (1 - 0.9^n) / (1 - 0.9) is 1 for one utterance and 1.9 for two
    weights = weigh_classes(torch.tensor([1, 2, 0]), "effective_number", beta=0.9)
    raw = torch.tensor([1 / 1.0, 1 / 1.9, 0.0])
    torch.testing.assert_close(weights, raw / (raw.sum() / 2))


def test_effective_numbers_approach_inverse_frequency_for_beta_near_one() -> None:
    counts = torch.tensor([4, 9, 2])
    weights = weigh_classes(counts, "effective_number", beta=1 - 1e-9)
    torch.testing.assert_close(weights, weigh_classes(counts, "inverse"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["inverse", "effective_number"])
def test_weights_have_mean_one_over_the_classes_that_occur(kind: Weighting) -> None:
    weights = weigh_classes(COUNTS, kind)
    assert weights is not None
    assert weights.dtype == torch.float32
    assert float(weights[COUNTS > 0].mean()) == pytest.approx(1.0)
    assert float(weights[2]) == 0.0
    assert weights[1] > weights[3] > weights[0]  # the rarer, the heavier


@pytest.mark.parametrize("kind", ["inverse", "effective_number"])
def test_equal_counts_weigh_one_each(kind: Weighting) -> None:
    torch.testing.assert_close(weigh_classes(torch.tensor([7, 7, 7]), kind), torch.ones(3))


def test_no_class_weights_is_none() -> None:
    assert weigh_classes(COUNTS, "none") is None


def test_without_class_weights_fitting_keeps_no_weights() -> None:
    assert fitted().class_weight is None


CROSS_ENTROPY = "emorec.losses.cross_entropy.CrossEntropy"


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        (CROSS_ENTROPY, {"class_weights": "sqrt"}, r"class_weights: expected 'none', .*, got 'sqrt'"),
        (CROSS_ENTROPY, {"label_smoothing": 2}, r"label_smoothing: expected a number .*below 1, got 2"),
        (CROSS_ENTROPY, {"label_smoothing": -0.1}, r"label_smoothing: expected a number of at least 0 .*, got -0\.1"),
        (CROSS_ENTROPY, {"weights": {"cross_entropy": "x"}}, r"weights\.cross_entropy: expected a number, got 'x'"),
        ("emorec.losses.focal.Focal", {"gamma": -1}, r"gamma: expected a number of at least 0, got -1"),
        ("emorec.losses.focal.Focal", {"gamma": float("nan")}, r"gamma: expected a number of at least 0, got nan"),
        ("emorec.losses.regression.Huber", {"delta": 0}, r"delta: expected a number above 0, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(target: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^the config: loss\.{message}"):
        instantiate({"_target_": target, **settings}, where="loss", kind=Loss, task=TASK)  # type: ignore[type-abstract]
