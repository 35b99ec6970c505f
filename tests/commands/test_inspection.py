"""The commands that look at what is there: report, evaluate, data check, cache ls, runs ls and show."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from emorec import load_run
from emorec.cli import main
from emorec.datasets.demo import EMOTIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, small_demo: Path) -> Path:
    """A root with runs of two fusions × two seeds."""
    folder = tmp_path_factory.mktemp("lab")
    patch = pytest.MonkeyPatch()
    patch.setenv("EMOREC_ROOT", str(folder))
    words = [f"dataset.root={small_demo}", "trainer.max_epochs=3", "model.hidden=16", "batch_size=8"]
    assert main(["train", "-m", *words, "fusion=concat,gated", "seed=0,1"]) == 0
    patch.undo()
    return folder


@pytest.fixture
def in_lab(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOREC_ROOT", str(lab))
    return lab


def test_the_report_groups_seeds_and_marks_the_best_by_validation(
    in_lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report"]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ") and "group" not in line]
    assert len(rows) == 2
    assert all("| 2 " in row and "| 0, 1 " in row and "±" in row for row in rows)
    assert ["**best**" in row for row in rows] == [True, False]
    assert {"concat", "gated"} == {row.split("|")[2].strip() for row in rows}
    report = in_lab / "checkpoints" / "report"
    groups = list(csv.DictReader((report / "groups.csv").open()))
    runs = list(csv.DictReader((report / "runs.csv").open()))
    assert (len(groups), len(runs)) == (2, 4)
    for group in groups:
        members = [float(run["test/uar"]) for run in runs if run["group_id"] == group["group_id"]]
        assert float(group["test/uar/mean"]) == pytest.approx(sum(members) / 2)
        assert float(group["test/uar/std"]) == pytest.approx(abs(members[0] - members[1]) / 2**0.5)
    markdown = (report / "report.md").read_text()
    for picture in (report / "figures").glob("*.png"):
        assert f"figures/{picture.name}" in markdown
        assert min(Image.open(picture).size) > 200
    assert len(list((report / "figures").glob("*.png"))) == 2 * 5 + 1  # a projection of the best group
    assert (report / "report.html").read_text().count("<audio ") == 8  # all utterances of test


def test_the_report_filters_by_choices_and_values(in_lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "fusion=gated", "seed=1", "figures=none"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "group" not in line]
    assert len(rows) == 1


def test_the_report_compares_groups_and_ensembles_and_ranks_by_validation_alone(
    in_lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "compare=best", "ensemble=true", "figures=none"]) == 0
    printed = capsys.readouterr().out
    assert "over 2 speakers of test, which are resampled 10,000 times" in printed
    assert "Protocol: `demo:official(speakers):uar`." in printed
    assert "### Ensembles" in printed
    assert "2 pairs cannot reach p below 0.05" in printed
    assert "figures: none; figures=all draws them" in printed
    report = in_lab / "checkpoints" / "report"
    (difference, _) = csv.DictReader((report / "comparisons.csv").open())
    assert difference["metric"] == "test/uar"
    groups = {row["group_id"]: row for row in csv.DictReader((report / "groups.csv").open()) if not row["ensemble_of"]}
    first, second = (groups[difference[key]] for key in ("group_id", "baseline"))
    expected = float(first["test/uar/mean"]) - float(second["test/uar/mean"])
    assert float(difference["difference"]) == pytest.approx(expected)
    names = f"{difference['baseline']},{difference['group_id']}"
    assert (
        main(["report", f"compare={names}", "cluster=utterance", "resamples=500", "rank=val/uar", "figures=none"]) == 0
    )
    assert "over 8 utterances of test, which are resampled 500 times" in capsys.readouterr().out
    assert main(["report", "rank=test/uar"]) == 2
    assert "what is ranked by test is selected on test" in capsys.readouterr().err
    assert main(["report", "compare=77,1e5"]) == 2
    assert "starts with '77'" in (told := capsys.readouterr().err)
    assert "starts with '1e5'" in told
    assert main(["report", "compare=ffff", "cluster=dialogue"]) == 2
    assert "cluster: expected" in capsys.readouterr().err


def test_the_report_says_what_it_did_not_find(in_lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "fusion=tensor"]) == 2
    assert "fusion=tensor" in capsys.readouterr().err
    assert main(["report", "fusoin=gated"]) == 2
    assert "fusion" in capsys.readouterr().err


def test_the_report_of_a_folder_compares_the_exported_runs_in_it(
    in_lab: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    names = sorted(path.parent.name for path in in_lab.glob("checkpoints/*/run.json"))
    for number, name in enumerate(names[:2]):
        assert main(["runs", "export", name, str(tmp_path / "exported" / f"of_a_colleague_{number}")]) == 0
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "link").symlink_to(tmp_path / "exported" / "of_a_colleague_1")
    shutil.copytree(tmp_path / "exported" / "of_a_colleague_0", tmp_path / "own" / "copy")

    def reported(*words: str) -> tuple[list[str], str]:
        caplog.clear()
        assert main(["report", f"output={tmp_path / 'report'}", "figures=none", *words]) == 0
        rows = list(csv.DictReader((tmp_path / "report" / "runs.csv").open()))
        return sorted(row["run_id"] for row in rows), caplog.text

    exported, own = tmp_path / "exported", tmp_path / "own"
    assert reported(f"folder={exported}") == (names[:2], "")
    assert reported(f"folder={exported}", f"run={names[1]}") == (names[1:2], "")
    assert reported(f"folder={exported / 'of_a_colleague_1'}") == (names[1:2], "")
    assert reported(f"folder={in_lab / 'checkpoints'}") == (names, "")
    chosen, warned = reported(f"folder={exported},{own}")
    assert chosen == names[:2]
    assert f"{own / 'copy'} is left out: it is the same run as {exported / 'of_a_colleague_0'}" in warned
    assert f"{own / 'link'} is left out" in warned


def test_a_folder_without_runs_is_refused_with_the_key_of_the_output(
    in_lab: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["report", "fusion=gated", f"folder={tmp_path / 'two'}"]) == 2
    wanted = f"expected finished runs in {tmp_path / 'two'} with fusion=gated, found none; output=… says where"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_runs_are_listed_and_shown(in_lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "ls", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["status"] for record in records] == ["finished"] * 4
    assert main(["runs", "ls"]) == 0
    listed = capsys.readouterr().out
    assert all(record["run_id"] in listed for record in records)
    run_id = records[0]["run_id"]
    assert main(["runs", "show", run_id[:6]]) == 0
    shown = capsys.readouterr().out
    assert run_id in shown
    assert all(label in shown for label in EMOTIONS)
    assert "{" not in shown
    assert max(map(len, shown.splitlines())) < 250
    assert main(["runs", "show", run_id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["run_id"] == run_id
    assert main(["runs", "show", "ffffffffffff"]) == 2
    assert main(["runs", "prune"]) == 2


def test_two_runs_are_told_apart_by_config_and_metrics(in_lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "ls", "--json"]) == 0
    runs = {(item["choices"]["fusion"], item["seed"]): item["run_id"] for item in json.loads(capsys.readouterr().out)}
    first, second = runs["concat", 0], runs["gated", 0]
    assert main(["runs", "show", "--diff", first[:8], second, "--json"]) == 0
    difference = json.loads(capsys.readouterr().out)
    assert difference["config"]["fusion._target_"] == ["emorec.fusion.concat.Concat", "emorec.fusion.gated.Gated"]
    assert "seed" not in difference["config"]
    assert (difference["features"], difference["data"]) == ({}, {})
    assert len(difference["metrics"]["test/uar"]) == 2
    assert main(["runs", "show", first, second, "--diff"]) == 0
    page = capsys.readouterr().out
    assert "features: no difference" in page
    assert re.search(r"\| test/uar +\| 0\.\d+ +\| 0\.\d+ +\| [+-]0\.\d+", page)
    assert main(["runs", "show", first, second]) == 2
    assert main(["runs", "show", first, "--diff"]) == 2
    assert main(["runs", "show", first, "--diff", "--command"]) == 2


def test_the_command_of_a_run_makes_it_again(in_lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "ls", "--json"]) == 0
    run_id = json.loads(capsys.readouterr().out)[-1]["run_id"]
    assert main(["runs", "show", run_id, "--command"]) == 0
    program, *words = shlex.split(capsys.readouterr().out)
    assert program == "emorec"
    assert not any(word.startswith(("sweep.", "launcher")) for word in words)
    assert main(words) == 0
    assert f"run {run_id}" in capsys.readouterr().out, "the finished run is found, nothing is trained"


def test_the_cache_is_listed(in_lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls", "--json"]) == 0
    found = {item["encoder"]: item for item in json.loads(capsys.readouterr().out)}
    assert set(found) == {"HashedNgrams", "LogMel", "FrameStatistics"}
    assert found["LogMel"]["utterances"] == 32
    assert found["LogMel"]["shards"] == 1
    assert main(["cache", "ls"]) == 0
    assert found["LogMel"]["folder"] in capsys.readouterr().out


def test_evaluating_a_run_gives_what_it_was_trained_to(in_lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = next((in_lab / "checkpoints").glob("*/run.json")).parent
    wanted = json.loads((run / "metrics.json").read_text())
    assert main(["evaluate", f"run={run.name}"]) == 0
    assert f"test/uar={wanted['test/uar']:.4f}" in capsys.readouterr().out
    (kept,) = (run / "evaluations").glob("*/metrics.json")
    assert json.loads(kept.read_text())["test/confusion"] == wanted["test/confusion"]
    reads = json.loads((run / "run.json").read_text())["test_reads"]
    assert reads[-1]["why"] == "evaluate dataset=demo"


def test_evaluating_on_other_classes_is_refused(
    in_lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next((in_lab / "checkpoints").glob("*/run.json")).parent.name
    header = "Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}_sent_emo.csv").write_text(f"{header}Hello there,Joey,joy,positive,0,0\n")
    assert main(["evaluate", f"run={run}", "dataset=meld", f"dataset.root={tmp_path}"]) == 2
    assert "expected" in capsys.readouterr().err
    assert main(["evaluate", "run=ffff"]) == 2
    assert main(["evaluate", f"run={run}", "split=dev"]) == 2


@pytest.fixture
def spoiled(small_demo: Path, tmp_path: Path) -> Path:
    """The small demo corpus with a truncated clip, a missing one, and one sound in two splits."""
    shutil.copytree(small_demo, tmp_path / "spoiled")
    folder = next((tmp_path / "spoiled").iterdir())
    clip = folder / "video" / "speaker0_01.mp4"
    clip.write_bytes(clip.read_bytes()[:500])
    (folder / "audio" / "speaker1_02.flac").unlink()
    shutil.copy(folder / "audio" / "speaker0_00.flac", folder / "audio" / "speaker7_00.flac")
    return tmp_path / "spoiled"


def test_data_check_finds_everything_and_says_what_is_fatal(
    root: Path, spoiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", f"dataset.root={spoiled}", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    kinds = {(problem["kind"], problem["where"]): problem["fatal"] for problem in found["problems"]}
    assert kinds == {
        ("broken", "speaker0_01"): False,
        ("missing", "speaker1_02"): False,
        ("duplicate", "speaker0_00"): True,
    }
    assert found["counts"]["train"] == dict.fromkeys(EMOTIONS, 4)
    assert main(["data", "check", f"dataset.root={spoiled}", "extraction.on_bad_media=fail"]) == 1
    assert capsys.readouterr().out.count("fatal: ") == 3


def test_data_check_of_a_sound_corpus_ends_with_zero(
    root: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "dataset=demo", f"dataset.root={small_demo}"]) == 0
    printed = capsys.readouterr().out
    assert "nothing fatal" in printed
    assert "speakers in more than one split: 0" in printed


def test_data_check_without_a_corpus_says_where_it_looked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "dataset=ravdess", f"dataset.root={root / 'nowhere'}"]) == 2
    assert str(root / "nowhere") in capsys.readouterr().err


def test_bad_clips_are_left_out_of_training_and_counted(
    root: Path, spoiled: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"dataset.root={spoiled}", "trainer.max_epochs=1", "encoder/text=none", "encoder/video=none"]
    assert main(["train", *words]) == 2  # a sound of training is in test
    assert (
        "1 of 8 utterances of test have the sound or picture of an utterance of train or val (speaker7_00)"
        in capsys.readouterr().err
    )
    clip = Path(next(spoiled.iterdir()).name, "audio", "speaker7_00.flac")
    shutil.copy(small_demo / clip, spoiled / clip)
    assert main(["train", *words]) == 0
    record = json.loads(next((root / "checkpoints").glob("*/run.json")).read_text())
    assert record["data"]["bad_media"] == {"audio": 1}
    assert record["data"]["left_out"] == 1
    assert sum(record["data"]["utterances"].values()) == 31
    assert main(["train", *words, "extraction.on_bad_media=fail", "seed=1"]) == 2


def test_a_moved_corpus_is_evaluated_on_the_runs_own_split(
    in_lab: Path, small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next((in_lab / "checkpoints").glob("*/run.json")).parent
    shutil.copytree(small_demo, tmp_path / "moved")
    words = ["evaluate", f"run={run.name}", "dataset=demo", f"dataset.root={tmp_path / 'moved'}", "split=val"]
    assert main(words) == 0
    wanted = json.loads((run / "metrics.json").read_text())
    assert f"val/uar={wanted['val/uar']:.4f}" in capsys.readouterr().out
    assert main([*words, "dataset.limit=8"]) == 2


def test_an_exported_run_is_used_from_where_it_lies(
    in_lab: Path, small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next((in_lab / "checkpoints").glob("*/run.json")).parent
    given = tmp_path / "from a colleague"
    assert main(["runs", "export", run.name, str(given)]) == 0
    shutil.copytree(small_demo, tmp_path / "moved")
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path / "own"))
    shutil.copytree(in_lab / "cache", tmp_path / "own" / "cache")  # only to save time
    words = ["evaluate", f"run='{given}'", f"dataset.root={tmp_path / 'moved'}", "split=val"]
    assert main(words) == 0
    wanted = json.loads((run / "metrics.json").read_text())
    printed = capsys.readouterr().out
    assert f"val/uar={wanted['val/uar']:.4f}" in printed
    assert f"  {given}/evaluations/" in printed
    assert load_run(given).folder == given
    assert main([*words, f"dataset.table={tmp_path}"]) == 2
    assert "dataset: expected root, got table" in capsys.readouterr().err
    assert main(["evaluate", f"run={tmp_path / 'nowhere'}"]) == 2
    assert f"expected the directory of a run, got {tmp_path / 'nowhere'}" in capsys.readouterr().err
