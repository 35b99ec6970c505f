"""Training without labels, on two views of each utterance, and classifiers that start from it."""

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from emorec import load_run
from emorec.cli import main
from emorec.datasets.demo import VERSION
from emorec.models.emotion_model import EmotionModel
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from tests.conftest import emorec_process
from tests.encoders.tiny_checkpoints import TinyCheckpoints
from tests.training.test_distributed import RANKS
from tests.training.test_trained_lifecycle import history_of, only_record, stop_at, weights_of

pytestmark = pytest.mark.slow

NETWORK = ["encoder/audio=crnn", "encoder.audio.channels=[4,4]", "encoder.audio.hidden=8", "progress=false"]
AUDIO = ["encoder/text=none", "encoder/video=none", *NETWORK]
SPECTROGRAM = "encoder.audio.augmentation={spectrogram:{crop:0.6,time_masks:1,frequency_masks:1}}"
WAVEFORM = [
    "encoder.audio.inputs=waveform",
    "encoder.audio.augmentation={waveform:{gain:[-6,6],noise_snr:[5,20]},spectrogram:{crop:0.6}}",
]
VIEWS = ["loss=nt_xent", "loss.dim=8", SPECTROGRAM]
CALM = ["encoder.audio.dropout=0", "model.dropout=0", "fusion.dropout=0"]


@pytest.fixture
def words(train_overrides: list[str]) -> list[str]:
    """The command line of a training without labels."""
    return ["train", *train_overrides, *AUDIO, *VIEWS]


def folder_of(root: Path, record: RunRecord) -> Path:
    return root / "checkpoints" / record.run_id


def column(root: Path, record: RunRecord, name: str) -> list[float]:
    return [float(row[name]) for row in history_of(root, record)]


@pytest.mark.parametrize("augmentation", [[], WAVEFORM], ids=["spectrograms", "waveforms"])
def test_the_loss_falls_and_validation_compares_the_same_views_each_time(
    augmentation: list[str], words: list[str], root: Path
) -> None:
    line = [word for word in words if not augmentation or word != SPECTROGRAM]
    assert main([*line, *augmentation, "trainer.max_epochs=12", "optimizer.lr=0.01", *CALM]) == 0
    record = only_record(root)
    losses = column(root, record, "train/loss")
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), losses
    validated, metrics = (
        column(root, record, "val/loss"),
        json.loads((folder_of(root, record) / "metrics.json").read_text()),
    )
    assert record.best_epoch == min(range(len(validated)), key=validated.__getitem__)
    assert min(validated) < validated[0]
    assert metrics["val/loss"] == pytest.approx(min(validated), rel=1e-4)


def test_such_a_run_predicts_nothing_leaves_test_alone_and_is_ranked_with_no_other(
    words: list[str],
    train_overrides: list[str],
    root: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main(words) == 0
    record = only_record(root)
    folder = folder_of(root, record)
    assert record.task == {
        "name": "unlabelled",
        "kind": "self_supervised",
        "labels": [],
        "monitor": "loss",
        "direction": "min",
    }
    assert record.test_reads == []
    assert "test is not read, since nothing is predicted" in (folder / "log.txt").read_text()
    assert sorted(json.loads((folder / "metrics.json").read_text())) == ["labels", "val/loss"]
    assert not (folder / "predictions.parquet").exists()
    assert "val/loss=" in capsys.readouterr().out
    assert main(words) == 0
    assert "is finished" in caplog.text
    assert only_record(root).attempts == 1

    assert main(["train", *train_overrides, *AUDIO]) == 0
    assert main([*words, "loss.temperature=0.5"]) == 0
    capsys.readouterr()
    assert main(["report", f"output={root / 'report'}"]) == 0
    report = capsys.readouterr().out
    assert "## demo: emotion, official" in report
    assert "## demo: unlabelled, official" in report
    assert "best" not in report.split("## demo: unlabelled")[1]
    assert main(["runs", "show", record.run_id]) == 0
    assert main(["runs", "verify"]) == 0
    assert main(["evaluate", f"run={record.run_id}"]) == 2
    assert f"expected a run that predicts something, got {record.run_id}" in capsys.readouterr().err
    model = load_run(record.run_id).model
    assert model.components().keys() == record.weights.keys()


def table(folder: Path, corpus: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """The sound of the demo corpus as a table whose labels are changed."""
    with (corpus / f"version_{VERSION}" / "utterances.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = change([row["emotion"] for row in rows])
    path = folder / "table.csv"
    folder.mkdir()
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "audio", "split", "speaker", "label"])
        for row, label in zip(rows, labels, strict=True):
            sound = corpus / f"version_{VERSION}" / "audio" / f"{row['id']}.flac"
            writer.writerow([row["id"], sound, row["split"], row["speaker"], label])
    return path


def test_no_label_is_read_and_utterances_without_one_take_part(
    words: list[str], root: Path, tmp_path: Path, small_demo: Path
) -> None:
    changes: dict[str, Callable[[list[str]], list[str]]] = {
        "as they are": lambda labels: labels,
        "turned": lambda labels: labels[::-1],
        "one": lambda labels: [*labels[:1], *[""] * (len(labels) - 1)],
    }
    words = [word for word in words if not word.startswith("dataset.root")]
    for name, change in changes.items():
        path = table(tmp_path / name.replace(" ", "_"), small_demo, change)
        assert main([*words, "dataset=custom", f"dataset.table={path}"]) == 0
    records = list(CheckpointStore(root / "checkpoints").records())
    assert len({record.run_id for record in records}) == len({record.data["corpus"] for record in records}) == 3
    assert [record.data["utterances"] for record in records] == [{"train": 16, "val": 8, "test": 8}] * 3
    assert records[0].weights == records[1].weights == records[2].weights
    histories = [history_of(root, record) for record in records]
    assert histories[0] == histories[1] == histories[2]


def test_a_training_that_is_stopped_within_an_epoch_goes_on_exactly(
    words: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words, "batch_size=4"]
    assert main(line) == 0
    expected = only_record(root)
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path / "stopped"))
    with monkeypatch.context() as patched:
        stop_at(6, patched)  # of 4 steps an epoch
        assert main(line) == 75
    assert main(line) == 0
    record = only_record(tmp_path / "stopped")
    assert (record.run_id, record.attempts, record.weights) == (expected.run_id, 2, expected.weights)
    assert history_of(tmp_path / "stopped", record) == history_of(root, expected)


