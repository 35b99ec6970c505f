"""Which epoch is the best one: never one of which a loss, the monitor or a weight is not finite."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning.pytorch as lightning
import pytest
import torch

from emorec.cli import main
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.training.callbacks.best_weights import BestWeights
from emorec.training.callbacks.save_states import SaveStates
from emorec.training.preemption import Preemption

NAN, INFINITY = float("nan"), float("inf")


def epochs(folder: Path, *rows: tuple[dict[str, float], float], direction: str = "max") -> BestWeights:
    """The callback after epochs of (metrics, value of all weights)."""
    best = BestWeights(folder=folder, monitor="val/uar", direction=direction, owned=lambda: True)
    for number, (metrics, weight) in enumerate(rows):
        weights = {"fusion.gate": torch.ones(2), "head.weight": torch.tensor([1.0, weight])}
        trainer = SimpleNamespace(
            callback_metrics={"val/uar": 0.5, "val/loss": 1.0, "train/loss": 1.0, **metrics},
            current_epoch=number,
            world_size=1,
            callbacks=[],
            strategy=SimpleNamespace(lightning_module_state_dict=lambda weights=weights: weights),
        )
        best.on_train_epoch_end(cast("lightning.Trainer", trainer), cast(Any, None))
    return best


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("bad", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("name", ["val/uar", "val/loss", "train/loss"])
def test_an_epoch_with_a_score_that_is_not_finite_is_never_the_best(
    tmp_path: Path, name: str, bad: float, direction: str
) -> None:
    best = epochs(tmp_path, ({"val/uar": 0.5}, 1.0), ({"val/uar": 0.5, name: bad}, 2.0), direction=direction)
    assert (best.epoch, best.score) == (0, 0.5)
    assert best.load()["head.weight"].tolist() == [1.0, 1.0]
    assert best.diverged == f"in epoch 1 {name} is {bad}"


def test_an_epoch_with_weights_that_are_not_finite_is_never_the_best(tmp_path: Path) -> None:
    best = epochs(tmp_path, ({"val/uar": 0.9}, NAN), ({"val/uar": 0.1}, 3.0), ({"val/uar": 0.95}, INFINITY))
    assert (best.epoch, best.score) == (1, 0.1)
    assert best.load()["head.weight"].tolist() == [1.0, 3.0]
    assert best.diverged == "in epoch 0 head.weight holds values that are not finite"


def test_a_state_is_not_written_behind_a_link_that_is_planted_while_a_run_trains(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("best-0-abc.safetensors", "000000000001-abc.ckpt"):
        (tmp_path / "elsewhere" / name).touch()
    (tmp_path / "resume").symlink_to("elsewhere")
    with pytest.raises(OSError, match="expected no link"):
        epochs(tmp_path / "resume", ({}, 1.0))
    saver = SaveStates(folder=tmp_path / "resume", every_seconds=0, owned=lambda: True, preemption=Preemption(), seed=0)
    with pytest.raises(OSError, match="expected no link"):
        saver.save(cast("lightning.Trainer", SimpleNamespace(is_global_zero=True)))
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2


def test_what_diverged_first_is_known_after_a_resume(tmp_path: Path) -> None:
    best = epochs(tmp_path, ({"val/loss": NAN}, 1.0))
    resumed = BestWeights(folder=tmp_path, monitor="val/uar", direction="max", owned=lambda: True)
    resumed.load_state_dict(best.state_dict())
    assert (resumed.epoch, resumed.diverged) == (None, "in epoch 0 val/loss is nan")


def test_a_run_that_diverges_fails_with_the_epoch_and_the_first_bad_tensor_and_publishes_nothing(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*train_overrides, "encoder/audio=none", "encoder/video=none", "optimizer.lr=1e38"]
    assert main(["train", *words, "trainer.gradient_clip=null"]) == 2
    message = capsys.readouterr().err
    assert "in epoch 0 " in message
    assert "not finite" in message
    (record,) = CheckpointStore(root / "checkpoints").records()
    assert (record.status, record.weights, record.best_epoch) == ("failed", {}, None)
    assert not (root / "checkpoints" / record.run_id / "metrics.json").exists()
