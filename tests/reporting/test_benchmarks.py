"""Tables of a benchmark: from the jobs of its sweep to methods beside published figures."""

import json
from pathlib import Path

import pytest

from emorec.cli import main
from emorec.reporting.benchmarks import methods_of
from emorec.runs.checkpoint_store import CheckpointStore
from tests.reporting.run_directories import answers, publish

SWEEP = "evening"


def publish_job(store: CheckpointStore, words: str, **changes: object) -> dict[str, object]:
    """A run with predictions, and the record of its job."""
    accuracy = 0.6 if changes.get("optimizer.lr") else 0.9
    predictions = {"val": answers(accuracy, speakers=range(6)), "test": answers(accuracy, speakers=range(6, 12))}
    run = publish(store, dict(changes), predictions=predictions)
    return {"number": 1, "overrides": words.split(), "status": "finished", "run_id": run}


@pytest.fixture
def lab(store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of a sweep: two methods, one of them with two seeds; and a run that is not of it."""
    jobs = [
        publish_job(store, "experiment=ours seed=0 dataset.root=/data/here"),
        publish_job(store, "experiment=ours seed=1 dataset.root=/data/here", seed=1),
        publish_job(store, "experiment=ours fusion=gated seed=0 dataset.root=/data/here", **{"optimizer.lr": 0.2}),
    ]
    publish(store, {"seed": 7})
    folder = store.root / "sweeps" / SWEEP
    folder.mkdir(parents=True)
    record = {"name": SWEEP, "launcher": "basic", "jobs": jobs, "others": [], "started": "2026", "ended": "2026"}
    (folder / "sweep.json").write_text(json.dumps(record))
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path))
    return tmp_path


def published(value: float) -> str:
    figure = f"{{method: Theirs, metric: uar, value: {value}, deviation: 0.01, protocol: ten folds, source: a paper}}"
    other = "{method: Others, metric: accuracy, value: 0.9, protocol: ten folds, source: a paper}"
    return f"benchmark.published=[{figure},{other}]"


def cells(printed: str) -> list[list[str]]:
    """The rows of the table of the benchmark."""
    lines = printed.partition("### Benchmark of")[2].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_methods_stand_by_validation_and_before_published_figures(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark=demo", f"benchmark.sweep={SWEEP}", published(0.55), "figures=none", "resamples=100"]
    assert main(["report", *words]) == 0
    headers, *rows = cells(capsys.readouterr().out)
    assert headers == ["method", "n", "± over", "val/uar", "test/uar", "protocol", "source"]
    assert [row[:3] for row in rows] == [
        ["experiment=ours", "2", "2 seeds"],
        ["experiment=ours fusion=gated", "1", "–"],
        ["Theirs", "–", "–"],
    ]
    assert float(rows[0][3][:5]) > float(rows[1][3][:5])
    assert rows[0][-2:] == ["demo:held_out_speakers:uar", "this report"]
    assert rows[2][4:] == ["0.550 ± 0.010", "ten folds", "a paper"]
    written = (lab / "checkpoints" / "report" / "benchmark.md").read_text()
    assert "| Theirs " in written
    assert "which its protocol names" in written
    page = (lab / "checkpoints" / "report" / "report.html").read_text()
    assert "<td>Theirs</td>" in page
    assert 'href="#Theirs"' not in page
    assert main(["report", "figures=none", "resamples=100"]) == 0
    assert not (lab / "checkpoints" / "report" / "benchmark.md").exists()


def test_what_all_jobs_share_names_no_method() -> None:
    jobs = {"a": ["seed=0", "fusion=concat", "x=1"], "b": ["seed=1", "fusion=gated", "x=1", "y=/mine"]}
    assert methods_of(jobs) == {"a": "fusion=concat", "b": "fusion=gated"}
    assert methods_of({"a": ["seed=0", "x=1"], "b": ["seed=1", "x=1"]}) == {"a": "x=1", "b": "x=1"}
    assert methods_of({"a": ["experiment=ours"], "b": ["experiment=ours", "fusion=gated"]}) == {
        "a": "experiment=ours",
        "b": "experiment=ours fusion=gated",
    }


def test_a_benchmark_that_was_not_run_says_by_which_command(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "benchmark=ravdess"]) == 2
    message = capsys.readouterr().err
    assert "benchmark: expected a sweep in" in message
    assert "emorec train -m experiment=benchmark_ravdess" in message


def test_an_unfinished_benchmark_has_no_table(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lab / "checkpoints" / "sweeps" / SWEEP / "sweep.json"
    path.write_text(path.read_text().replace('"finished"', '"interrupted"'))
    assert main(["report", "benchmark=demo", f"benchmark.sweep={SWEEP}"]) == 2
    assert f"expected finished runs in sweep {SWEEP}, found none" in capsys.readouterr().err
