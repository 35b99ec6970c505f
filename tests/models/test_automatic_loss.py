"""`loss=auto`, the default, is the loss of the task; the run is that of naming the loss."""

from functools import cache
from pathlib import Path

import pytest

from emorec.cli import main
from emorec.config.composition import Composed, composer, parse
from emorec.config.schema import TrainConfig
from emorec.datasets.utterance import Task
from emorec.errors import UserError
from emorec.models.automatic_loss import with_loss_of
from emorec.runs.checkpoint_store import CheckpointStore

EMOTION = Task(name="emotion", labels=("a", "b"))


def regression(monitor: str) -> Task:
    return Task(name="valence", kind="regression", labels=("valence",), monitor=monitor)


@cache
def compose(*words: str) -> Composed[TrainConfig]:
    with composer(parse("train", []), TrainConfig) as open_composer:
        return open_composer.compose(words)


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        (EMOTION, "cross_entropy"),
        (regression("ccc"), "ccc"),
        (regression("pearson"), "ccc"),
        (regression("mae"), "mae"),
        (regression("loss"), "mse"),
    ],
)
def test_the_loss_follows_the_task(task: Task, loss: str) -> None:
    found, named = with_loss_of(compose(), task), compose(f"loss={loss}")
    assert found.values["loss"] == named.values["loss"]
    assert found.choices == named.choices
    assert found.config.loss.target.kind == task.kind


def test_a_loss_that_is_named_is_kept() -> None:
    for words in (["loss=huber"], ["loss=cross_entropy"], ["loss._target_=emorec.losses.focal.Focal"]):
        composed = compose(*words)
        assert with_loss_of(composed, regression("ccc")) is composed


def test_arguments_of_a_loss_for_classes_are_kept_for_classes_and_refused_for_targets() -> None:
    composed = compose("loss.label_smoothing=0.1")
    assert with_loss_of(composed, EMOTION).values["loss"]["label_smoothing"] == 0.1
    with pytest.raises(UserError, match=r"loss\.label_smoothing: expected .* loss=auto is loss=ccc"):
        with_loss_of(composed, regression("ccc"))


def test_a_table_of_targets_trains_by_default(root: Path, tmp_path: Path) -> None:
    rows = [f"u{number},word{number % 7} again,{number % 5}.5,s{number % 6}" for number in range(36)]
    (tmp_path / "t.csv").write_text("\n".join(["id,text,target,speaker", *rows]))
    words = ["dataset=custom", f"dataset.table={tmp_path / 't.csv'}", "encoder/audio=none", "encoder/video=none"]
    assert main(["train", *words, "trainer.max_epochs=1", "model.hidden=16"]) == 0
    (record,) = CheckpointStore(root / "checkpoints").records()
    assert (record.choices["loss"], record.task["monitor"]) == ("ccc", "ccc")
