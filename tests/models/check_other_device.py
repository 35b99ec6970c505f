"""Run by `tests/test_other_device.py` in a process of its own: the model works on a device that is not the CPU."""

from dataclasses import replace

import pytest
import torch

from emorec.batch import Batch
from emorec.config.instantiation import instantiate
from emorec.losses.loss import Loss
from emorec.models.emotion_model import EmotionModel
from tests.discovery import node
from tests.fusion.test_every_fusion import CASES, build
from tests.losses.test_every_loss import CLASSIFICATION
from tests.models.test_emotion_model import BATCHES, DIMS, HIDDEN, TASK, make_model
from tests.stand_in_device import NAME, stand_in_device

# every fusion and every pooling, not all pairs of them
ONCE = list(dict.fromkeys([*dict(CASES).items(), *{pooling: (name, pooling) for name, pooling in CASES}.values()]))


def trained(model: EmotionModel, device: str) -> tuple[EmotionModel, list[float]]:
    """The model after two rounds on the device, and its losses."""
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for number, batch in enumerate([*BATCHES, *BATCHES]):
        loss = model.training_step(batch.to(device), number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, losses


@pytest.mark.parametrize(("name", "pooling"), ONCE, ids=map("-".join, ONCE))
def test_training_on_another_device_equals_that_on_the_cpu(
    name: str, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # the stand-in knows no inference tensors

    def make() -> EmotionModel:
        torch.manual_seed(0)
        settings = node("fusion", name, pooling=pooling)
        if "dropout" in settings:
            settings["dropout"] = 0.0
        return make_model(fusion=build(settings, dict.fromkeys(DIMS, HIDDEN), hidden=HIDDEN), dropout=0.0)

    here, expected = trained(make(), "cpu")
    with stand_in_device():
        there, losses = trained(make(), NAME)
        assert {value.device.type for value in there.state_dict().values()} == {NAME}
        predictions = there.predict(BATCHES)
        components = there.components()
    assert losses == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(predictions.logits, here.predict(BATCHES).logits, rtol=1e-3, atol=1e-4)
    assert {value.device.type for part in components.values() for value in part.values()} == {"cpu"}


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_each_loss_is_computed_on_another_device(name: str) -> None:
    def value(device: str) -> float:
        torch.manual_seed(0)
        loss = instantiate(node("loss", name), where="loss", kind=Loss, task=TASK)
        loss.fit(torch.tensor([9, 9, 9]))
        model = make_model(dropout=0.0)
        model.loss = loss
        return trained(model, device)[1][-1]

    with stand_in_device():
        there = value(NAME)
    assert there == pytest.approx(value("cpu"), rel=1e-4)


def test_features_loaded_onto_the_device_come_to_a_model_on_the_cpu() -> None:
    batch: Batch = BATCHES[0]
    with stand_in_device():
        features = {name: values.to(NAME) for name, values in batch.features.items()}
        moved = replace(batch, features=features).to("cpu")
    assert all(torch.equal(moved.features[name], batch.features[name]) for name in DIMS)
