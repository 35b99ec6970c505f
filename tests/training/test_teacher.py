"""Learning from the predictions of a finished run."""

from pathlib import Path

import pytest
import torch

from emorec.cli import main
from emorec.models.emotion_model import EmotionModel
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from tests.conftest import emorec_process
from tests.training.test_distributed import RANKS, finish
from tests.training.test_trained_lifecycle import history_of, weights_of

pytestmark = pytest.mark.slow

TEXT = ["encoder/audio=none", "encoder/video=none"]
AUDIO = ["encoder/text=none", "encoder/video=none"]
LOSS = ["loss=[cross_entropy,kd,feature_kd]", "loss.weights.feature_kd=0.5"]


@pytest.fixture
def words(train_overrides: list[str]) -> list[str]:
    return ["train", *train_overrides, "progress=false"]


@pytest.fixture
def teacher(words: list[str], root: Path) -> RunRecord:
    """A run on text."""
    assert main([*words, *TEXT, "model.hidden=12"]) == 0
    (record,) = CheckpointStore(root / "checkpoints").records()
    return record


def student(root: Path, teacher: RunRecord) -> RunRecord:
    (record,) = [item for item in CheckpointStore(root / "checkpoints").records() if item.run_id != teacher.run_id]
    return record


def test_a_student_learns_from_a_teacher_of_another_modality(
    words: list[str], teacher: RunRecord, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words, *AUDIO, *LOSS, f"distillation.teacher={teacher.run_id}"]
    assert main(line) == 0
    record = student(root, teacher)
    names = {name for row in history_of(root, record) for name in row}
    assert {"train/loss/cross_entropy", "train/loss/kd", "train/loss/feature_kd"} <= names
    assert all(float(row["train/loss/kd"]) > 0 for row in history_of(root, record))

    # the teacher's predictions are in the cache now: it is not applied again
    applied = []
    with monkeypatch.context() as patched:
        patched.setattr("emorec.training.teacher.outputs", lambda *_: applied.append(1))
        assert main([*line, "seed=1"]) == 0
    assert not applied
    assert main(["evaluate", f"run={record.run_id}"]) == 0


def test_what_the_teacher_predicts_is_what_the_student_is_taught(
    words: list[str], teacher: RunRecord, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, torch.Tensor] = {}
    step = EmotionModel.training_step

    def noted(model: EmotionModel, batch, batch_idx: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
        seen.update(zip(batch.id, batch.teacher["logits"], strict=True))
        return step(model, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(EmotionModel, "training_step", noted)
        assert main([*words, *AUDIO, "loss=[cross_entropy,kd]", f"distillation.teacher={teacher.run_id}"]) == 0
    from emorec.datamodules.preparer import DataPreparer
    from emorec.inference.loaded_run import load_run
    from tests.benchmarks.training import composed

    model = load_run(teacher.run_id, checkpoints=root / "checkpoints").model
    config = composed([*words[1:], *TEXT, "model.hidden=12"]).config
    preparer = DataPreparer.of(config)
    module = preparer.prepare(config, *preparer.components(config)).module(config)
    for batch in module.loader("train"):
        expected = model(batch).logits["emotion"]
        for name, row in zip(batch.id, expected, strict=True):
            torch.testing.assert_close(seen[name], row.detach())


def test_one_run_trains_a_student_of_each_modality(
    words: list[str], teacher: RunRecord, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*words, "loss=[cross_entropy,one_pass]", f"distillation.teacher={teacher.run_id}"]
    assert main([*line, "fusion=concat"]) == 2
    assert "such as mean_logits, for one_pass, got Concat" in capsys.readouterr().err
    assert main([*line, "fusion=mean_logits", "loss.one_pass.students=[audio,vidio]"]) == 2
    assert "students: expected modalities of the run, text, audio, video, got vidio" in capsys.readouterr().err
    assert main([*line, "fusion=mean_logits", "loss.one_pass.students=[audio,video]"]) == 0
    record = student(root, teacher)
    assert all(float(row["train/loss/one_pass"]) > 0 for row in history_of(root, record))
    assert main(["evaluate", f"run={record.run_id}", "missing.grid=true"]) == 0
    assert "audio" in capsys.readouterr().out


def test_the_teacher_counts_by_its_weights(words: list[str], teacher: RunRecord, root: Path) -> None:
    line = [*words, *AUDIO, "loss=[cross_entropy,kd]"]
    assert main([*line, f"distillation.teacher={teacher.run_id}"]) == 0
    first = student(root, teacher)
    folder = root / "checkpoints" / teacher.run_id
    assert main([*line, f"distillation.teacher={folder}"]) == 0
    assert student(root, teacher).run_id == first.run_id  # the same run, found


def test_two_ranks_are_taught(words: list[str], teacher: RunRecord, root: Path) -> None:
    line = [*words, *AUDIO, "loss=[cross_entropy,kd]", f"distillation.teacher={teacher.run_id}"]
    code, _, err = finish(emorec_process(*line, *RANKS, root=root))
    assert code == 0, err
    assert weights_of(root, student(root, teacher))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss=[cross_entropy,kd]"], "distillation.teacher: expected a finished run for a loss that learns from one"),
        (["distillation.teacher={id}"], "expected a loss that learns from it, as loss=[cross_entropy,kd]"),
        (["loss=[cross_entropy,kd]", "distillation.teacher=0123456789ab"], "0123456789ab"),
        (["loss=[feature_kd]", "distillation.teacher={id}"], "expected one that trains the head beside feature_kd"),
        (
            ["loss=[cross_entropy,kd]", "distillation.teacher={id}", "labels=three_sentiments"],
            "distillation.teacher: expected a run of the classes",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    *,
    settings: list[str],
    message: str,
    words: list[str],
    teacher: RunRecord,
    root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    assert main([*words, *AUDIO, *(item.format(id=teacher.run_id) for item in settings)]) == 2
    assert message in capsys.readouterr().err
