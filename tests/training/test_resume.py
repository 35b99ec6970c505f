"""States are whole or not used, hold no code and restore the random generators; of equal epochs the first is best."""

import csv
import json
import logging
import os
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from emorec.cli import main
from emorec.errors import RunTakenOverError, UserError
from emorec.models.lightning_overhead import EpochCallback
from emorec.progress import Progress
from emorec.training.callbacks.best_weights import BestWeights
from emorec.training.callbacks.history import History
from emorec.training.callbacks.save_states import GENERATIONS, SaveStates
from emorec.training.preemption import Preemption
from emorec.training.states import AtomicCheckpointIO, check_state, newest_state, read_state, states


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
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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
def test_a_damaged_newest_state_is_reported_and_the_one_before_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    older, newest = save(tmp_path, 10), save(tmp_path, 20)
    damage(newest)
    caplog.set_level(logging.WARNING)
    assert newest_state(tmp_path) == older
    assert newest.name in caplog.text
    assert f"resuming from an older state, {older.name}" in caplog.text


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_if_all_states_are_damaged_none_is_used_and_each_is_reported(
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


WHOLE: dict[str, Any] = {
    **{"epoch": 1, "global_step": 8, "pytorch-lightning_version": "2.6.6", "state_dict": {}, "loops": {}},
    **{"optimizer_states": [], "lr_schedulers": []},
    "callbacks": {"History": {"rows": []}, "BestWeights": {"epoch": 0, "score": 0.5}, "SaveStates": {"ranks": []}},
}


def changed(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in {**WHOLE, **values}.items() if value is not None}


NO_STATES: dict[str, Any] = {
    "a tensor": torch.zeros(2),
    "a list": [1, 2],
    "nothing": {},
    "numbers for names": {1: 2},
    "weights alone": {"weight": torch.zeros(2)},
    "an epoch in words": changed(epoch="one"),
    "an epoch that is true": changed(epoch=True),
    "no weights": changed(state_dict=None),
    "loops as a list": changed(loops=[]),
    "callbacks as a list": changed(callbacks=[]),
    "callbacks of another program": changed(callbacks={"ModelCheckpoint": {}}),
    "a history as a text": changed(callbacks={**WHOLE["callbacks"], "History": "rows"}),
    "best weights as a list": changed(callbacks={**WHOLE["callbacks"], "BestWeights": []}),
    "best weights elsewhere": changed(callbacks={**WHOLE["callbacks"], "BestWeights": {"file": "../../other"}}),
    "a number for best weights": changed(callbacks={**WHOLE["callbacks"], "BestWeights": {"file": 3}}),
}


@pytest.mark.parametrize("content", NO_STATES.values(), ids=NO_STATES)
def test_what_is_no_state_is_refused_in_a_line(content: Any, tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "000000000010.ckpt")
    (path,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=r"expected .*, got .*rerun=true") as caught:
        check_state(newest_state(tmp_path) or path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04" + bytes(100), b"\x80\x04N.", b"\x80\x02]q\x00(K\x01", b"text\n" * 99]
)
def test_a_file_of_another_kind_is_no_state(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "1-0.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="expected a state"):
        check_state(tmp_path / "1-0.ckpt")


def test_only_files_are_states(tmp_path: Path) -> None:
    (tmp_path / "1-0.ckpt").mkdir()
    os.mkfifo(tmp_path / "2-0.ckpt")
    assert newest_state(tmp_path) is None


def test_a_whole_state_is_one(tmp_path: Path) -> None:
    check_state(save(tmp_path, 1, **WHOLE))


class Harmful:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.path),))


