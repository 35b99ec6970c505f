"""What holds for every loss of regression, checked for each YAML of `conf/loss`; and their values."""

import pytest
import torch
from torch import Tensor

from emorec.batch import Batch, FusionOutput, ModelOutput
from emorec.config.instantiation import instantiate, target_of
from emorec.losses.loss import Loss
from emorec.metrics.regression import concordance
from tests.discovery import names, node

REGRESSION = [
    name
    for name in names("loss", without=("none", "several"))
    if target_of(node("loss", name), where="loss").kind == "regression"
]
NAN = float("nan")


@pytest.fixture(params=REGRESSION)
def loss(request: pytest.FixtureRequest) -> Loss:
    return instantiate(node("loss", request.param), where="loss", kind=Loss, task="valence")


def example(predicted: list[float], target: list[float]) -> tuple[ModelOutput, Batch]:
    values = torch.tensor(predicted)[:, None].requires_grad_()  # (B, 1)
    count, fused = len(target), torch.zeros(len(target), 4)
    batch = Batch(
        id=tuple(f"u{number}" for number in range(count)),
        features={"text": fused[:, None]},
        mask={"text": torch.ones(count, 1, dtype=torch.bool)},
        present={"text": torch.ones(count, dtype=torch.bool)},
        targets={"valence": torch.tensor(target)},
        target_mask={"valence": ~torch.tensor(target).isnan()},
        speaker=torch.full((count,), -1),
        dialogue=torch.full((count,), -1),
        turn=torch.full((count,), -1),
    )
    return ModelOutput(logits={"valence": values}, fusion=FusionOutput(fused=fused, vectors={"text": fused})), batch


def gradient(loss: Loss, predicted: list[float], target: list[float]) -> Tensor:
    output, batch = example(predicted, target)
    loss.total(loss(output, batch)).backward()
    slope = output.logits["valence"].grad
    assert slope is not None
    return slope[:, 0]


def test_there_are_losses_of_regression() -> None:
    assert {"mae", "mse", "huber", "ccc"} <= set(REGRESSION)


def test_perfect_predictions_cost_nothing(loss: Loss) -> None:
    assert float(loss.total(loss(*example([1.0, -2.0, 0.5], [1.0, -2.0, 0.5])))) == pytest.approx(0, abs=1e-6)


def test_a_step_down_the_slope_costs_less(loss: Loss) -> None:
    predicted, target = [0.4, 1.5, -0.7], [1.0, -2.0, 0.5]
    slope = gradient(loss, predicted, target)
    moved = (torch.tensor(predicted) - 0.01 * slope).tolist()
    before, after = (float(loss.total(loss(*example(values, target)))) for values in (predicted, moved))
    assert after < before


def test_an_utterance_without_a_target_does_not_count(loss: Loss) -> None:
    alone = loss.total(loss(*example([0.4, 1.5], [1.0, -2.0])))
    among = loss.total(loss(*example([0.4, 9.0, 1.5], [1.0, NAN, -2.0])))
    assert float(among) == pytest.approx(float(alone))
    assert gradient(loss, [0.4, 9.0, 1.5], [1.0, NAN, -2.0])[1] == 0


def test_a_batch_without_any_target_gives_a_finite_loss_and_no_slope(loss: Loss) -> None:
    slope = gradient(loss, [0.4, 1.5], [NAN, NAN])
    assert torch.equal(slope, torch.zeros(2))


def test_the_values_are_those_of_the_definitions() -> None:
    predicted, target = [0.4, 1.5, -0.7], [1.0, -2.0, 0.5]
    expected = {
        "mae": (0.6 + 3.5 + 1.2) / 3,
        "mse": (0.36 + 12.25 + 1.44) / 3,
        "huber": (0.5 * 0.36 + (3.5 - 0.5) + (1.2 - 0.5)) / 3,
        "ccc": 1 - float(concordance(torch.tensor(target), torch.tensor(predicted))),
    }
    for name, value in expected.items():
        loss = instantiate(node("loss", name), where="loss", kind=Loss, task="valence")
        assert float(loss(*example(predicted, target))[name].detach()) == pytest.approx(value, rel=1e-5)
