"""All cards of a small run, from the command line to the files."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from emorec.cards.model_card import _changes, _gaps
from emorec.cli import main
from emorec.runs.checkpoint_store import CheckpointStore

pytestmark = pytest.mark.slow

CONDITIONS = "[noise babble 10 dB,blur 5 %,bare,missing]"


def evaluated(root: Path, *words: str) -> Path:
    """The folder of an evaluation of the only run."""
    store = CheckpointStore(root / "checkpoints")
    (record,) = store.records()
    assert main(["evaluate", f"run={record.run_id}", "progress=false", *words]) == 0
    (folder,) = (store.folder(record.run_id) / "evaluations").iterdir()
    return folder


def test_a_run_of_three_modalities_has_all_cards(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    encoders = ["encoder/audio=crnn", "encoder.audio.channels=[4]", "encoder.audio.hidden=4"]
    assert main(["train", *train_overrides, *encoders, "progress=false"]) == 0
    names = "card=[robustness,fairness,explanation,model]"
    folder = evaluated(root, "split=train", names, "card.limit=7", f"card.conditions={CONDITIONS}")
    printed = capsys.readouterr().out
    card = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in ("robustness", "fairness", "explanation")
    }
    for name in (*card, "model"):
        assert str(folder / f"{name}.md") in printed

    robustness = card["robustness"]
    assert (robustness["clips"], robustness["of"]) == (7, 16)
    rows = {row["condition"]: row for row in robustness["rows"]}
    assert next(iter(rows)) == "unchanged"
    assert {"noise babble 10 dB", "blur 5 %", "bare text", "only audio"} <= set(rows)
    assert len(rows) == 1 + 3 + 6
    metric = robustness["metric"]
    for row in list(rows.values())[1:]:
        expected = row["metrics"][metric] / rows["unchanged"]["metrics"][metric] - 1
        assert row["change"] == pytest.approx(expected)

    assert [item["column"] for item in card["fairness"]["columns"]] == ["speaker"]

    explanation = card["explanation"]
    with (folder / "contributions.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            shares = [float(row[name]) for name in ("start", "text", "audio", "video")]
            assert sum(shares) == pytest.approx(float(row["output"]), abs=1e-5)
    utterances = explanation["time"]["utterances"]
    assert 4 <= len(utterances) <= 8
    for item in utterances.values():
        assert item["error"] < 0.01
        total = sum(sum(values) for values in item["frames"].values())
        assert total == pytest.approx(item["difference"], abs=0.01 * max(0.1, abs(item["difference"])) + 1e-3)
        assert len(item["frames"]["audio"]) > 1
    assert set(explanation["words"]["utterances"]) == set(utterances)
    page = (folder / "explanation.html").read_text()
    assert not re.search(r"<script|src=|href=|https?://|@import|url\(", page)
    assert page.count("<article>") == len(utterances)

    model = (folder / "model.md").read_text()
    assert model.startswith("---\nlibrary_name: emorec\n")
    assert "- training utterances: 16" in model
    for name in ("robustness", "fairness", "explanation"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_known_of_a_card_is_refused(
    root: Path, train_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from emorec.datasets.demo import VERSION

    with (root / "data" / "demo" / f"version_{VERSION}" / "utterances.csv").open(newline="") as stream:
        names = [row["id"] for row in csv.DictReader(stream)]
    np.savez(tmp_path / "text.npz", **{name: np.ones(3, np.float32) for name in names})
    encoders = ["encoder/text=precomputed", f"encoder.text.path={tmp_path / 'text.npz'}"]
    encoders += ["encoder/audio=none", "encoder/video=none"]
    assert main(["train", *train_overrides, *encoders, "progress=false"]) == 0
    (record,) = CheckpointStore(root / "checkpoints").records()
    cases = {
        "card=robustness": "expected encoders that read media, got features that were computed elsewhere (text)",
        "card=fairness card.by=[mood]": "expected columns with several values, of ['speaker'], got ['mood']",
        "card=fairness missing.rate=0.5": "missing.rate: expected 0 with a card",
    }
    for words, message in cases.items():
        assert main(["evaluate", f"run={record.run_id}", "split=val", *words.split()]) == 2
        assert message in capsys.readouterr().err


def test_a_model_card_repeats_what_the_other_cards_measured() -> None:
    fairness = {
        "metric": "mae",
        "columns": [
            {"column": "age", "gap": {"worst": "old|er", "best": "young", "value": 0.25, "interval": [0.1, 0.4]}},
            {"column": "speaker", "gap": None},
        ],
    }
    (line,) = _gaps(fairness)
    assert line == "- by age: mae is worst for old\\|er, 0.250 [0.100, 0.400] from young"
    rows = [("unchanged", "", None), ("noise", "audio", 0.2), ("mp3", "audio", 0.5), ("typing", "text", -0.1)]
    keys = ("condition", "modality", "change")
    found = list(_changes({"metric": "mae", "rows": [dict(zip(keys, row, strict=True)) for row in rows]}))
    assert found == ["- mp3: mae changes by +50 %"]  # a larger error is worse, and a smaller one is no limit
    found = list(_changes({"metric": "uar", "rows": [dict(zip(keys, row, strict=True)) for row in rows]}))
    assert found == ["- typing: uar changes by -10 %"]