def test_a_state_that_holds_an_object_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "resume", 10, harm=Harmful(str(tmp_path / "harmed")))
    readers: list[Callable[[], Any]] = [
        lambda: newest_state(tmp_path / "resume"),  # its digest is right
        lambda: AtomicCheckpointIO().load_checkpoint(path),
        lambda: AtomicCheckpointIO().load_checkpoint(path, weights_only=False),
    ]
    for read in readers:
        with pytest.raises(UserError) as caught:
            read()
        assert str(caught.value) == (
            f"expected a state of tensors and primitives, got other objects ({path}; rerun=true starts the run again)"
        )
    assert not (tmp_path / "harmed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "harmed").exists(), "the object would have done harm"


def test_a_run_whose_state_holds_an_object_ends_in_one_line(
    root: Path, train_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", *train_overrides, "trainer.max_epochs=1", "progress=false"]
    assert main(words) == 0
    (path,) = (root / "checkpoints").glob("*/run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "interrupted"}))
    save(path.parent / "resume", 10, harm=Harmful(str(tmp_path / "harmed")))
    capsys.readouterr()
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "tensors and primitives" in line]
    assert [line.partition(", got")[0] for line in lines] == [
        "emorec train: expected a state of tensors and primitives"
    ]
    assert not (tmp_path / "harmed").exists()
    assert main([*words, "rerun=true"]) == 0


def test_a_save_that_fails_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    older = save(tmp_path, 10)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        AtomicCheckpointIO().save_checkpoint({"no": lambda: None}, tmp_path / "000000000020.ckpt")
    assert list(tmp_path.iterdir()) == [older]


# --------------------------------------------------------------------------------------------- training


class Scripted(lightning.LightningModule):
    """Trains one number, and logs a given score in each epoch."""

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
    """Trains one epoch of three steps for each score."""
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
    own_generator = torch.Generator()  # so that the loader draws nothing from the global one
    loader = DataLoader(torch.ones(3, 1), batch_size=1, generator=own_generator)
    trainer.fit(model, loader, ckpt_path=None if state is None else str(state))


def make_history(folder: Path) -> History:
    return History(path=folder / "history.csv", monitor="val/uar", progress=Progress("a run", 5, False))


def make_best(folder: Path, direction: str = "max", *, owned: bool = True) -> BestWeights:
    return BestWeights(folder=folder / "resume", monitor="val/uar", direction=direction, owned=lambda: owned)


def best_files(folder: Path) -> list[str]:
    """The files of best weights, without their digests."""
    return sorted(path.name.rpartition("-")[0] for path in (folder / "resume").glob("*.safetensors"))


def make_saver(folder: Path, *, every_seconds: float = 0.0, owned: bool = True) -> SaveStates:
    folder, calm = folder / "resume", Preemption()
    return SaveStates(folder=folder, every_seconds=every_seconds, owned=lambda: owned, preemption=calm, seed=0)


@pytest.mark.parametrize(("epochs", "steps"), [(1, [3, 2]), (2, [6, 5]), (5, [15, 14])])
def test_the_newest_two_states_are_kept(tmp_path: Path, epochs: int, steps: list[int]) -> None:
    fit(Scripted([0.5] * epochs), make_saver(tmp_path), folder=tmp_path)
    paths = states(tmp_path / "resume")
    assert [int(path.name.partition("-")[0]) for path in paths] == steps
    assert len(list((tmp_path / "resume").iterdir())) == len(steps) <= GENERATIONS
    assert newest_state(tmp_path / "resume") == paths[0]


def test_no_state_is_saved_before_its_time(tmp_path: Path) -> None:
    fit(Scripted([0.5] * 3), make_saver(tmp_path, every_seconds=3600.0), folder=tmp_path)
    assert not (tmp_path / "resume").exists()


def test_training_ends_where_another_process_has_taken_the_run_over(tmp_path: Path) -> None:
    with pytest.raises(RunTakenOverError):
        fit(Scripted([0.5] * 3), make_saver(tmp_path, owned=False), folder=tmp_path)
    assert not (tmp_path / "resume").exists()


def draw() -> list[Any]:
    return [torch.rand(4).tolist(), np.random.normal(size=3).tolist(), random.gauss(0, 1), random.random()]


def test_the_random_generators_of_torch_numpy_and_python_are_restored(tmp_path: Path) -> None:
    draw()  # so that the Gaussians of numpy and Python have one in store
    saved = save(tmp_path, 1, callback=make_saver(tmp_path).state_dict())
    wanted = draw()
    assert draw() != wanted
    resumed = make_saver(tmp_path)
    resumed.load_state_dict(AtomicCheckpointIO().load_checkpoint(saved)["callback"])
    assert draw() != wanted, "loading alone changes nothing: Lightning draws until training starts"
    trainer, model = lightning.Trainer(logger=False, enable_progress_bar=False), Scripted([])
    resumed.on_train_start(trainer, model)
    assert draw() == wanted
    resumed.on_train_start(trainer, model)
    assert draw() != wanted, "once is enough"


def train_whole(folder: Path, scores: Sequence[float], **arguments: Any) -> tuple[Scripted, History, BestWeights]:
    """Trains with all callbacks of a run, in their order."""
    model, history, best = Scripted(scores), make_history(folder), make_best(folder)
    lightning.seed_everything(3, verbose=False)
    fit(model, history, best, make_saver(folder), folder=folder, **arguments)
    return model, history, best


def assert_goes_on(folder: Path, scores: Sequence[float], seen: Sequence[Any], whole: Any) -> None:
    """Resumes from the newest state, and compares with a training that was not interrupted."""
    model, history, best = train_whole(folder, scores, state=newest_state(folder / "resume"))
    undisturbed, first, kept = whole
    assert [*seen, *model.seen] == undisturbed.seen
    assert torch.equal(model.weight, undisturbed.weight)
    assert [row["epoch"] for row in history.rows] == list(range(len(scores)))
    assert [row["val/uar"] for row in history.rows] == [row["val/uar"] for row in first.rows] == list(scores)
    assert (best.epoch, best.score) == (kept.epoch, kept.score)
    assert torch.equal(best.load()["weight"], kept.load()["weight"])


@pytest.mark.parametrize(("scores", "best"), [([0.25, 0.75, 0.5, 0.75], 1), ([0.25, 0.5, 0.75, 0.875], 3)])
def test_a_resumed_training_draws_and_scores_as_an_undisturbed_one(
    tmp_path: Path, scores: list[float], best: int
) -> None:
    whole = train_whole(tmp_path / "whole", scores)
    assert (whole[2].epoch, whole[2].score) == (best, scores[best])
    first, _, _ = train_whole(tmp_path, scores, epochs=2)
    assert_goes_on(tmp_path, scores, first.seen, whole)


def rewrite_as_older(path: Path) -> None:
    """Leaves a state alone in its folder, as version 0.1.0 wrote it: with the best weights in the history's state."""
    content = torch.load(path, weights_only=True)
    best = content["callbacks"].pop("BestWeights")
    weights = load_file(path.with_name(best["files"][best["epoch"]]))
    content["callbacks"]["History"] |= {
        "best_epoch": best["epoch"],
        "best_score": best["score"],
        "best_weights": weights,
    }
    for other in path.parent.iterdir():
        other.unlink()
    AtomicCheckpointIO().save_checkpoint(content, path.with_name(f"{path.stem.partition('-')[0]}.ckpt"))


@pytest.mark.parametrize("scores", [[0.25, 0.75, 0.5, 0.75], [0.25, 0.5, 0.75, 0.875], [0.75, 0.5, 0.25, 0.5]])
def test_a_state_of_version_0_1_0_is_resumed(tmp_path: Path, scores: list[float]) -> None:
    whole = train_whole(tmp_path / "whole", scores)
    first, _, _ = train_whole(tmp_path, scores, epochs=2)
    rewrite_as_older(states(tmp_path / "resume")[0])
    assert best_files(tmp_path) == []
    assert_goes_on(tmp_path, scores, first.seen, whole)


def test_a_state_of_version_0_1_0_after_the_last_epoch_still_has_its_best_weights(tmp_path: Path) -> None:
    scores = [0.75, 0.5]
    whole = train_whole(tmp_path / "whole", scores)
    first, _, _ = train_whole(tmp_path, scores)
    rewrite_as_older(states(tmp_path / "resume")[0])
    assert_goes_on(tmp_path, scores, first.seen, whole)


def test_only_the_first_rank_writes_the_best_weights_of_an_older_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = {"epoch": 3, "score": 0.5, "weights": {"weight": torch.ones(1)}}
    best = make_best(tmp_path)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    best.load_state_dict(older)
    assert (best.epoch, best.score) == (3, 0.5)
    assert not (tmp_path / "resume").exists()
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    best.load_state_dict(older)
    assert best_files(tmp_path) == ["best-3"]


# ----------------------------------------------------------------------------------------- best weights


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
    callback = make_best(tmp_path, direction)
    fit(Scripted(scores), callback, folder=tmp_path)
    assert (callback.epoch, callback.score) == (best, scores[best])
    fresh = Scripted(scores)
    fit(fresh, folder=tmp_path, epochs=best + 1)
    assert torch.equal(callback.load()["weight"], fresh.weight.detach())
    assert best_files(tmp_path) == [f"best-{best}"]


def test_training_on_does_not_change_the_kept_weights(tmp_path: Path) -> None:
    best, model = make_best(tmp_path), Scripted([0.75, 0.25, 0.25])
    fit(model, best, folder=tmp_path)
    assert not torch.equal(best.load()["weight"], model.weight.detach())


@pytest.mark.parametrize("direction", ["max", "min"])
def test_an_epoch_whose_score_is_not_a_number_is_not_the_best(tmp_path: Path, direction: str) -> None:
    best = make_best(tmp_path, direction)
    fit(Scripted([float("nan"), 0.25, float("nan")]), best, folder=tmp_path)
    assert (best.epoch, best.score) == (1, 0.25)
    assert best_files(tmp_path) == ["best-1"]


def test_without_a_finite_score_there_is_no_best_epoch(tmp_path: Path) -> None:
    best, saver = make_best(tmp_path), make_saver(tmp_path)
    fit(Scripted([float("nan"), float("inf")]), best, saver, folder=tmp_path)
    assert best.epoch is None
    assert best_files(tmp_path) == []
    assert newest_state(tmp_path / "resume") == states(tmp_path / "resume")[0]


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
def test_a_state_whose_best_weights_are_damaged_is_reported_and_the_one_before_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    scores = [0.25, 0.5, 0.75]
    whole = train_whole(tmp_path / "whole", scores)
    first, _, _ = train_whole(tmp_path, scores, epochs=2)
    newest, older = states(tmp_path / "resume")  # after the second epoch, and before its last step
    damage(next((tmp_path / "resume").glob("best-1-*")))
    caplog.set_level(logging.WARNING)
    assert newest_state(tmp_path / "resume") == older
    assert newest.name in caplog.text
    assert f"resuming from an older state, {older.name}" in caplog.text
    assert_goes_on(tmp_path, scores, first.seen[:5], whole)


class SaveAfter(EpochCallback):
    """Saves a state after some epochs, and notes which files of best weights there are after each epoch."""

    def __init__(self, folder: Path, epochs: Sequence[int]) -> None:
        self.folder, self.epochs = folder, epochs
        self.saver = make_saver(folder)
        self.files: list[list[str]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch in self.epochs:
            self.saver.save(trainer)
        self.files.append([name.removeprefix("best-") for name in best_files(self.folder)])
        for path in states(self.folder / "resume"):
            names = read_state(path)["callbacks"]["BestWeights"]["files"].values()
            assert all((path.parent / name).is_file() for name in names)


@pytest.mark.parametrize(
    ("epochs", "files"),
    [
        ([], ["0", "1", "2", "3", "4", "5"]),
        ([0], ["0", "01", "02", "03", "04", "05"]),
        ([0, 3], ["0", "01", "02", "03", "034", "035"]),
        ([0, 1, 2], ["0", "01", "012", "123", "124", "125"]),
        ([1, 2, 4], ["0", "1", "12", "123", "124", "245"]),
    ],
)
def test_best_weights_are_removed_unless_a_kept_state_names_them(
    tmp_path: Path, epochs: list[int], files: list[str]
) -> None:
    watch = SaveAfter(tmp_path, epochs)
    fit(Scripted([0.125 * epoch for epoch in range(6)]), make_best(tmp_path), watch, folder=tmp_path)
    assert ["".join(names) for names in watch.files] == files


def test_a_resumed_training_removes_best_weights_unless_a_kept_state_names_them(tmp_path: Path) -> None:
    scores = [0.125 * epoch for epoch in range(6)]
    fit(Scripted(scores), make_best(tmp_path), SaveAfter(tmp_path, [0, 1]), folder=tmp_path, epochs=3)
    assert best_files(tmp_path) == ["best-0", "best-1", "best-2"]
    watch = SaveAfter(tmp_path, [4])
    state = newest_state(tmp_path / "resume")
    fit(Scripted(scores), make_best(tmp_path), watch, folder=tmp_path, state=state)
    assert ["".join(names) for names in watch.files] == ["012", "013", "014", "145"]


def test_the_best_weights_of_another_process_that_has_taken_the_run_over_are_left_alone(tmp_path: Path) -> None:
    others = tmp_path / "resume" / "best-0-0123456789abcdef.safetensors"
    others.parent.mkdir()
    others.touch()
    fit(Scripted([0.5]), make_best(tmp_path, owned=False), folder=tmp_path)
    assert list(others.parent.iterdir()) == [others]


# ---------------------------------------------------------------------------------------------- history


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
