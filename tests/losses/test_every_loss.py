"""What holds for every loss of classification, checked for each YAML of `conf/loss`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from emorec.batch import IGNORED, Batch, FusionOutput, ModelOutput
from emorec.config.instantiation import instantiate, target_of
from emorec.errors import UserError
from emorec.losses.loss import ClassificationLoss, Loss
from tests.discovery import names, node

TASK = "emotion"
COUNTS = torch.tensor([40, 10, 0, 25])  # no utterance of the third class in training
CLASSES = len(COUNTS)
KINDS = ("none", "inverse", "effective_number")


CLASSIFICATION = [
    name
    for name in names("loss", without=("none", "several"))
    if issubclass(target_of(node("loss", name), where="loss"), ClassificationLoss)
]


@pytest.fixture(params=CLASSIFICATION)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, name: str) -> str:
    if "class_weights" not in node("loss", name) and request.param != "none":
        pytest.skip("has no class weights")
    return str(request.param)


@pytest.fixture
def loss(name: str, kind: str) -> Loss:
    return make(name, class_weights=kind)


def make(name: str, **changes: Any) -> Loss:
    torch.manual_seed(0)
    known = {key: value for key, value in changes.items() if key in node("loss", name)}
    loss = instantiate(node("loss", name, **known), where="loss", kind=Loss, task=TASK)
    loss.fit(COUNTS)
    return loss


def example(targets: list[int], logits: Tensor | None = None) -> tuple[ModelOutput, Batch]:
    """A model's output for utterances with `targets`, and their batch."""
    generator = torch.Generator().manual_seed(5)
    count = len(targets)
    if logits is None:
        logits = torch.randn(count, CLASSES, generator=generator)
    logits = logits.clone().requires_grad_()
    fused = torch.randn(count, 8, generator=generator)
    target = torch.tensor(targets)
    batch = Batch(
        id=tuple(f"u{number}" for number in range(count)),
        features={"text": fused[:, None]},
        mask={"text": torch.ones(count, 1, dtype=torch.bool)},
        present={"text": torch.ones(count, dtype=torch.bool)},
        targets={TASK: target},
        target_mask={TASK: target != IGNORED},
        speaker=torch.full((count,), -1),
        dialogue=torch.full((count,), -1),
        turn=torch.full((count,), -1),
    )
    return ModelOutput(logits={TASK: logits}, fusion=FusionOutput(fused=fused, vectors={"text": fused})), batch


def gradient(output: ModelOutput) -> Tensor:
    value = output.logits[TASK].grad
    assert value is not None
    return value


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for scalar, value in expected.items():
        torch.testing.assert_close(actual[scalar], value, rtol=1e-5, atol=1e-6)


def test_a_loss_is_named_finite_scalars(loss: Loss) -> None:
    values = loss(*example([0, 1, 3, 0, 1]))
    assert values
    assert all(value.ndim == 0 and torch.isfinite(value) for value in values.values())
    assert loss.total(values) > 0


def test_the_gradient_reaches_the_logits(loss: Loss) -> None:
    output, batch = example([0, 1, 3, 0, 1])
    loss.total(loss(output, batch)).backward()
    assert torch.isfinite(gradient(output)).all()
    assert (gradient(output).abs().sum(1) > 0).all()


def test_a_better_prediction_costs_less(loss: Loss) -> None:
    targets = [0, 1, 3]
    right = 3 * torch.nn.functional.one_hot(torch.tensor(targets), CLASSES).float()
    good, bad = (loss.total(loss(*example(targets, logits=sign * right))) for sign in (1, -1))
    assert good < bad


def test_an_utterance_without_a_target_does_not_count(loss: Loss) -> None:
    output, batch = example([0, 1, 3])
    expected = loss(output, batch)
    logits = torch.cat([output.logits[TASK].detach(), torch.tensor([[50.0, -50.0, 0.0, 10.0]])])
    longer, with_one_more = example([0, 1, 3, IGNORED], logits=logits)
    values = loss(longer, with_one_more)
    assert_equal(values, expected)
    loss.total(values).backward()
    assert (gradient(longer)[-1] == 0).all()
    assert torch.isfinite(gradient(longer)).all()


def test_a_batch_without_any_target_costs_nothing(loss: Loss) -> None:
    output, batch = example([IGNORED, IGNORED])
    total = loss.total(loss(output, batch))
    total.backward()
    assert total == 0
    assert (gradient(output) == 0).all()


def test_the_loss_is_a_mean_over_utterances(loss: Loss) -> None:
    output, batch = example([0, 1, 3, 0])
    twice = example([0, 1, 3, 0] * 2, logits=output.logits[TASK].detach().repeat(2, 1))
    assert_equal(loss(*twice), loss(output, batch))


def test_the_order_of_utterances_does_not_matter(loss: Loss) -> None:
    output, batch = example([0, 1, 3, 0])
    order = [2, 0, 3, 1]
    shuffled = example([3, 0, 0, 1], logits=output.logits[TASK].detach()[order])
    assert_equal(loss(*shuffled), loss(output, batch))


def test_a_class_absent_from_training_leaves_the_loss_finite(loss: Loss) -> None:
    output, batch = example([0, 2, 2, 3])
    total = loss.total(loss(output, batch))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(gradient(output)).all()


def test_a_batch_of_only_a_class_absent_from_training_leaves_the_loss_finite(loss: Loss) -> None:
    total = loss.total(loss(*example([2, 2])))
    assert torch.isfinite(total)


def test_large_logits_leave_loss_and_gradient_finite(loss: Loss) -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0], [0.0, -200.0, 0.0, 200.0]])
    output, batch = example([0, 1], logits=logits)
    total = loss.total(loss(output, batch))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(gradient(output)).all()


def test_half_precision_logits_are_taken(loss: Loss) -> None:
    output, batch = example([0, 1, 3])
    narrow, _ = example([0, 1, 3], logits=output.logits[TASK].detach().bfloat16())
    total = loss.total(loss(narrow, batch))
    assert torch.isfinite(total)
    torch.testing.assert_close(total.float(), loss.total(loss(output, batch)), rtol=0.05, atol=0.05)


def test_class_weights_change_the_loss(name: str) -> None:
    if "class_weights" not in node("loss", name):
        pytest.skip("has no class weights")
    values = [float(total(make(name, class_weights=kind)).detach()) for kind in KINDS]
    assert len({round(value, 6) for value in values}) == len(KINDS), values


def total(loss: Loss) -> Tensor:
    return loss.total(loss(*example([0, 0, 0, 1, 3])))


def test_the_total_weighs_each_scalar_by_its_name(name: str) -> None:
    values = make(name)(*example([0, 1, 3]))
    weighted = make(name, weights={scalar: 0.5 for scalar in values})
    fusion_loss = {"fusion/balance": torch.tensor(2.0)}
    expected = 0.5 * sum(float(value.detach()) for value in values.values()) + 2.0
    assert float(weighted.total({**values, **fusion_loss}).detach()) == pytest.approx(expected)


def test_class_weights_are_no_part_of_the_stored_weights(loss: Loss) -> None:
    assert not [key for key in loss.state_dict() if "class_weight" in key]


def test_unknown_class_weights_are_refused(name: str) -> None:
    if "class_weights" not in node("loss", name):
        pytest.skip("has no class weights")
    with pytest.raises(
        UserError, match=r"loss\.class_weights: expected 'none', 'inverse' or 'effective_number', got 'root'"
    ):
        make(name, class_weights="root")