def test_a_classifier_starts_from_the_encoder_and_says_so(
    words: list[str],
    train_overrides: list[str],
    root: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(words) == 0
    source = only_record(root)
    pretrained = weights_of(root, source)
    start: dict[str, dict[str, Tensor]] = {}
    begin = EmotionModel.on_train_start

    def noted(model: EmotionModel) -> None:
        start.update(copy.deepcopy(model.components()))
        begin(model)

    monkeypatch.setattr(EmotionModel, "on_train_start", noted)
    line = ["train", *train_overrides, *AUDIO, f"init_from={source.run_id}"]
    assert main([*line, "init_components=[encoder]"]) == 0
    assert f"init_from={source.run_id}: taken are encoder.audio" in caplog.text
    assert all(torch.equal(start["encoder.audio"][name], value) for name, value in pretrained["encoder.audio"].items())
    fusion = next(iter(pretrained["fusion"]))
    assert not torch.equal(start["fusion"][fusion], pretrained["fusion"][fusion])
    assert main(line) == 0
    assert torch.equal(start["fusion"][fusion], pretrained["fusion"][fusion])
    assert f"init_from={source.run_id}: left out is head: it is for other labels" in caplog.text
    records = list(CheckpointStore(root / "checkpoints").records())
    assert len(records) == 3
    assert len({record.group_id for record in records}) == 3


def test_two_ranks_learn_what_one_does(words: list[str], root: Path) -> None:
    plain = ["optimizer._target_=torch.optim.SGD", "optimizer.lr=1", "trainer.gradient_clip=null"]
    line = [*words, *CALM, *plain, "trainer.max_epochs=1", "logger=none"]
    for ranks in ([], RANKS):
        process = emorec_process(*line, *ranks, root=root)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    one, two = CheckpointStore(root / "checkpoints").records()
    assert one.run_id != two.run_id
    torch.testing.assert_close(weights_of(root, two), weights_of(root, one), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(column(root, two, "train/loss"), column(root, one, "train/loss"), rtol=1e-5, atol=1e-5)


def test_every_encoder_that_augments_can_take_part(
    words: list[str], root: Path, tmp_path: Path, train_overrides: list[str]
) -> None:
    text = ["encoder/text=minilm", f"encoder.text.model={TinyCheckpoints(tmp_path)['bert']}"]
    text += ["encoder.text.training=lora", "encoder.text.augmentation={dropout:0.3}"]
    assert main([*words, *text]) == 0
    record = only_record(root)
    assert {"encoder.audio", "encoder.text"} <= record.weights.keys()
    line = ["train", *train_overrides, *AUDIO, *text[:3], f"init_from={record.run_id}"]
    assert main([*line, "init_components=[encoder]"]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["encoder.audio.augmentation=null"], "encoder.audio.augmentation: expected settings"),
        (["encoder/text=hashed_ngrams"], "encoder.text.augmentation: expected settings"),
        (["model.mixup=0.2"], "model.mixup: expected 0"),
        (["batch_size=1"], "batch_size: expected at least 2"),
    ],
)
def test_what_would_make_views_equal_is_refused(
    changes: list[str], message: str, words: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *changes]) == 2
    assert message in capsys.readouterr().err
