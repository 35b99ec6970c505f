"""The cross-corpus matrix: trained on the corpora of the rows, tested on those of the columns."""

import csv
from pathlib import Path

import pytest
from matplotlib import image

from emorec.cli import main
from emorec.datasets.crema_d import CremaD
from emorec.reporting.heat_map import heat_map_png
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.runs.results import read_metrics

WORDS = ["labels=four_emotions", "encoder/audio=none", "encoder/video=none", "head=knn", "progress=false"]


@pytest.fixture
def corpora(root: Path, tmp_path: Path) -> str:
    """Writes a small CREMA-D; the override that finds it. The demo corpus is below the root."""
    CremaD.write_fixture(tmp_path / "corpora" / "crema_d")
    return f"paths.data={tmp_path / 'corpora'}"


def test_each_run_is_tested_on_its_own_test_split_and_on_all_of_the_others(
    corpora: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "matrix=[crema_d,demo]", corpora, *WORDS]) == 0
    text = capsys.readouterr().out
    store = CheckpointStore(root / "checkpoints")
    (folder,) = (store.root / "matrices").iterdir()
    with (folder / "matrix.csv").open(newline="") as stream:
        cells = {(row["trained_on"], row["tested_on"]): row for row in csv.DictReader(stream)}
    assert list(cells) == [("crema_d", "crema_d"), ("crema_d", "demo"), ("demo", "crema_d"), ("demo", "demo")]
    for record in store.records():
        name = record.data["dataset"]
        own, runs_folder = cells[name, name], store.folder(record.run_id)
        assert (own["split"], own["run"]) == ("test", record.run_id)
        assert int(own["utterances"]) == record.data["utterances"]["test"]
        assert float(own["uar"]) == pytest.approx(read_metrics(runs_folder)["test/uar"], abs=1e-6)
        (evaluation,) = (runs_folder / "evaluations").iterdir()
        other = cells[name, "demo" if name == "crema_d" else "crema_d"]
        assert other["split"] == "all"
        assert float(other["uar"]) == pytest.approx(read_metrics(evaluation)["all/uar"], abs=1e-6)
        assert f"{float(other['uar']):.3f} ({other['utterances']})" in text
    assert cells["crema_d", "demo"]["utterances"] == "32"
    assert image.imread(folder / "matrix.png").shape[2] == 4


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["matrix=[demo]", "labels=none"], ["expected at least two different corpora"]),
        (["matrix=[demo,demo]"], ["expected at least two different corpora"]),
        (["matrix=[demo,crema_d]", "dataset.fold=0", "run=a"], ["dataset.fold=0: expected no key", "run=a: expected"]),
        (["matrix=[demo,crema_d]", "test=false"], ["test: expected true for a matrix", "(dataset=crema_d)"]),
        (["matrix=[demo,nowhere]"], ["dataset: expected a choice in"]),
    ],
)
def test_what_makes_no_matrix_is_refused(
    words: list[str], messages: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *words, *WORDS[1:]]) == 2
    error = capsys.readouterr().err
    assert all(message in error for message in messages), error


def test_corpora_with_other_classes_need_a_label_map(
    corpora: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "matrix=[crema_d,demo]", corpora, *WORDS[1:]]) == 2
    assert "labels: expected a map that gives all corpora the same classes" in capsys.readouterr().err


def test_a_heat_map_has_cells_without_a_score_and_scores_below_zero() -> None:
    for scores in ([[0.5, None], [-0.2, 0.1]], [[None, None], [None, None]]):
        assert heat_map_png(scores, [[1, 2], [3, 4]], ["$a", "b"], metric="ccc", notes=["x"]).startswith(b"\x89PNG")
