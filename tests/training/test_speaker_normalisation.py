"""Runs whose features are standardised by each speaker's own utterances."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile

from emorec.cli import main
from emorec.datamodules import statistics
from emorec.inference.loaded_run import load_run
from emorec.models import builder, speaker_standardisation


def table_of(demo: Path, folder: Path, gain: float) -> Path:
    """The sound of a demo corpus at another level, as a table."""
    (source,) = (path.parent for path in demo.rglob("utterances.csv"))
    rows = pandas.read_csv(source / "utterances.csv")
    folder.mkdir()
    for name in rows["id"]:
        samples, rate = soundfile.read(source / "audio" / f"{name}.flac")
        soundfile.write(folder / f"{name}.wav", gain * samples, rate, subtype="FLOAT")
    with (folder / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("id", "audio", "label", "speaker", "split"))
        table.writerows((row.id, f"{row.id}.wav", row.emotion, row.speaker, row.split) for row in rows.itertuples())
    return folder / "clips.csv"


@pytest.mark.parametrize(("normalisation", "is_invariant"), [("speaker", True), ("train", False)])
def test_speakers_of_another_corpus_are_standardised_by_its_own_sound(
    *,
    normalisation: str,
    is_invariant: bool,
    root: Path,
    small_demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(statistics, "FEWEST", 2)
    trained, softer = table_of(small_demo, tmp_path / "trained", 1.0), table_of(small_demo, tmp_path / "softer", 0.5)
    words = [f"dataset.table={trained}", "encoder/text=none", "encoder/video=none", "trainer.max_epochs=5"]
    assert (
        main(["train", "dataset=custom", *words, f"model.normalisation={normalisation}", "dataset.protocol=given"]) == 0
    )
    assert ("  speaker-normalised  " in capsys.readouterr().out) is is_invariant
    run = load_run(next((root / "checkpoints").glob("*/run.json")).parent.name)
    assert main(["evaluate", f"run={run.record.run_id}", "dataset=custom", f"dataset.table={softer}", "split=all"]) == 0
    assert ("  speaker-normalised  " in capsys.readouterr().out) is is_invariant
    (path,) = (run.folder / "evaluations").rglob("predictions.parquet")
    own = run.predictions.query("split == 'test'").set_index("id")
    other = pandas.read_parquet(path).set_index("id").loc[own.index]
    columns = [name for name in own if name.startswith("probability_")]
    difference = np.abs(own[columns].to_numpy() - other[columns].to_numpy()).max()
    assert bool(difference < 0.01) is is_invariant, difference


@pytest.mark.slow
def test_vectors_standardised_by_speaker_are_told_alike_in_training_and_later(
    root: Path, small_demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (builder, speaker_standardisation):
        monkeypatch.setattr(module, "FEWEST", 2)
    network = ["encoder/audio=strided_cnn", "encoder.audio.channels=[4,4]", "fusion.pooling=attentive_statistics"]
    words = [f"dataset.root={small_demo}", "encoder/text=none", "encoder/video=none", *network, "trainer.max_epochs=3"]
    speakers = ["model.fused_normalisation=speaker", "group_by_speaker=4", "batch_size=8", "model.selection=last"]
    assert main(["train", *words, *speakers, "trainer.ema=0.9"]) == 0
    (folder,) = (path.parent for path in (root / "checkpoints").glob("*/run.json"))
    assert "  speaker-normalised  " in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    last = pandas.read_csv(folder / "history.csv").iloc[-1]
    assert metrics["val/loss"] == pytest.approx(last["val/loss"], rel=1e-5)
    assert main(["evaluate", f"run={folder.name}", "split=test"]) == 0
    (path,) = (folder / "evaluations").rglob("metrics.json")
    assert json.loads(path.read_text())["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)
    clip = next(small_demo.rglob("*.flac"))
    capsys.readouterr()
    assert main(["predict", f"run={folder.name}", f"input={clip}"]) == 0
    assert clip.stem in capsys.readouterr().out

    run = load_run(folder.name)
    expected = run.predictions.query("split == 'test'").set_index("id").filter(like="probability_")
    audio = {path.stem: path for path in small_demo.rglob("*.flac")}
    rows = [{"id": name, "audio": audio[name], "speaker": name.partition("_")[0]} for name in expected.index]
    pandas.DataFrame(rows).sample(frac=1, random_state=0).to_csv(root / "clips.csv", index=False)
    found = {item.id: list(item.probabilities.values()) for item in run.predict(root / "clips.csv")}
    np.testing.assert_allclose([found[name] for name in expected.index], expected.to_numpy(), atol=1e-5)
