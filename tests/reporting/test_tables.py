"""Tables of groups: intervals, ranks, protocols, ensembles, differences; and how they are written."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emorec.errors import UserError
from emorec.escaping import for_latex
from emorec.reporting.aggregate import finished_runs, grouped, with_predictions
from emorec.reporting.comparison import BEST, Comparison, compare
from emorec.reporting.csv_tables import comparisons_csv, groups_csv
from emorec.reporting.latex_tables import DOCUMENT, latex_of
from emorec.reporting.markdown_tables import comparison_table, tables_of
from emorec.reporting.report import write_report
from emorec.reporting.tables import Table, make_tables
from emorec.runs.checkpoint_store import CheckpointStore
from tests.reporting.run_directories import Answers, answers, publish

FOLDS = {fold: range(4 * fold, 4 * fold + 4) for fold in range(3)}
GATED = {"fusion._target_": "emorec.fusion.gated.Gated"}
RATES = {0.1: 0.5, 0.2: 0.7, 0.3: 0.9}  # {optimizer.lr: accuracy}


def publish_rates(store: CheckpointStore, seeds: int = 2, **options: Any) -> None:
    """A group for each rate."""
    for rate, accuracy in RATES.items():
        for seed in range(seeds):
            predictions = {
                "val": answers(accuracy, speakers=range(20, 26), seed=seed),
                "test": answers(accuracy, speakers=range(12), seed=seed),
            }
            publish(store, {"optimizer.lr": rate, "seed": seed}, predictions=predictions, **options)


def tables(store: CheckpointStore, **options: Any) -> list[Table]:
    runs = with_predictions(finished_runs(store), store)
    return make_tables(grouped(runs, rank=options.get("rank")), draws=1000, **options)


def only(store: CheckpointStore, **options: Any) -> Table:
    (table,) = tables(store, **options)
    return table


def of_rate(table: Table, rate: float) -> str:
    (name,) = (row.group.group_id for row in table.rows if row.values[0] == str(rate))
    return name


# --------------------------------------------------------------------------------------------- estimates


def test_metrics_of_test_have_an_interval_and_say_what_it_is_over(store: CheckpointStore) -> None:
    publish_rates(store)
    table = only(store)
    for row in table.rows:
        estimate = row.estimates["test/uar"]
        assert estimate.interval is not None
        assert estimate.interval.low < estimate.mean < estimate.interval.high
        assert row.estimates["val/uar"].interval is None
    assert table.clusters == "12 speakers"
    text = tables_of([table])
    assert re.search(r"0\.\d{3} ± 0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", text)
    assert "95 % interval of the mean over 12 speakers of test, which are resampled 1,000 times." in text


def test_a_deviation_says_what_it_is_over(store: CheckpointStore) -> None:
    for fold, speakers in FOLDS.items():
        for seed in (0, 1):
            predictions = {"test": answers(0.6 + 0.1 * fold, speakers=speakers, seed=seed)}
            publish(store, {"dataset.fold": fold, "seed": seed}, predictions=predictions)
    table = only(store)
    (row,) = table.rows
    means = [np.mean([run.numbers["test/uar"] for run in runs]) for runs in row.group.by_fold.values()]
    assert row.estimates["test/uar"][:2] == (pytest.approx(np.mean(means)), pytest.approx(np.std(means, ddof=1)))
    assert row.group.over == "3 folds (mean of 2 seeds)"
    assert "| 3 folds (mean of 2 seeds) |" in tables_of([table])


def test_a_single_run_has_no_deviation_and_seeds_of_one_fold_are_seeds(store: CheckpointStore) -> None:
    publish(store, {"dataset.fold": 1})
    assert only(store).rows[0].group.over == ""
    for seed in (1, 2):
        publish(store, {"dataset.fold": 1, "seed": seed})
    assert only(store).rows[0].group.over == "3 seeds"


def test_calibration_is_computed_from_stored_predictions(store: CheckpointStore, tmp_path: Path) -> None:
    publish(store, predictions={"test": answers(0.75)})
    table = only(store)
    estimates = table.rows[0].estimates
    hits = estimates["test/accuracy"].mean
    # all confidences are 0.75, so each bin holds whatever stands there: the error is at least that of the whole
    assert estimates["test/ece"].mean >= abs(hits - 0.75) - 1e-6
    assert estimates["test/brier"].mean == pytest.approx(2 * (hits * 0.0625 + (1 - hits) * 0.5625), abs=1e-6)
    assert "test/ece" in tables_of([table], calibration=True)
    (line,) = csv.DictReader(io.StringIO(groups_csv([table])))
    assert float(line["test/nll/mean"]) == pytest.approx(estimates["test/nll"].mean)


# ----------------------------------------------------------------------------------- ranks and contests


def test_groups_are_ranked_by_another_metric_of_validation_where_it_is_asked_for(store: CheckpointStore) -> None:
    for rate in (0.1, 0.2):
        publish(store, {"optimizer.lr": rate}, metrics={"val/uar": rate, "val/loss": rate, "test/uar": 0.5})
    by_monitor, by_loss = only(store), only(store, rank="val/loss")
    assert [row.values for row in by_monitor.rows] == [("0.2",), ("0.1",)]
    assert [row.values for row in by_loss.rows] == [("0.1",), ("0.2",)], "a lower loss is better"
    assert [row.place for row in by_loss.rows] == [1, 2]
    assert "| val/loss |" in tables_of([by_loss])


@pytest.mark.parametrize("rank", ["test/uar", "uar", "val/", "train/loss"])
def test_ranking_by_anything_but_validation_is_refused(store: CheckpointStore, rank: str) -> None:
    publish(store)
    with pytest.raises(UserError, match=rf"expected a metric of validation, such as val/uar, got {rank}; .*selected"):
        tables(store, rank=rank)


def test_an_unknown_metric_to_rank_by_is_named_with_the_known_ones(store: CheckpointStore) -> None:
    publish(store, metrics={"val/uar": 0.5, "val/loss": 1.0, "test/uar": 0.5})
    with pytest.raises(UserError, match=r"one of \['val/loss', 'val/uar'\], got val/ccc"):
        tables(store, rank="val/ccc")


def test_a_group_whose_seeds_were_tested_on_other_utterances_has_neither_interval_nor_ensemble(
    store: CheckpointStore,
) -> None:
    for seed in (0, 1):
        publish(store, {"seed": seed}, predictions={"test": answers(0.7, each=12 - 2 * seed)})
    (row,) = only(store, ensembles=True).rows
    assert row.estimates["test/uar"].interval is None
    assert row.ensemble == {}


def test_groups_that_are_tested_on_other_utterances_are_not_in_one_table(store: CheckpointStore) -> None:
    for rate, each in ((0.1, 12), (0.2, 12), (0.3, 11)):
        publish(store, {"optimizer.lr": rate}, predictions={"test": answers(0.7, each=each)}, metrics={"val/uar": rate})
    found = tables(store)
    assert sorted(len(table.rows) for table in found) == [1, 2]
    assert len({table.heading for table in found}) == 2
    assert all("utterances " in table.heading for table in found)


def test_groups_of_other_folds_are_not_in_one_table(store: CheckpointStore) -> None:
    for rate, folds in ((0.1, (0, 1, 2)), (0.2, (0,))):
        for fold in folds:
            publish(store, {"optimizer.lr": rate, "dataset.fold": fold})
    assert [table.heading for table in tables(store)] == [
        "demo: emotion, held_out_speakers, fold 0",
        "demo: emotion, held_out_speakers, folds 0–2",
    ]


def test_a_group_that_did_not_read_test_is_ranked_with_those_that_did(store: CheckpointStore) -> None:
    val = answers(0.6, speakers=range(20, 26))
    publish(store, {"optimizer.lr": 0.1}, predictions={"val": val})
    publish(store, {"optimizer.lr": 0.2}, predictions={"val": val, "test": answers(0.7)})
    assert len(only(store).rows) == 2


def test_a_run_whose_predictions_are_broken_or_are_not_its_own_is_named_and_left_out(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    names = [publish(store, {"seed": seed}, predictions={"test": answers(0.6, seed=seed)}) for seed in range(3)]
    (store.folder(names[0]) / "predictions.parquet").write_bytes(b"PAR1")
    swapped = store.folder(names[1]) / "predictions.parquet"
    swapped.unlink()
    swapped.write_bytes((store.folder(names[2]) / "predictions.parquet").read_bytes())
    (row,) = only(store).rows
    assert [run.record.run_id for run in row.group.runs] == names[2:]
    assert f"{names[0]} is left out: expected the predictions of a run" in caplog.text
    assert f"{names[1]} is left out: expected metrics.json" in caplog.text


def test_a_copy_under_another_name_is_named_and_counted_once(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    name = publish(store, predictions={"test": answers(0.6)})
    shutil.copytree(store.folder(name), store.root / "copy_of_it")
    (row,) = only(store).rows
    assert len(row.group.runs) == 1
    assert "copy_of_it is left out" in caplog.text
    caplog.clear()
    runs = finished_runs(store, [store.root])
    assert len(runs) == 1
    assert "it is the same run as" in caplog.text


# -------------------------------------------------------------------------------------------- protocols


@pytest.mark.parametrize(
    ("changes", "data", "expected"),
    [
        ({}, {}, "demo:held_out_speakers:uar"),
        ({}, {"separates": "speakers"}, "demo:held_out_speakers(speakers):uar"),
        ({"model": {"normalisation": "speaker"}}, {}, "demo:held_out_speakers:uar:speaker-normalised"),
        ({"dataset.limit": 40}, {"protocol": "five_fold"}, "demo:five_fold:uar:limit=40"),
        ({"dataset.table": "/a/calls.csv"}, {"dataset": "custom"}, "custom(calls.csv):held_out_speakers:uar"),
    ],
)
def test_every_number_has_a_protocol_that_can_be_cited(
    store: CheckpointStore, changes: dict[str, Any], data: dict[str, str], expected: str
) -> None:
    publish(store, changes, data=data)
    table = only(store)
    assert table.rows[0].protocol("test/uar") == expected
    assert f"Protocol: `{expected}`." in tables_of([table])
    (line,) = csv.DictReader(io.StringIO(groups_csv([table])))
    assert line["protocol_string"] == expected
    assert for_latex(expected) in latex_of([table])


# -------------------------------------------------------------------------------------------- ensembles


def test_an_ensemble_is_scored_on_the_mean_of_the_probabilities_of_its_seeds(store: CheckpointStore) -> None:
    target = np.zeros(4, np.int64)
    # each is wrong about another utterance, two of three are right everywhere
    for seed in range(3):
        predicted = np.where(np.arange(4) == seed, 1, 0)
        own = Answers([f"u{number}" for number in range(4)], target, predicted, {"speaker": list("abcd")})
        publish(store, {"seed": seed}, predictions={"test": own})
    (row,) = only(store, ensembles=True).rows
    assert row.estimates["test/accuracy"].mean == 0.75
    assert row.ensemble["test/accuracy"].mean == 1
    assert row.ensemble_of == "3 seeds"
    assert row.ensemble["test/nll"].mean < row.estimates["test/nll"].mean
    assert not only(store).rows[0].ensemble
    text = tables_of([only(store, ensembles=True)])
    assert "### Ensembles" in text
    lines = list(csv.DictReader(io.StringIO(groups_csv([only(store, ensembles=True)]))))
    assert [line["ensemble_of"] for line in lines] == ["", "3 seeds"]


def test_folds_are_joined_only_where_they_share_their_test_split(store: CheckpointStore) -> None:
    for fold, speakers in FOLDS.items():
        for name, test in (("own", answers(0.6, speakers=speakers)), ("shared", answers(0.6, seed=fold))):
            changes = {"dataset.fold": fold, "optimizer.lr": 0.1 if name == "own" else 0.2}
            publish(store, changes, predictions={"test": test}, data={"protocol": name})
    joined = {table.contest.protocol: table.rows[0].ensemble_of for table in tables(store, ensembles=True)}
    assert joined == {"own": "1 seed, a fold each", "shared": "3 folds × 1 seed"}


# ------------------------------------------------------------------------------------------ comparisons


def test_the_best_by_validation_is_compared_with_all_others(store: CheckpointStore) -> None:
    publish_rates(store)
    table = only(store)
    for asked in BEST:
        (comparison,) = compare([table], [asked])
        assert comparison.baseline.values == ("0.3",)
        assert [item.metric for item in comparison.differences] == ["test/uar"] * 2 + ["val/uar"] * 2
    test = comparison.differences[:2]
    for item in test:
        assert item.interval is not None
        assert item.interval.low < item.value < item.interval.high < 0
        assert item.p is not None
        assert item.corrected is not None
        assert item.p <= item.corrected < 0.05
        assert item.clusters == "12 speakers"
        assert item.value == pytest.approx(
            item.row.estimates["test/uar"].mean - comparison.baseline.estimates["test/uar"].mean
        )


def test_the_baseline_is_named_first_and_few_pairs_cannot_be_significant(store: CheckpointStore) -> None:
    publish_rates(store, seeds=5)
    table = only(store)
    first, second = of_rate(table, 0.1), of_rate(table, 0.2)
    (comparison,) = compare([table], [first[:8], second])
    assert comparison.baseline.group.group_id == first
    (test, _) = comparison.differences
    assert test.signed_rank is not None
    assert (test.signed_rank.pairs, test.signed_rank.p) == (5, 0.0625)
    assert test.effect is not None
    assert test.effect > 0
    assert "5 pairs cannot reach p below 0.05" in comparison_table(comparison)
    assert len(compare([table], [first])[0].differences) == 4, "a baseline alone is compared with all others"
    (line, _) = csv.DictReader(io.StringIO(comparisons_csv([comparison])))
    assert (line["baseline"], line["group_id"], line["wilcoxon_pairs"]) == (first, second, "5")
    assert float(line["low"]) < float(line["difference"]) < float(line["high"])
    assert line["protocol_string"] == "demo:held_out_speakers:uar"


def test_runs_without_predictions_are_compared_by_their_metrics_alone(store: CheckpointStore) -> None:
    for rate in (0.1, 0.2):
        for seed in range(6):
            publish(
                store, {"optimizer.lr": rate, "seed": seed}, metrics={"val/uar": rate, "test/uar": rate + seed / 100}
            )
    ((test, _),) = (item.differences for item in compare(tables(store), ["best"]))
    assert (test.value, test.p, test.interval) == (pytest.approx(-0.1), None, None)
    assert test.signed_rank is not None
    assert (test.signed_rank.pairs, test.signed_rank.smallest) == (6, 1 / 32)


def test_all_problems_of_a_comparison_are_named(store: CheckpointStore) -> None:
    publish_rates(store, seeds=1)
    publish(store, {"optimizer.lr": 0.4}, data={"dataset": "other"})
    found = tables(store)
    here, there = (table.rows[0].group.group_id for table in found)
    with pytest.raises(UserError) as caught:
        compare(found, [here, there, "zz", "", here])
    message = str(caught.value)
    assert "starts with 'zz', got 0" in message
    assert f"each group once, got {here} again" in message
    assert "expected groups of one contest" in message
    with pytest.raises(UserError, match="expected another group in its contest"):
        compare(found, [there])
    with pytest.raises(UserError, match="two groups or more"):
        compare([table for table in found if len(table.rows) == 1], ["best"])


# ---------------------------------------------------------------------------------------- what is written


def comparisons_of(table: Table) -> list[Comparison]:
    return compare([table], ["best"])


def test_latex_marks_the_best_and_the_second_by_validation_and_nothing_by_test(store: CheckpointStore) -> None:
    for rate in RATES:
        publish(store, {"optimizer.lr": rate}, metrics={"val/uar": rate, "test/uar": 1 - rate})
    text = latex_of([only(store)])
    assert re.findall(r"\\textbf\{([^}]*)\}", text) == ["0.300"]
    assert re.findall(r"\\underline\{([^}]*)\}", text) == ["0.200"]
    assert "the best and the second by val/uar" in text


def test_latex_says_once_what_all_deviations_are_over(store: CheckpointStore) -> None:
    for seed in (0, 1):
        publish(store, {"seed": seed})
    assert r"$\pm$ over 2 seeds." in latex_of([only(store)])
    publish(store, {"optimizer.lr": 0.1})
    text = latex_of([only(store)])
    assert r"& $\pm$ over &" in text
    assert "& 2 seeds &" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_the_document_compiles(store: CheckpointStore, tmp_path: Path) -> None:
    publish_rates(store, seeds=1, task={"labels": ["50 % & more", r"\input{x}_~愤"]})
    table = only(store)
    (tmp_path / "report.tex").write_text(DOCUMENT % latex_of([table], comparisons_of(table)))
    words = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "report.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (tmp_path / "report.log").read_text()[-2000:]
    assert (tmp_path / "report.pdf").stat().st_size > 1000


def test_a_report_is_written_with_all_its_files_and_none_of_an_earlier_one(
    store: CheckpointStore, tmp_path: Path
) -> None:
    publish_rates(store, seeds=1)
    table = only(store)
    folder = tmp_path / "report"
    write_report(folder, [table], comparisons_of(table), figures="none")
    names = {"report.md", "groups.csv", "runs.csv", "tables.tex", "report.tex"}
    assert {path.name for path in folder.iterdir()} == {*names, "comparisons.csv"}
    assert "less " in (folder / "report.md").read_text()
    write_report(folder, [table], figures="none")
    assert {path.name for path in folder.iterdir()} == names
