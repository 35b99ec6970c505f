"""A state is whole or not used, holds no code, and brings chance back; the best epoch is the first of equals."""

import csv
import logging
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from emorec.progress import Progress
from emorec.training.callbacks.history import History
from emorec.training.callbacks.save_states import GENERATIONS, RunTakenOverError, SaveStates
from emorec.training.states import AtomicCheckpointIO, newest_state, states


def save(folder: Path, step: int, **content: Any) -> Path:
    """Saves a state as training does and returns its path."""
    before = set(states(folder))
    folder.mkdir(exist_ok=True)
    AtomicCheckpointIO().save_checkpoint({"step": step, **content}, folder / f"{step:012d}.ckpt")
    (path,) = set(states(folder)) - before
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


# ---------------------------------------------------------------------------------------------- states


def test_a_state_is_read_back_as_it_was_saved_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = save(tmp_path, 10, weights={"a": torch.arange(3.0)}, rows=[{"epoch": 0, "uar": 0.5}])
    assert list(tmp_path.iterdir()) == [path]
    assert path.name.startswith("000000000010-")
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert (loaded["step"], loaded["rows"]) == (10, [{"epoch": 0, "uar": 0.5}])
    assert torch.equal(loaded["weights"]["a"], torch.arange(3.0))


def test_the_newest_state_is_the_one_of_the_latest_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    paths = [save(tmp_path, step) for step in (90, 1000, 200)]
    assert newest_state(tmp_path) == paths[1]
    assert caplog.text == ""


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_a_broken_newest_state_is_told_of_and_the_one_before_it_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    older, newest = save(tmp_path, 10), save(tmp_path, 20)
    damage(newest)
    caplog.set_level(logging.WARNING)
    assert newest_state(tmp_path) == older
    assert newest.name in caplog.text
    assert f"resuming from an older state, {older.name}" in caplog.text


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_where_all_states_are_broken_there_is_none_and_each_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    paths = [save(tmp_path, step) for step in (10, 20)]
    for path in paths:
        damage(path)
    caplog.set_level(logging.WARNING)
    assert newest_state(tmp_path) is None
    assert all(path.name in caplog.text for path in paths)


def test_without_states_there_is_none_and_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / ".000000000010.ckpt.0.tmp").touch()  # what a killed writer leaves
    (tmp_path / "last.ckpt").symlink_to(tmp_path / "gone.ckpt")
    assert newest_state(tmp_path) is None
    assert newest_state(tmp_path / "nowhere") is None
    assert caplog.text == ""


class Harmful:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.path),))


def test_a_state_that_holds_an_object_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "resume", 10, harm=Harmful(str(tmp_path / "harmed")))
    assert newest_state(tmp_path / "resume") == path, "its digest is right"
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO().load_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "harmed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "harmed").exists(), "the object would have done harm"


def test_a_save_that_fails_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    older = save(tmp_path, 10)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        AtomicCheckpointIO().save_checkpoint({"no": lambda: None}, tmp_path / "000000000020.ckpt")
    assert list(tmp_path.iterdir()) == [older]


# --------------------------------------------------------------------------------------------- training


