"""Schedules and optimizers of a config, through a whole training: `history.csv` has the rate after each epoch."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from emorec.cli import main
from emorec.models.schedule import WarmupCosine, WarmupLinear
from emorec.training.callbacks.history import History

pytestmark = pytest.mark.slow

RATE = 0.01


@pytest.fixture
def words(root: Path, train_overrides: list[str]) -> list[str]:
    """A training on texts alone."""
    return [*train_overrides, "encoder/audio=none", "encoder/video=none", f"optimizer.lr={RATE}", "test=false"]


def history(root: Path) -> list[dict[str, float]]:
    """The epochs of the only run."""
    (path,) = (root / "checkpoints").glob("*/history.csv")
    with path.open(newline="") as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def rates_after(make: Callable[[torch.optim.Optimizer, int], LRScheduler], steps: list[int]) -> list[float]:
    """The rates of a schedule of torch after some numbers of steps, of which the last is that of the whole training."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    schedule = make(optimizer, steps[-1])
    rates = [RATE]
    for _ in range(steps[-1]):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return [rates[step] for step in steps]


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        (["scheduler=linear"], lambda optimizer, total: WarmupLinear(optimizer, total_steps=total, warmup=0.1)),
        (
            ["scheduler=linear", "scheduler.floor=0.25", "scheduler.warmup=0.5"],
            lambda optimizer, total: WarmupLinear(optimizer, total_steps=total, warmup=0.5, floor=0.25),
        ),
        (["scheduler=warmup_cosine"], lambda optimizer, total: WarmupCosine(optimizer, total_steps=total, warmup=0.1)),
        (["scheduler=cosine"], lambda optimizer, total: CosineAnnealingLR(optimizer, T_max=total)),
        (
            ["scheduler=cosine", "scheduler.eta_min=0.002"],
            lambda optimizer, total: CosineAnnealingLR(optimizer, T_max=total, eta_min=0.002),
        ),
        (
            ["scheduler=one_cycle"],
            lambda optimizer, total: OneCycleLR(optimizer, max_lr=RATE, total_steps=total, pct_start=0.3),
        ),
    ],
    ids=["linear", "linear to a floor", "warmup_cosine", "cosine", "cosine to a minimum", "one_cycle"],
)
def test_a_schedule_by_steps_covers_the_whole_training(
    settings: list[str], make: Callable[..., LRScheduler], words: list[str], root: Path
) -> None:
    assert main(["train", *words, "trainer.max_epochs=2", *settings]) == 0
    rows = history(root)
    assert len(rows) == 2
    assert [row["lr"] for row in rows] == pytest.approx(rates_after(make, [int(row["step"]) for row in rows]), abs=1e-9)


def test_a_linear_schedule_reaches_its_floor(words: list[str], root: Path) -> None:
    assert main(["train", *words, "trainer.max_epochs=2", "scheduler=linear", "scheduler.floor=0.25"]) == 0
    assert history(root)[-1]["lr"] == pytest.approx(0.25 * RATE)


def test_a_plateau_halves_the_rate_where_the_monitor_does_not_improve(words: list[str], root: Path) -> None:
    rate = 1e-6  # changes no prediction
    settings = ["scheduler=plateau", "scheduler.patience=0", f"optimizer.lr={rate}"]
    assert main(["train", *words, *settings]) == 0
    assert [row["lr"] for row in history(root)] == pytest.approx([rate, rate / 2, rate / 4])


def test_a_plateau_counts_epochs_whatever_a_step_adds_up(words: list[str], root: Path) -> None:
    rate = 1e-6
    settings = ["scheduler=plateau", "scheduler.patience=0", f"optimizer.lr={rate}", "batch_size=4"]
    assert main(["train", *words, *settings, "trainer.accumulate=2"]) == 0
    assert [row["lr"] for row in history(root)] == pytest.approx([rate, rate / 2, rate / 4])


def test_a_schedule_of_torch_without_a_number_of_steps_counts_epochs(words: list[str], root: Path) -> None:
    settings = [
        "scheduler=plateau",
        "scheduler._target_=torch.optim.lr_scheduler.ExponentialLR",
        "+scheduler.gamma=0.5",
    ]
    assert main(["train", *words, *settings, *(f"~scheduler.{key}" for key in ("factor", "patience", "min_lr"))]) == 0
    assert [row["lr"] for row in history(root)] == pytest.approx([RATE / 2, RATE / 4, RATE / 8])


def test_without_a_schedule_the_rate_is_constant(words: list[str], root: Path) -> None:
    assert main(["train", *words, "trainer.max_epochs=2"]) == 0
    assert [row["lr"] for row in history(root)] == [RATE, RATE]


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "plateau"])
def test_a_resumed_training_continues_its_schedule(
    schedule: str, words: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"scheduler={schedule}", "checkpoint.every_seconds=0"]
    settings += ["scheduler.patience=0", "optimizer.lr=1e-6"] if schedule == "plateau" else []
    on_train_epoch_end = History.on_train_epoch_end

    def interrupted(self: History, trainer: Any, module: Any) -> None:
        on_train_epoch_end(self, trainer, module)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_end", interrupted)
        assert main(["train", *words, *settings]) == 130
    assert main(["train", *words, *settings]) == 0
    resumed = [row["lr"] for row in history(root)]
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path / "undisturbed"))
    assert main(["train", *words, *settings]) == 0
    assert resumed == [row["lr"] for row in history(tmp_path / "undisturbed")]


@pytest.mark.parametrize(
    "settings",
    [
        ["optimizer._target_=torch.optim.SGD", "+optimizer.momentum=0.9"],
        ["optimizer._target_=torch.optim.RMSprop"],
        ["optimizer._target_=torch.optim.Adagrad"],
        ["optimizer._target_=torch.optim.LBFGS", "~optimizer.weight_decay"],
        ["+optimizer.foreach=true"],
        ["+optimizer.fused=false", "+optimizer.betas=[0.9,0.98]"],
    ],
    ids=lambda settings: settings[0],
)
def test_any_optimizer_of_torch_trains(settings: list[str], words: list[str], root: Path) -> None:
    assert main(["train", *words, "trainer.max_epochs=1", *settings]) == 0
    (row,) = history(root)
    assert row["lr"] == RATE
    assert math.isfinite(row["train/loss"])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["optimizer._target_=torch.optim.SGD", "+optimizer.nesterov=1"], "optimizer.nesterov: expected true or false"),
        (["scheduler=plateau", "scheduler._target_=torch.optim.lr_scheduler.StepLR"], "scheduler.factor: unknown key"),
        (["optimizer._target_=torch.optim.lr_scheduler.StepLR"], "optimizer.weight_decay: unknown key"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_a_run_begins(
    settings: list[str], problem: str, words: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, *settings]) == 2
    assert problem in capsys.readouterr().err
    assert not (root / "checkpoints").exists()


def test_a_missing_argument_of_a_schedule_is_reported_before_a_run_begins(
    words: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["scheduler=one_cycle", "scheduler._target_=torch.optim.lr_scheduler.StepLR", "~scheduler.pct_start"]
    assert main(["train", *words, *settings]) == 2
    assert "scheduler.step_size: expected a value, got nothing" in capsys.readouterr().err
    assert not (root / "checkpoints").exists()
