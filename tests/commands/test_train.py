import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from emorec.cli import main
from emorec.datasets.demo import EMOTIONS
from tests.conftest import SHARED_DATA

pytestmark = pytest.mark.slow


def train(*overrides: str) -> int:
    return main(["train", *overrides])


def only_run(root: Path) -> Path:
    (path,) = (root / "checkpoints").glob("*/run.json")
    return path.parent


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


@pytest.fixture
def trained(root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """A finished run's directory, and what the command printed."""
    assert train(*train_overrides) == 0
    return only_run(root), capsys.readouterr().out.strip()


def test_a_run_leaves_everything_it_promises(trained: tuple[Path, str]) -> None:
    folder, line = trained
    metrics = json.loads((folder / "metrics.json").read_text())
    for split in ("val", "test"):
        assert {f"{split}/{name}" for name in ("weighted_f1", "macro_f1", "uar", "accuracy", "loss")} <= metrics.keys()
        assert set(metrics[f"{split}/per_class"]) == set(EMOTIONS)
        assert sum(map(sum, metrics[f"{split}/confusion"])) == 8
    for name in ("val/weighted_f1", "test/weighted_f1", "test/uar", "test/accuracy"):
        assert f"{name}={metrics[name]:.4f}" in line
    assert line.startswith(f"run {folder.name}  ")
    assert line.endswith(str(folder))
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert {"train/loss", "val/uar", "val/loss", "lr"} <= rows[0].keys()
    assert {path.name for path in (folder / "model").iterdir()} >= {"head.safetensors", "fusion.safetensors"}
    assert "config.yaml" in {path.name for path in folder.iterdir()}
    assert not (folder / "resume").exists()
    assert not (folder / "claim.json").exists()
    assert folder.name in (folder / "log.txt").read_text()


def test_predictions_hold_each_utterance_once_with_probabilities(trained: tuple[Path, str]) -> None:
    table = parquet.read_table(trained[0] / "predictions.parquet").to_pydict()
    assert len(set(table["id"])) == len(table["id"]) == 16
    assert set(table["split"]) == {"val", "test"}
    assert all(name.startswith(speaker) for name, speaker in zip(table["id"], table["speaker"], strict=True))
    assert len(set(table["speaker"])) == 4
    for row in range(16):
        probabilities = {label: table[f"probability_{label}"][row] for label in EMOTIONS}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert max(probabilities, key=probabilities.__getitem__) == table["predicted"][row]


def test_the_record_says_where_a_run_came_from_and_when_test_was_read(trained: tuple[Path, str]) -> None:
    found = record(trained[0])
    assert found["status"] == "finished"
    assert found["data"]["utterances"] == {"train": 16, "val": 8, "test": 8}
    assert len(found["test_reads"]) == 1
    assert found["provenance"]["libraries"]["torch"].startswith("2.11")
    assert found["choices"]["fusion"] == "concat"
    assert set(found["features"]) == {"text", "audio", "video"}


def test_hydra_leaves_nothing_behind(trained: tuple[Path, str], root: Path) -> None:
    assert {path.name for path in root.iterdir()} <= {"cache", "checkpoints", "data"}
    assert not (Path.cwd() / "outputs").exists()


def test_the_same_command_again_only_prints_the_result(
    trained: tuple[Path, str], train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, line = trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert train(*train_overrides, "batch_size=8", "fusion=concat") == 0  # overrides with what holds anyway
    captured = capsys.readouterr()
    assert captured.out.strip() == line
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_another_fusion_and_another_seed_extract_nothing(
    trained: tuple[Path, str], train_overrides: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="emorec")
    assert train(*train_overrides, "fusion=gated", "seed=3") == 0
    assert caplog.text.count("32 found, 0 computed") == 3


def test_the_same_command_in_a_fresh_store_gives_equal_metrics_and_weights(
    trained: tuple[Path, str], train_overrides: list[str], tmp_path: Path
) -> None:
    folder, _ = trained
    other = tmp_path / "other"
    assert train(*train_overrides, f"paths.checkpoints={other}", f"paths.cache={tmp_path / 'cache2'}") == 0
    again = other / folder.name
    assert json.loads((again / "metrics.json").read_text()) == json.loads((folder / "metrics.json").read_text())
    assert record(again)["weights"] == record(folder)["weights"]


def test_a_run_made_by_other_code_is_announced(
    trained: tuple[Path, str], train_overrides: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = trained[0] / "run.json"
    path.write_text(json.dumps({**record(trained[0]), "provenance": {"source": "another"}}))
    assert train(*train_overrides) == 0
    assert "made by another version" in caplog.text


def test_rerun_trains_a_finished_run_anew_and_keeps_its_log(
    trained: tuple[Path, str], train_overrides: list[str]
) -> None:
    folder, _ = trained
    started = (folder / "history.csv").stat().st_mtime_ns
    assert train(*train_overrides, "rerun=true") == 0
    assert (folder / "history.csv").stat().st_mtime_ns > started
    assert (folder / "log.1.txt").exists()
    assert record(folder)["attempts"] == 2


def test_test_is_left_alone_until_it_is_asked_for(root: Path, train_overrides: list[str]) -> None:
    assert train(*train_overrides, "test=false") == 0
    folder = only_run(root)
    weights = record(folder)["weights"]
    assert record(folder)["test_reads"] == []
    assert not any(key.startswith("test/") for key in json.loads((folder / "metrics.json").read_text()))
    assert set(parquet.read_table(folder / "predictions.parquet")["split"].to_pylist()) == {"val"}
    assert train(*train_overrides) == 0
    assert only_run(root) == folder
    assert record(folder)["weights"] == weights
    assert len(record(folder)["test_reads"]) == 1
    assert "test/uar" in json.loads((folder / "metrics.json").read_text())


def test_a_failed_run_starts_again(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            "emorec.models.emotion_model.EmotionModel.training_step",
            lambda *_: (_ for _ in ()).throw(ValueError("boom")),
        )
        with pytest.raises(ValueError, match="boom"):
            train(*train_overrides)
    folder = only_run(root)
    assert record(folder)["status"] == "failed"
    assert "boom" in record(folder)["error"]
    assert train(*train_overrides) == 0
    assert record(folder)["status"] == "finished"
    assert "boom" in (folder / "log.1.txt").read_text()


def test_one_failing_job_of_a_multirun_does_not_take_the_others_with_it(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["train", *train_overrides, "seed=0,-1,1", "-m"]) == 1
    assert "2 of 3 jobs have a result" in capsys.readouterr().out
    assert "job 2 is invalid: the config: seed: expected a whole number" in caplog.text
    (sweep,) = (root / "checkpoints" / "sweeps").glob("*/sweep.json")
    assert [job["status"] for job in json.loads(sweep.read_text())["jobs"]] == ["finished", "invalid", "finished"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sweep.name=../outside", "sweep.name"),
        ("sweep.name=''", "sweep.name"),
        ("sweep.name=null", "sweep.name"),
        ("tags=5", "tags: expected a list, got 5"),
        ("tags=abc", "tags: expected a list, got 'abc'"),
        ("notes=[1,2]", "notes: expected a text or null, got [1, 2]"),
        ("checkpoint.every_seconds=abc", "checkpoint.every_seconds: expected a number of at least 0, got 'abc'"),
        ("features.preload=bogus", "features.preload: expected 'auto', 'none', 'ram' or 'device', got 'bogus'"),
        ("+optimizer.fused=true trainer.precision=bf16-mixed", "optimizer.fused: expected false"),
        ("+extraction.bogus=1", "extraction.bogus: unknown key"),
        ("optimizer.lr=abc", "optimizer.lr: expected a number above 0, got 'abc'"),
        ("optimizer.lr=-1", "optimizer.lr: expected a number above 0, got -1"),
        ("loss=focal loss.gamma=x", "loss.gamma: expected a number of at least 0, got 'x'"),
        ("loss=ccc", "expected a loss for classification"),
        ("encoder.video.views=-1", "encoder.video.views"),
    ],
)
def test_invalid_settings_are_reported_before_anything_is_written(
    empty_root: Path, train_overrides: list[str], words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *train_overrides, *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(empty_root.glob("**/run.json"))
    assert not list(empty_root.glob("cache/*/*.safetensors"))


def test_unusual_combinations_train(root: Path, train_overrides: list[str]) -> None:
    words = ["fusion=gated,self_attention", "loss=focal", "scheduler=warmup_cosine", "loss.class_weights=inverse"]
    words += ["encoder/audio=log_mel", "fusion.pooling=attention", "trainer.precision=bf16-mixed"]
    assert main(["train", "-m", *train_overrides, *words, "encoder/video=none", "logger=none"]) == 0
    assert len(list((root / "checkpoints").glob("*/run.json"))) == 2


def test_limit_takes_a_few_of_each_class(root: Path, train_overrides: list[str]) -> None:
    assert train(*train_overrides, "dataset.limit=24", "trainer.max_epochs=1") == 0
    assert sum(record(only_run(root))["data"]["utterances"].values()) == 24


def test_an_encoder_for_a_modality_that_a_corpus_lacks_says_what_to_do(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "meld"
    folder.mkdir()
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    for split in ("train", "dev", "test"):
        (folder / f"{split}_sent_emo.csv").write_text(f"{header}1,Hello there,Joey,joy,positive,0,0,1,1,0,1\n")
    assert train("dataset=meld", f"dataset.root={folder}") == 2
    assert "encoder/audio=none" in capsys.readouterr().err


def test_smoke_training_runs_by_its_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("experiment=smoke") == 0
    assert "test/uar=" in capsys.readouterr().out


@pytest.mark.skipif(not (SHARED_DATA / "ravdess").is_dir(), reason="the RAVDESS recordings are not on this machine")
def test_real_ravdess_trains_better_than_chance(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dataset=ravdess", f"dataset.root={SHARED_DATA / 'ravdess'}", "encoder/text=none", "encoder/video=none"]
    assert train(*words, "encoder/audio=mfcc_chroma_functionals", "dataset.limit=400", "trainer.max_epochs=15") == 0
    metrics = json.loads((only_run(root) / "metrics.json").read_text())
    assert metrics["test/uar"] > 0.2  # chance is 0.125