class Scripted(lightning.LightningModule):
    """Trains one number, and scores what it is told to, an epoch each."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.scores = scores
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[float, float, float]] = []

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        self.seen.append((float(torch.rand(())), float(np.random.rand()), random.random()))
        self.log("val/uar", self.scores[self.current_epoch], on_step=False, on_epoch=True)
        return (self.weight - batch.mean()).square().sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.125)


def fit(
    model: Scripted, *callbacks: lightning.Callback, folder: Path, epochs: int | None = None, state: Path | None = None
) -> None:
    """Trains an epoch a score, of three steps each."""
    trainer = lightning.Trainer(
        max_epochs=len(model.scores) if epochs is None else epochs,
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(
        torch.ones(3, 1), batch_size=1, generator=torch.Generator()
    )  # draws nothing from the global chance
    trainer.fit(model, loader, ckpt_path=None if state is None else str(state))


def make_history(folder: Path, direction: str = "max") -> History:
    return History(
        path=folder / "history.csv", monitor="val/uar", direction=direction, progress=Progress("a run", 5, False)
    )


def make_saver(folder: Path, *, every_seconds: float = 0.0, owned: bool = True) -> SaveStates:
    return SaveStates(folder=folder / "resume", every_seconds=every_seconds, owned=lambda: owned)


@pytest.mark.parametrize(("epochs", "steps"), [(1, [3, 2]), (2, [6, 5]), (5, [15, 14])])
def test_the_newest_two_states_are_kept(tmp_path: Path, epochs: int, steps: list[int]) -> None:
    fit(Scripted([0.5] * epochs), make_saver(tmp_path), folder=tmp_path)
    found = states(tmp_path / "resume")
    assert [int(path.name.partition("-")[0]) for path in found] == steps
    assert len(list((tmp_path / "resume").iterdir())) == len(steps) <= GENERATIONS
    assert newest_state(tmp_path / "resume") == found[0]


def test_no_state_is_saved_before_its_time(tmp_path: Path) -> None:
    fit(Scripted([0.5] * 3), make_saver(tmp_path, every_seconds=3600.0), folder=tmp_path)
    assert not (tmp_path / "resume").exists()


def test_training_ends_where_another_process_has_taken_the_run_over(tmp_path: Path) -> None:
    with pytest.raises(RunTakenOverError):
        fit(Scripted([0.5] * 3), make_saver(tmp_path, owned=False), folder=tmp_path)
    assert not (tmp_path / "resume").exists()


def chance() -> list[Any]:
    return [torch.rand(4).tolist(), np.random.normal(size=3).tolist(), random.gauss(0, 1), random.random()]


def test_the_chance_of_torch_numpy_and_python_goes_on_where_it_was(tmp_path: Path) -> None:
    chance()  # so that the Gaussians of numpy and Python have one in store
    saved = save(tmp_path, 1, callback=make_saver(tmp_path).state_dict())
    wanted = chance()
    assert chance() != wanted
    resumed = make_saver(tmp_path)
    resumed.load_state_dict(AtomicCheckpointIO().load_checkpoint(saved)["callback"])
    assert chance() != wanted, "loading alone changes nothing: Lightning draws until training starts"
    trainer, model = lightning.Trainer(logger=False, enable_progress_bar=False), Scripted([])
    resumed.on_train_start(trainer, model)
    assert chance() == wanted
    resumed.on_train_start(trainer, model)
    assert chance() != wanted, "once is enough"


def test_a_resumed_training_draws_and_scores_as_an_undisturbed_one(tmp_path: Path) -> None:
    scores = [0.25, 0.75, 0.5, 0.75]
    whole, history = Scripted(scores), make_history(tmp_path)
    lightning.seed_everything(3, verbose=False)
    fit(whole, history, make_saver(tmp_path / "whole"), folder=tmp_path)
    first, second, again = Scripted(scores), Scripted(scores), make_history(tmp_path)
    lightning.seed_everything(3, verbose=False)
    fit(first, make_history(tmp_path), make_saver(tmp_path), folder=tmp_path, epochs=2)
    lightning.seed_everything(3, verbose=False)
    fit(second, again, make_saver(tmp_path), folder=tmp_path, state=newest_state(tmp_path / "resume"))
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)
    assert [row["epoch"] for row in again.rows] == [0, 1, 2, 3]
    assert [row["val/uar"] for row in again.rows] == scores
    assert (again.best_epoch, again.best_score) == (history.best_epoch, history.best_score) == (1, 0.75)
    assert torch.equal(again.best_weights["weight"], history.best_weights["weight"])


# ---------------------------------------------------------------------------------------------- history


@pytest.mark.parametrize(
    ("direction", "scores", "best"),
    [
        ("max", [0.25, 0.75, 0.5, 0.75], 1),
        ("min", [0.5, 0.25, 0.25, 0.75], 1),
        ("max", [0.5, 0.5, 0.5], 0),
        ("min", [0.5, 0.5, 0.5], 0),
        ("max", [0.25, 0.5, 0.75], 2),
        ("max", [-0.75, -0.25], 1),
    ],
)
def test_the_best_epoch_is_the_first_of_equals_and_its_weights_are_kept(
    tmp_path: Path, direction: str, scores: list[float], best: int
) -> None:
    history = make_history(tmp_path, direction)
    fit(Scripted(scores), history, folder=tmp_path)
    assert (history.best_epoch, history.best_score) == (best, scores[best])
    fresh = Scripted(scores)
    fit(fresh, folder=tmp_path, epochs=best + 1)
    assert torch.equal(history.best_weights["weight"], fresh.weight.detach())


def test_the_kept_weights_are_a_copy(tmp_path: Path) -> None:
    history, model = make_history(tmp_path), Scripted([0.75, 0.25, 0.25])
    fit(model, history, folder=tmp_path)
    assert not torch.equal(history.best_weights["weight"], model.weight.detach())


def test_the_epochs_are_written_as_a_table_with_a_column_a_metric(tmp_path: Path) -> None:
    history = make_history(tmp_path)
    fit(Scripted([0.25, 0.75, 0.5]), history, folder=tmp_path)
    history.write()
    with (tmp_path / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [row["step"] for row in rows] == ["3", "6", "9"]
    assert [float(row["val/uar"]) for row in rows] == [0.25, 0.75, 0.5]
    assert {float(row["lr"]) for row in rows} == {0.125}


def test_a_metric_that_some_epochs_lack_is_left_blank_there(tmp_path: Path) -> None:
    history = make_history(tmp_path)
    history.rows = [{"epoch": 0, "val/uar": 0.5}, {"epoch": 1, "val/uar": 0.75, "train/loss": 1.5}]
    history.write()
    assert (tmp_path / "history.csv").read_text() == "epoch,val/uar,train/loss\n0,0.5,\n1,0.75,1.5\n"


@pytest.mark.parametrize("direction", ["max", "min"])
def test_an_epoch_whose_score_is_no_number_is_not_the_best(tmp_path: Path, direction: str) -> None:
    history = make_history(tmp_path, direction)
    fit(Scripted([float("nan"), 0.25, float("nan")]), history, folder=tmp_path)
    assert (history.best_epoch, history.best_score) == (1, 0.25)
