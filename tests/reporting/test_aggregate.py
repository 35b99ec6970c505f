"""Runs that differ only in seed and fold are one group; groups of different contests are never compared."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emorec.errors import UserError
from emorec.reporting import report
from emorec.reporting.aggregate import Group, Run, distinction, distinctions, finished_runs, grouped, matching
from emorec.reporting.csv_tables import groups_csv, runs_csv
from emorec.reporting.report import write_report
from emorec.reporting.tables import make_tables
from emorec.reporting.text_tables import tables_of
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.runs.results import read_history
from tests.reporting.run_directories import publish


def groups_of(store: CheckpointStore) -> list[Group]:
    return grouped(finished_runs(store))


def ids(runs: Sequence[Run]) -> list[str]:
    return [run.record.run_id for run in runs]


GATED = {"fusion._target_": "emorec.fusion.gated.Gated"}

# ------------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_runs_that_are_not_finished_are_named_and_left_out(
    store: CheckpointStore, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    left_out = publish(store, {"seed": 1}, status=status)
    finished = publish(store, {"seed": 2})
    assert ids(finished_runs(store)) == [finished]
    assert f"not finished: {left_out} ({status})" in caplog.text


def test_a_run_is_read_with_its_config_and_its_metrics(store: CheckpointStore) -> None:
    publish(store, metrics={"val/uar": 0.25, "test/uar": 0.75})
    (run,) = finished_runs(store)
    assert run.metrics == {"val/uar": 0.25, "test/uar": 0.75}
    assert run.config["optimizer.lr"] == 0.001
    assert run.config["encoder.audio"] is None
    assert run.config["tags"] == []


def test_the_epochs_of_a_run_are_read_and_blanks_are_left_out(store: CheckpointStore) -> None:
    run_id = publish(store)
    (store.folder(run_id) / "history.csv").write_text("epoch,val/uar,train/loss\n0,0.5,\n1,0.75,1.5\n")
    (run,) = finished_runs(store)
    assert read_history(run.folder) == [
        {"epoch": 0.0, "val/uar": 0.5},
        {"epoch": 1.0, "val/uar": 0.75, "train/loss": 1.5},
    ]


def test_an_empty_store_has_no_runs_and_no_groups(store: CheckpointStore) -> None:
    assert finished_runs(store) == []
    assert grouped([]) == []
    assert distinctions([]) == []
    assert tables_of(make_tables([])) == ""


# ----------------------------------------------------------------------------------------------- groups


def test_runs_that_differ_only_in_seed_and_fold_are_one_group(store: CheckpointStore) -> None:
    members = [
        publish(store, {"seed": seed, "dataset.fold": fold, "extraction.workers": 2 + fold})
        for seed in (1, 0)
        for fold in (2, 0, 1)
    ]
    other = publish(store, {"optimizer.lr": 0.01})
    groups = {len(group.runs): group for group in groups_of(store)}
    assert sorted(groups) == [1, 6]
    assert ids(groups[6].runs) == members
    assert (groups[6].seeds, groups[6].folds) == ((0, 1), (0, 1, 2))
    assert ids(groups[1].runs) == [other]
    assert (groups[1].seeds, groups[1].folds) == ((0,), ())


def test_a_group_scores_the_mean_and_the_sample_standard_deviation_of_its_runs(store: CheckpointStore) -> None:
    for seed, score in enumerate((0.5, 0.75, 1.0)):
        publish(store, {"seed": seed}, metrics={"val/uar": score, "test/uar": score / 2})
    (group,) = groups_of(store)
    # deviations -0.25, 0, 0.25: variance (0.0625 + 0.0625) / (3 - 1) = 0.0625
    assert group.score("val/uar") == (0.75, pytest.approx(0.25))
    assert group.score("test/uar") == (0.375, pytest.approx(0.125))


def test_a_single_run_has_no_deviation(store: CheckpointStore) -> None:
    publish(store)
    assert groups_of(store)[0].score("val/uar") == (0.5, None)


def test_a_metric_that_one_run_of_a_group_lacks_is_no_score(store: CheckpointStore) -> None:
    publish(store, {"seed": 0}, metrics={"val/uar": 0.5, "test/uar": 0.5})
    publish(store, {"seed": 1}, metrics={"val/uar": 0.5})
    (group,) = groups_of(store)
    assert group.score("test/uar") is None
    assert group.score("test/accuracy") is None
    assert group.score("val/uar") == (0.5, 0.0)


@pytest.mark.parametrize(("direction", "order"), [("max", [0.75, 0.5, 0.25]), ("min", [0.25, 0.5, 0.75])])
def test_the_best_group_by_validation_comes_first_whatever_its_test_score(
    store: CheckpointStore, direction: str, order: list[float]
) -> None:
    for index, score in enumerate((0.5, 0.75, 0.25)):
        publish(
            store,
            {"optimizer.lr": 0.1 * (index + 1)},
            metrics={"val/uar": score, "test/uar": 1 - score},
            task={"direction": direction},
        )
    assert [group.score("val/uar") for group in groups_of(store)] == [(score, None) for score in order]


@pytest.mark.parametrize("direction", ["max", "min"])
def test_a_group_without_a_validation_score_comes_last(store: CheckpointStore, direction: str) -> None:
    publish(store, {"optimizer.lr": 0.1}, metrics={}, task={"direction": direction})
    publish(store, {"optimizer.lr": 0.2}, metrics={"val/uar": 0.5}, task={"direction": direction})
    assert [group.score("val/uar") for group in groups_of(store)] == [(0.5, None), None]


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_group_with_a_score_that_is_not_finite_comes_last_and_is_not_the_best(
    store: CheckpointStore, direction: str, value: float
) -> None:
    for seed, score in enumerate((0.5, value)):
        publish(store, {"seed": seed, "optimizer.lr": 0.1}, metrics={"val/uar": score}, task={"direction": direction})
    for rate in (0.2, 0.3):
        publish(store, {"optimizer.lr": rate}, metrics={"val/uar": rate}, task={"direction": direction})
    groups = groups_of(store)
    assert groups[-1].score("val/uar") is None
    assert [group.score("val/uar") is None for group in groups] == [False, False, True]
    assert [row[-1].strip("| ") for row in table_rows(tables_of(make_tables(groups)))[1:]] == ["**best**", "", ""]
    assert [row["val/uar/mean"] for row in csv.DictReader(io.StringIO(groups_csv(make_tables(groups))))][-1] == ""


def test_no_group_is_the_best_if_none_has_a_validation_score(store: CheckpointStore) -> None:
    for rate in (0.1, 0.2):
        publish(store, {"optimizer.lr": rate}, metrics={"val/uar": math.nan})
    assert "best" not in tables_of(make_tables(groups_of(store)))


# ----------------------------------------------------------------------------------------- distinctions


def test_only_what_differs_is_named_and_choices_come_first(store: CheckpointStore) -> None:
    publish(store, {"optimizer.lr": 0.01})
    publish(store, GATED, choices={"fusion": "gated"})
    groups = groups_of(store)
    assert distinctions(groups) == ["fusion", "optimizer.lr"]
    values = {tuple(distinction(group, key) for key in distinctions(groups)) for group in groups}
    assert values == {("concat", "0.01"), ("gated", "0.001")}


def test_groups_that_are_alone_or_alike_have_no_distinctions(store: CheckpointStore) -> None:
    publish(store, {"seed": 0})
    publish(store, {"seed": 1})
    assert distinctions(groups_of(store)) == []


def test_what_does_nothing_beside_a_classical_head_is_no_distinction(store: CheckpointStore) -> None:
    svm = {"head": {"_target_": "emorec.models.classical.LinearSVM", "C": [1.0]}}
    publish(store, {"optimizer.lr": 0.01})  # an older run, which names no head
    publish(store, {**svm, "optimizer.lr": 0.5}, choices={"head": "linear_svm"})
    groups = groups_of(store)
    assert distinctions(groups) == ["head"]
    assert {distinction(group, "head") for group in groups} == {"neural", "linear_svm"}
    publish(store, {**GATED, "optimizer.lr": 0.01}, choices={"fusion": "gated", "head": "neural"})
    groups = groups_of(store)
    assert distinctions(groups) == ["fusion", "head"]
    values = {tuple(distinction(group, key) for key in distinctions(groups)) for group in groups}
    assert values == {("concat", "neural"), ("gated", "neural"), ("–", "linear_svm")}


def test_a_choice_stands_for_all_values_below_it(store: CheckpointStore) -> None:
    publish(store)
    publish(
        store, {"encoder.audio": {"_target_": "emorec.encoders.log_mel.LogMel"}}, choices={"encoder/audio": "log_mel"}
    )
    assert distinctions(groups_of(store)) == ["encoder/audio"]


def test_a_value_that_differs_within_one_choice_is_named(store: CheckpointStore) -> None:
    publish(store)
    publish(store, {"encoder.text.dim": 128})
    assert distinctions(groups_of(store)) == ["encoder.text.dim"]


def test_seed_fold_and_what_does_not_change_a_result_are_no_distinctions(store: CheckpointStore) -> None:
    publish(store)
    publish(
        store,
        {
            "optimizer.lr": 0.01,
            "seed": 1,
            "dataset.fold": 2,
            "dataset.root": "/moved",
            "extraction.workers": 8,
            "tags": ["first"],
            "notes": "a try",
        },
    )
    assert distinctions(groups_of(store)) == ["optimizer.lr"]


# ---------------------------------------------------------------------------------------------- filters


@pytest.fixture
def varied(store: CheckpointStore) -> list[Run]:
    """Runs of two fusions × two seeds, the gated ones with another rate."""
    for seed in (0, 1):
        publish(store, {"seed": seed})
        publish(store, {**GATED, "seed": seed, "optimizer.lr": 0.01}, choices={"fusion": "gated"})
    return finished_runs(store)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [("concat", 0), ("gated", 0), ("concat", 1), ("gated", 1)]),
        ({"fusion": ["gated"]}, [("gated", 0), ("gated", 1)]),
        ({"fusion": ["gated", "concat"], "seed": ["1"]}, [("concat", 1), ("gated", 1)]),
        ({"optimizer.lr": ["0.01"]}, [("gated", 0), ("gated", 1)]),
        ({"optimizer.lr": ["0.01"], "fusion": ["concat"]}, []),
        ({"encoder/text": ["hashed_ngrams"], "seed": ["0"]}, [("concat", 0), ("gated", 0)]),
        ({"encoder.text.dim": ["64"], "seed": ["0"]}, [("concat", 0), ("gated", 0)]),
        ({"seed": ["7"]}, []),
    ],
)
def test_runs_are_chosen_by_what_was_composed_and_by_values_of_the_config(
    varied: list[Run], filters: dict[str, list[str]], expected: list[tuple[str, int]]
) -> None:
    chosen = matching(varied, filters)
    assert [(run.record.choices["fusion"], run.record.seed) for run in chosen] == expected


@pytest.mark.parametrize(("key", "value"), [("trainer.deterministic", "true"), ("dataset.limit", "null")])
def test_a_value_is_written_as_on_the_command_line_of_a_training(varied: list[Run], key: str, value: str) -> None:
    assert ids(matching(varied, {key: [value]})) == ids(varied)
    assert matching(varied, {key: ["1"]}) == []


def test_runs_are_chosen_by_id_by_sweep_and_by_tag(store: CheckpointStore) -> None:
    made = []
    for seed, (sweep, tags) in enumerate((("morning", ["a"]), ("evening", ["a", "b"]), ("evening", []))):
        run_id = publish(store, {"seed": seed, "sweep.name": sweep})
        stored = store.read(run_id)
        assert stored is not None
        store.write(replace(stored, tags=tags))
        made.append(run_id)
    runs = finished_runs(store)
    assert ids(matching(runs, {"run": [made[0], made[2][:6]]})) == [made[0], made[2]]
    assert ids(matching(runs, {"sweep": ["evening"]})) == made[1:]
    assert ids(matching(runs, {"tags": ["b", "c"]})) == [made[1]]
    assert ids(matching(runs, {"tags": ["a"], "sweep": ["evening"]})) == [made[1]]
    assert matching(runs, {"run": ["x"]}) == []


def test_an_unknown_key_is_named_with_the_known_ones(varied: list[Run]) -> None:
    with pytest.raises(UserError, match="'fusoin'") as caught:
        matching(varied, {"seed": ["0"], "fusoin": ["gated"]})
    assert all(repr(known) in str(caught.value) for known in ("fusion", "seed", "optimizer.lr"))


def test_filters_of_no_runs_are_no_error() -> None:
    assert matching([], {"fusoin": ["gated"]}) == []


# ----------------------------------------------------------------------------------------------- tables


def table_rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table without its rule."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_contests_are_separate_tables_each_with_its_own_best(store: CheckpointStore) -> None:
    for index, (dataset, protocol, task) in enumerate(
        [
            ("demo", "held_out_speakers", "emotion"),
            ("meld", "official", "emotion"),
            ("meld", "official", "sentiment"),
            ("demo", "folds", "emotion"),
        ]
    ):
        for rate in (0.01, 0.1):
            publish(
                store,
                {"optimizer.lr": rate, "dataset.limit": index},
                metrics={"val/uar": 0.125 * index + rate},
                data={"dataset": dataset, "protocol": protocol},
                task={"name": task},
                choices={"dataset": dataset},
            )
    text = tables_of(make_tables(groups_of(store)))
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## demo: emotion, folds",
        "## demo: emotion, held_out_speakers",
        "## meld: emotion, official",
        "## meld: sentiment, official",
    ]
    for part in text.split("## ")[1:]:
        header, *rows = table_rows(part)
        assert header[:2] == ["group", "optimizer.lr"], "what differs between contests is no column"
        assert [row[1] for row in rows] == ["0.1", "0.01"]
        assert [row[-1].strip("| ") for row in rows] == ["**best**", ""]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"data": {"corpus": "1" * 64}}, {"data": {"corpus": "2" * 64}}, ["corpus 11111111", "corpus 22222222"]),
        ({}, {"data": {"corpus": "2" * 64}}, ["corpus of unknown content", "corpus 22222222"]),
        ({}, {"task": {"labels": ["angry", "calm", "sad"]}}, ["angry, calm", "angry, calm, sad"]),
        ({}, {"task": {"monitor": "mae", "direction": "min"}}, ["by uar (max)", "by mae (min)"]),
        ({}, {"task": {"kind": "regression", "labels": []}}, []),
        (
            {"changes": {"dataset.table": "/a/interviews.csv"}},
            {"changes": {"dataset.table": "/b/calls.csv"}},
            ["demo (interviews.csv)", "demo (calls.csv)"],
        ),
    ],
)
def test_groups_of_other_corpora_or_tasks_are_never_ranked_together(
    store: CheckpointStore, first: dict[str, Any], second: dict[str, Any], told: list[str]
) -> None:
    for rate, options in ((0.1, first), (0.2, second)):
        settings = dict(options)
        changes = {"optimizer.lr": rate, **settings.pop("changes", {})}
        publish(store, changes, metrics={"val/uar": rate, "val/mae": rate}, **settings)
    text = tables_of(make_tables(groups_of(store)))
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(headings) == 2
    assert "best" not in text
    assert all(any(words in heading for heading in headings) for words in told)


def test_a_table_under_another_name_is_the_same_corpus(store: CheckpointStore) -> None:
    for seed, table in enumerate(("/a/interviews.csv", "/b/copy.csv")):
        publish(store, {"seed": seed, "dataset.table": table}, data={"corpus": "1" * 64})
    publish(store, {"optimizer.lr": 0.1, "dataset.table": "/b/copy.csv"}, data={"corpus": "1" * 64})
    groups = groups_of(store)
    assert sorted(len(group.runs) for group in groups) == [1, 2]
    assert {group.contest.dataset for group in groups} == {"demo (interviews.csv)"}


def test_a_run_that_does_not_record_its_corpus_stays_in_the_group_of_those_that_do(store: CheckpointStore) -> None:
    publish(store, {"seed": 0})
    publish(store, {"seed": 1}, data={"corpus": "1" * 64})
    (group,) = groups_of(store)
    assert (len(group.runs), group.contest.corpus) == (2, "1" * 64)


def test_metrics_of_an_older_version_that_hold_nan_are_no_score_and_no_crash(
    store: CheckpointStore, tmp_path: Path
) -> None:
    texts = ('{"val/uar": NaN, "val/confusion": null}', '{"val/uar": 0.5}', '{"val/uar": null}')
    for seed, metrics in enumerate(texts):
        run_id = publish(store, {"seed": seed})
        (store.folder(run_id) / "metrics.json").write_text(metrics)
    (group,) = groups_of(store)
    assert group.score("val/uar") is None
    write_report(tmp_path / "report", make_tables([group]))
    rows = list(csv.DictReader((tmp_path / "report" / "runs.csv").open()))
    assert [row["val/uar"] for row in rows] == ["", "0.5", ""]


def test_a_row_shows_seeds_folds_and_scores(store: CheckpointStore) -> None:
    for seed in (0, 1, 2):
        for fold, score in ((0, 0.5), (3, 0.75)):
            publish(store, {"seed": seed, "dataset.fold": fold}, metrics={"val/uar": score})
    (group,) = groups_of(store)
    header, row = table_rows(tables_of(make_tables([group])))
    cells = dict(zip(header, row, strict=True))
    assert (cells["n"], cells["seeds"], cells["folds"]) == ("6", "0–2", "0, 3")
    # over the two folds: deviations ±0.125, variance 2 × 0.015625 / 1
    assert cells["val/uar"] == "0.625 ± 0.177"
    assert cells["± over"] == "2 folds (mean of 3 seeds)"
    assert cells["test/uar"] == "–"
    assert "best" not in row[-1], "a single group is not the best of anything"


def test_the_tables_for_machines_hold_every_group_and_every_run(store: CheckpointStore) -> None:
    for seed, score in enumerate((0.5, 0.75, 1.0)):
        publish(store, {"seed": seed}, metrics={"val/uar": score})
    publish(store, {**GATED, "seed": 5}, choices={"fusion": "gated"}, metrics={"val/uar": 0.25, "test/uar": 0.125})
    groups = groups_of(store)
    first, second = csv.DictReader(io.StringIO(groups_csv(make_tables(groups))))
    assert (first["fusion"], first["n"], first["seeds"], first["folds"]) == ("concat", "3", "0 1 2", "")
    assert (float(first["val/uar/mean"]), float(first["val/uar/std"])) == (0.75, pytest.approx(0.25))
    assert (first["test/uar/mean"], first["test/uar/std"]) == ("", "")
    assert (second["fusion"], second["n"], second["test/uar/mean"], second["test/uar/std"]) == (
        "gated",
        "1",
        "0.125",
        "",
    )
    runs = list(csv.DictReader(io.StringIO(runs_csv(make_tables(groups_of(store))))))
    assert [(row["seed"], row["val/uar"], row["test/uar"]) for row in runs] == [
        ("0", "0.5", ""),
        ("1", "0.75", ""),
        ("2", "1.0", ""),
        ("5", "0.25", "0.125"),
    ]
    assert len({row["run_id"] for row in runs}) == 4
    assert len({row["group_id"] for row in runs}) == 2


@pytest.mark.parametrize("both", [False, True])
def test_every_table_says_where_speakers_are_normalised(store: CheckpointStore, both: bool) -> None:
    publish(store, {"model": {"normalisation": "speaker"}, "seed": 1})
    publish(store, {"model": {"normalisation": "speaker" if both else "train"}, "seed": 2, **GATED})
    groups = groups_of(store)
    text = tables_of(make_tables(groups))
    assert "| model.normalisation |" in text
    assert "speaker-normalised" in text
    expected = {"speaker"} if both else {"speaker", "train"}
    for table in (groups_csv(make_tables(groups)), runs_csv(make_tables(groups))):
        assert {row["model.normalisation"] for row in csv.DictReader(io.StringIO(table))} == expected


def test_a_table_says_where_fused_vectors_are_standardised_by_speaker(store: CheckpointStore) -> None:
    publish(store, {"model": {"normalisation": "train", "fused_normalisation": "speaker"}, "seed": 1})
    text = tables_of(make_tables(groups_of(store)))
    assert "| model.fused_normalisation |" in text
    assert "| model.normalisation |" not in text
    assert "speaker-normalised" in text


def test_no_table_speaks_of_speakers_where_none_is_normalised(store: CheckpointStore) -> None:
    publish(store, {"model": {"normalisation": "train"}, "seed": 1})
    assert "normalis" not in tables_of(make_tables(groups_of(store)))


# ----------------------------------------------------------------------------------------------- report


def test_a_report_replaces_the_figures_of_an_earlier_one_only_when_it_is_written(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = publish(store, metrics={"val/uar": 0.5, "val/confusion": [[3, 1], [0, 4]]})
    history = "epoch,train/loss,val/loss,val/uar\n0,0.5,0.6,0.4\n1,0.4,nan,0.5\n"
    (store.folder(run_id) / "history.csv").write_text(history)
    folder = tmp_path / "report"
    earlier = folder / "figures" / "curves_earlier.png"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    mine = earlier.with_name("mine.png")
    mine.touch()
    groups = groups_of(store)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as context:
        context.setattr(report, "write_text", fail)
        with pytest.raises(OSError, match="no space left"):
            write_report(folder, make_tables(groups))
    assert earlier.exists()
    assert write_report(folder, make_tables(groups)) == tables_of(make_tables(groups))
    text, group_id = (folder / "report.md").read_text(), groups[0].group_id
    names = {f"{kind}_{group_id}.png" for kind in ("confusion", "curves")}
    documents = {name.replace(".png", ".pdf") for name in names}
    assert {path.name for path in earlier.parent.iterdir()} == {*names, *documents, mine.name}
    assert all(f"(figures/{name})" in text for name in names)
