"""A run makes each object of its config exactly once, and hands it on."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from emorec.cli import main
from emorec.config.instantiation import Component

pytestmark = pytest.mark.slow

LOGGERS = ["logger=[wandb,tensorboard]", "logger.wandb.mode=offline"]
METRICS = {f"metric.{name}" for name in ("weighted_f1", "macro_f1", "uar", "accuracy")}  # those of classification


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is made, by its key."""
    counts: Counter[str] = Counter()
    make = Component.make

    def counted(self: Component, kind: type, **derived: Any) -> Any:
        counts[self.where] += 1
        return make(self, kind, **derived)

    monkeypatch.setattr(Component, "make", counted)
    return counts


def test_a_training_makes_each_part_once_and_an_evaluation_only_what_it_uses(
    made: Counter[str], root: Path, train_overrides: list[str]
) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    words = [*train_overrides, "trainer.max_epochs=1", "scheduler=warmup_cosine", *LOGGERS]
    assert main(["train", *words]) == 0
    encoders = {f"encoder.{modality}" for modality in ("text", "audio", "video")}
    parts = {"dataset", "fusion", "loss", "optimizer", "scheduler", "logger.wandb", "logger.tensorboard"}
    assert made == dict.fromkeys(parts | encoders | METRICS, 1)

    made.clear()
    assert main(["train", *words]) == 0, "a finished run is reported"
    assert made == dict.fromkeys((parts | encoders | METRICS) - {"optimizer", "scheduler", "logger.tensorboard"}, 1)

    made.clear()
    (record,) = (root / "checkpoints").glob("*/run.json")
    assert main(["evaluate", f"run={record.parent.name}"]) == 0
    assert made == dict.fromkeys({"dataset", "fusion", "loss"} | encoders | METRICS, 1)


def test_metrics_of_another_kind_of_task_are_not_made(
    made: Counter[str], root: Path, train_overrides: list[str]
) -> None:
    assert main(["train", *train_overrides, "trainer.max_epochs=1", "metric=[uar,mae]"]) == 0
    assert {key for key in made if key.startswith("metric")} == {"metric.uar"}


def test_each_job_of_a_multirun_makes_its_own_parts(made: Counter[str], root: Path, train_overrides: list[str]) -> None:
    words = ["trainer.max_epochs=1", "seed=0,1", "metric=uar", "launcher=basic"]
    assert main(["train", "-m", *train_overrides, *words]) == 0
    for part in ("fusion", "loss", "optimizer", "metric.uar"):
        assert made[part] == 2, made
