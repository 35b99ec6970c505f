"""Calibrated probabilities: fitted to validation, stored with the run, and used wherever it predicts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from emorec import load_run
from emorec.cli import main
from emorec.models.calibration import TemperatureScaling
from emorec.runs.checkpoint_store import CheckpointStore


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_temperature_undoes_a_wrong_scale(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator) * 2
    target = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    scaling = TemperatureScaling()
    torch.testing.assert_close(scaling(logits), logits)
    scaling.fit(torch.cat([logits * factor, torch.full((1, 4), 9.0)]), torch.cat([target, torch.tensor([-100])]))
    assert float(scaling.temperature) == pytest.approx(factor, rel=0.05)
    assert torch.equal(scaling(logits).argmax(1), logits.argmax(1))


def test_a_model_that_is_always_right_or_never_has_a_temperature_within_bounds() -> None:
    scaling, logits = TemperatureScaling(), torch.eye(3)
    scaling.fit(logits, torch.arange(3))
    assert float(scaling.temperature) == pytest.approx(0.05, rel=0.01)
    scaling.fit(logits, torch.tensor([1, 2, 0]))
    assert float(scaling.temperature) == pytest.approx(20, rel=0.01)


@pytest.mark.slow
def test_a_calibrated_run_predicts_the_same_classes_with_other_probabilities(
    root: Path, train_overrides: list[str], small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", *train_overrides, "encoder/audio=none", "encoder/video=none", "progress=false"]
    words += ["trainer.max_epochs=10", "optimizer.lr=0.05"]
    assert main(words) == 0
    assert main([*words, "calibrate=true"]) == 0
    assert main([*words, "calibrate=false"]) == 0
    store = CheckpointStore(root / "checkpoints")
    found = [load_run(record.run_id, checkpoints=store.root) for record in store.records()]
    plain, calibrated = sorted(found, key=lambda run: bool(run.config["calibrate"]))
    assert set(calibrated.record.weights) - set(plain.record.weights) == {"calibration"}
    assert list(plain.predictions["predicted"]) == list(calibrated.predictions["predicted"])
    assert calibrated.metrics["val/loss"] < plain.metrics["val/loss"]
    assert calibrated.metrics["val/uar"] == plain.metrics["val/uar"]

    model = calibrated.model
    assert model.calibration is not None
    temperature = float(model.calibration.temperature)
    columns = [f"probability_{name}" for name in plain.task.labels]
    sharpened = np.log(plain.predictions[columns].to_numpy()) / temperature
    expected = np.exp(sharpened) / np.exp(sharpened).sum(1, keepdims=True)
    np.testing.assert_allclose(calibrated.predictions[columns].to_numpy(), expected, atol=1e-4)

    text = root / "clip.txt"
    row = calibrated.predictions.iloc[0]
    utterances = (small_demo / "version_1" / "utterances.csv").read_text().splitlines()
    text.write_text(next(line.split(",", 4)[4] for line in utterances if line.startswith(row["id"])))
    (prediction,) = calibrated.predict(text)
    np.testing.assert_allclose(list(prediction.probabilities.values()), row[columns].astype(float), atol=1e-5)

    assert main(["evaluate", f"run={calibrated.record.run_id}", "split=val"]) == 0
    assert math.isfinite(temperature)


def test_values_have_no_probabilities(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        "id,text,target,split",
        *(f"{number},word,{number / 10},{('train', 'val', 'test')[number % 3]}" for number in range(9)),
    ]
    (tmp_path / "values.csv").write_text("\n".join(rows))
    words = ["train", "dataset=custom", f"dataset.table={tmp_path / 'values.csv'}", "encoder/audio=none"]
    assert main([*words, "encoder/video=none", "calibrate=true", "progress=false"]) == 2
    assert "calibrate: expected false for a task of regression" in capsys.readouterr().err
