"""Run by `tests/test_other_device.py` in a process of its own: `emorec train` on a device that is not the CPU."""

import csv
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.accelerators.cpu import CPUAccelerator
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from safetensors.torch import load_file
from torch import Tensor

from emorec.batch import Batch, ModelOutput
from emorec.cli import main
from emorec.features.reader import FeatureReader
from emorec.models.emotion_model import EmotionModel
from tests.stand_in_device import NAME, stand_in_device

TYPES = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PRECISIONS = list(TYPES)
SCALING = ["32", "16-mixed"]  # without and with a scaler of gradients; bfloat16 has none either
Train = Callable[..., int]


class StandInAccelerator(CPUAccelerator):
    """What Lightning asks of a device, for the stand-in."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == NAME


def _trainer(make: Callable[..., Any], **settings: Any) -> Any:
    """Lightning's trainer as it would be with a GPU."""
    precision = settings.pop("precision")
    if precision != 32:
        settings["plugins"] = [*settings["plugins"], MixedPrecision(precision, NAME)]
    strategy = SingleDeviceStrategy(device=torch.device(f"{NAME}:0"), accelerator=StandInAccelerator())
    return make(**{**settings, "strategy": strategy, "accelerator": "auto"})


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features for all trainings."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(train_overrides: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains on the device into a root: (root, overrides) -> exit code."""
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # the stand-in knows no inference tensors
    monkeypatch.setattr(lightning, "Trainer", partial(_trainer, lightning.Trainer))
    monkeypatch.setattr("emorec.training.lifecycle.check_devices", lambda _: None)
    monkeypatch.setattr("emorec.training.evaluation.own_device", lambda: NAME)

    def run(root: Path, *words: str) -> int:
        monkeypatch.setenv("EMOREC_ROOT", str(root))
        with stand_in_device():
            stored = ["extraction.device=cpu", f"paths.cache={cache}"]
            return main(["train", *train_overrides, *stored, *words])

    return run


def result(root: Path) -> tuple[dict[str, Any], dict[str, Tensor], list[dict[str, str]]]:
    """Metrics, weights and history of the one run."""
    (folder,) = (path.parent for path in root.glob("checkpoints/*/metrics.json"))
    weights = {
        f"{path.stem}.{name}": value
        for path in sorted(folder.glob("model/*.safetensors"))
        for name, value in load_file(path).items()
    }
    with (folder / "history.csv").open() as stream:
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]
    return json.loads((folder / "metrics.json").read_text()), weights, history


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_on_a_device_gives_what_the_cpu_gives(  # noqa: PLR0917
    precision: str,
    train: Train,
    train_overrides: list[str],
    cache: Path,
    empty_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, total_loss, types = ["model.dropout=0", "trainer.max_epochs=2"], EmotionModel._total_loss, set()

    def noted(model: EmotionModel, output: ModelOutput, batch: Batch) -> Tensor:
        types.update(logits.dtype for logits in output.logits.values())
        return total_loss(model, output, batch)

    monkeypatch.setattr(EmotionModel, "_total_loss", noted)
    assert train(empty_root / "there", *words, f"trainer.precision={precision}") == 0
    assert types == {TYPES[precision]}
    there, weights, _ = result(empty_root / "there")
    monkeypatch.undo()
    monkeypatch.setenv("EMOREC_ROOT", str(empty_root / "here"))
    assert main(["train", *train_overrides, f"paths.cache={cache}", *words]) == 0
    here, expected, _ = result(empty_root / "here")
    close = {"rtol": 1e-4, "atol": 1e-5} if precision == "32" else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(weights, expected, **close)
    assert there["val/loss"] == pytest.approx(here["val/loss"], rel=close["rtol"])


@pytest.mark.parametrize("precision", SCALING)
def test_a_training_on_a_device_that_is_stopped_within_an_epoch_goes_on_exactly(
    precision: str, train: Train, empty_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"trainer.precision={precision}", "scheduler=warmup_cosine", "batch_size=4"]
    assert train(empty_root / "undisturbed", *words) == 0
    step, steps = EmotionModel.training_step, []

    def stopped(model: EmotionModel, batch: Batch, batch_idx: int) -> Tensor:
        steps.append(batch_idx)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(model, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(EmotionModel, "training_step", stopped)
        assert train(empty_root / "stopped", *words) == 75
    assert steps == [0, 1, 2, 3, 0, 1]
    assert train(empty_root / "stopped", *words) == 0
    expected, found = result(empty_root / "undisturbed"), result(empty_root / "stopped")
    assert found[0] == expected[0]
    assert found[2] == expected[2]
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][name], value) for name, value in expected[1].items())


@pytest.mark.parametrize("precision", SCALING)
def test_gradients_are_clipped_as_they_are_and_not_as_they_are_scaled(
    precision: str, train: Train, empty_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: dict[str, list[float]] = {"before": [], "after": []}

    def note(when: str, model: EmotionModel) -> None:
        scaler = getattr(model.trainer.precision_plugin, "scaler", None)
        assert (scaler.get_scale() if scaler else 1) == (2**16 if precision == "16-mixed" else 1)
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        norms[when].append(float(torch.nn.utils.get_total_norm(gradients)))

    monkeypatch.setattr(EmotionModel, "on_before_optimizer_step", lambda model, *_: note("before", model))
    monkeypatch.setattr(EmotionModel, "on_train_batch_end", lambda model, *_: note("after", model))
    assert (
        train(empty_root, f"trainer.precision={precision}", "trainer.gradient_clip=0.05", "trainer.max_epochs=1") == 0
    )
    assert len(norms["before"]) > 1
    for before, after in zip(norms["before"], norms["after"], strict=True):
        assert 0.05 < before < 100
        assert after == pytest.approx(0.05, rel=1e-3)


def test_features_held_on_the_device_train_as_those_in_memory(
    train: Train, empty_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emorec.features.store.own_device", lambda: NAME)
    gather, devices = FeatureReader.gather, set()

    def noted(reader: FeatureReader, indices: Tensor) -> tuple[Tensor, Tensor]:
        values, mask = gather(reader, indices)
        devices.add(values.device.type)
        return values, mask

    monkeypatch.setattr(FeatureReader, "gather", noted)
    assert train(empty_root / "memory", "features.preload=ram") == 0
    assert devices == {"cpu"}
    assert train(empty_root / "device", "features.preload=device") == 0
    assert devices == {"cpu", NAME}
    (_, expected, _), (_, found, _) = result(empty_root / "memory"), result(empty_root / "device")
    torch.testing.assert_close(found, expected)
