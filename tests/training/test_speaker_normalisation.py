"""Runs whose features are standardised by each speaker's own utterances."""

import csv
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile

from emorec.cli import main
from emorec.datamodules import statistics
from emorec.inference.loaded_run import load_run


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
