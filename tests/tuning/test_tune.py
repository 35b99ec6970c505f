"""Studies, with real trials on the small demo corpus."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from emorec.cli import main
from emorec.config.composition import composer, parse
from emorec.config.keys import OPERATIONAL
from emorec.config.schema import TrainConfig
from tests.conftest import emorec_process

pytestmark = pytest.mark.slow

TIMEOUT = 600  # seconds after which a process is taken to hang
LONG = 25  # epochs of a trial that is interrupted
SMALL = ["search.model.hidden.values=[8,16]", "search.batch_size.values=[8,16]"]


@pytest.fixture
def words(small_demo: Path) -> list[str]:
    """A study whose trials take a moment each."""
    given = [f"dataset.root={small_demo}", "trainer.max_epochs=2", "study.name=trial_study", "study.trials=3"]
    return ["tune", *given, *SMALL]


@pytest.fixture
def tune(words: list[str], capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Tunes in this process: exit code and what `--json` tells."""

    def run(*more: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main([*words, "--json", *more])
        return code, json.loads(capsys.readouterr().out)

    return run


def runs(root: Path) -> dict[str, dict[str, Any]]:
    """{run_id: run.json}."""
    return {
        path.parent.name: json.loads(path.read_text()) for path in sorted((root / "checkpoints").glob("*/run.json"))
    }


def metrics(root: Path, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "checkpoints" / run_id / "metrics.json").read_text())
    return found


def study_folder(root: Path) -> Path:
    return root / "checkpoints" / "studies" / "trial_study"


def trials(root: Path) -> list[Any]:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    storage = JournalStorage(JournalFileBackend(str(study_folder(root) / "journal.log")))
    return list(optuna.load_study(study_name="trial_study", storage=storage).trials)


def without_operational(config: Any) -> dict[str, Any]:
    operational = OPERATIONAL
    return {key: value for key, value in config.items() if key not in operational}


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def test_the_best_is_the_best_run_on_validation_and_test_is_never_read(
    root: Path, tune: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    code, found = tune()
    records = runs(root)
    scores = {run_id: metrics(root, run_id)[found["monitor"]] for run_id in records}
    assert code == 0
    assert len(scores) == 3
    assert found["monitor"].startswith("val/")
    assert found["trials"] == {"complete": 3, "pruned": 0, "failed": 0}
    assert found["best"][0]["value"] == max(scores.values()) == scores[found["best"][0]["run_id"]]
    assert {trial["run_id"]: trial["value"] for trial in found["best"]} == scores
    for run_id, record in records.items():
        assert record["status"] == "finished"
        assert record["test_reads"] == []
        assert not any(key.startswith("test/") for key in metrics(root, run_id))
        assert not any(word.startswith(("study", "search")) for word in record["overrides"])
        config = OmegaConf.load(root / "checkpoints" / run_id / "config.yaml")
        (parameters,) = [trial["parameters"] for trial in found["best"] if trial["run_id"] == run_id]
        assert {key: OmegaConf.select(config, key) for key in parameters} == parameters


def test_the_experiment_composes_to_the_best_config_and_trains_as_the_same_run(
    root: Path, tune: Callable[..., tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = tune("fusion=gated", "scheduler=warmup_cosine", "loss=focal")
    best, path = found["best"][0]["run_id"], Path(found["experiment"])
    assert path == study_folder(root) / "experiment" / "trial_study.yaml"
    text = path.read_text()
    assert text.splitlines()[0] == f"# {found['command']}"
    assert "override /fusion: gated" in text
    assert OmegaConf.load(path).get("fusion") is None  # its dropout follows from the model's
    command = shlex.split(found["command"])
    assert command == ["emorec", "train", "--config-dir", str(study_folder(root)), "experiment=trial_study"]
    line = parse("train", command[2:])
    with composer(line, TrainConfig) as open_composer:
        config = open_composer.compose(line.overrides).values
    stored = OmegaConf.to_container(OmegaConf.load(root / "checkpoints" / best / "config.yaml"))
    assert without_operational(config) == without_operational(stored)
    before = runs(root)
    assert main(command[1:]) == 0
    assert f"run {best}" in capsys.readouterr().out
    after = runs(root)
    assert after.keys() == before.keys()
    assert after[best]["weights"] == before[best]["weights"]
    assert len(after[best]["test_reads"]) == 1
    assert "test/uar" in metrics(root, best)


def test_a_labs_configs_and_places_are_in_the_experiments_command(
    root: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, store = tmp_path / "a lab", tmp_path / "store"
    (lab / "search").mkdir(parents=True)
    (lab / "fusion").mkdir()
    (lab / "search" / "ours.yaml").write_text(
        "fusion: {distribution: choice, values: [our_fusion]}\n"
        "model.hidden: {distribution: integer, low: 8, high: 16, log: true}\n"
    )
    (lab / "fusion" / "our_fusion.yaml").write_text(
        "_target_: emorec.fusion.concat.Concat\npooling: mean\ndropout: 0.25\n"
    )
    given = [word for word in words if not word.startswith("search")]
    places = [f"paths.checkpoints={store}", "logger=none", "study.trials=1"]
    assert main([*given, *places, "--config-dir", str(lab), "search=ours", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"][0]["parameters"]["fusion"] == "our_fusion"
    assert main(shlex.split(found["command"])[1:]) == 0
    assert f"run {found['best'][0]['run_id']}" in capsys.readouterr().out
    assert [path.parent.parent for path in (tmp_path).rglob("run.json")] == [store]


def test_the_same_command_again_trains_nothing_and_more_trials_go_on(
    root: Path, tune: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    _, first = tune("study.trials=2")
    before = runs(root)
    assert tune("study.trials=2") == (0, first)
    assert runs(root) == before
    _, more = tune("study.trials=3")
    assert more["trials"]["complete"] == 3
    assert before.items() <= runs(root).items()


def test_the_table_names_the_best_the_file_and_its_command(
    root: Path, words: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="emorec")
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "model.hidden" in printed.splitlines()[0]
    assert "3 complete, 0 pruned, 0 failed" in printed
    assert "emorec train --config-dir" in printed.splitlines()[-1]
    assert sum(line.startswith("trial ") for line in caplog.messages) == 3


@pytest.fixture
def one_config(tmp_path: Path) -> list[str]:
    """A search space of two configs, one of which cannot be trained."""
    (tmp_path / "lab" / "search").mkdir(parents=True)
    (tmp_path / "lab" / "search" / "few.yaml").write_text(
        "model: {hidden: {distribution: choice, values: [8, 9]}}\n"  # of four heads
    )
    return ["--config-dir", str(tmp_path / "lab"), "search=few"]


def few(words: list[str], one_config: list[str], *more: str) -> list[str]:
    others = [word for word in words if not word.startswith("search")]
    return [*others, *one_config, "fusion=self_attention", *more, "--json"]


def test_a_config_that_was_trained_already_is_not_trained_again(
    root: Path, words: list[str], one_config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(few(words, one_config, "search.model.hidden.values=[8]")) == 0
    found = json.loads(capsys.readouterr().out)
    assert len({trial["run_id"] for trial in found["best"]}) == 1
    assert len({trial["value"] for trial in found["best"]}) == 1
    (record,) = runs(root).values()
    assert found["trials"]["complete"] == 3
    assert record["attempts"] == 1


def test_trials_that_fail_are_reported_and_the_study_goes_on(
    root: Path,
    words: list[str],
    one_config: list[str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main(few(words, one_config, "study.trials=8")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"]["complete"] + found["trials"]["failed"] == 8
    assert min(found["trials"]["complete"], found["trials"]["failed"]) >= 1
    assert "heads" in caplog.text
    failed = found["trials"]["failed"]
    assert main(few(words, one_config, "study.trials=8")) == 0
    assert caplog.text.count("failed in an earlier start: its values are tried again") == failed
    assert json.loads(capsys.readouterr().out)["trials"] == found["trials"]


def test_a_run_that_breaks_fails_its_trial_and_without_any_result_the_exit_code_says_so(
    root: Path,
    tune: Callable[..., tuple[int, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        "emorec.models.emotion_model.EmotionModel.training_step",
        lambda *_: (_ for _ in ()).throw(ValueError("boom")),
    )
    code, found = tune()
    assert code == 1
    assert found["trials"] == {"complete": 0, "pruned": 0, "failed": 3}
    assert found["experiment"] is None
    assert {record["status"] for record in runs(root).values()} == {"failed"}
    assert "ValueError: boom" in caplog.text
    assert all(trial.user_attrs["run_id"] in runs(root) for trial in trials(root))


def test_a_bad_trial_is_stopped_early(root: Path, tune: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    pruning = ["study.pruner=median", "study.startup=1", "study.warmup=1", "study.trials=6", "study.seed=3"]
    rates = ["~search.optimizer.lr.low", "~search.optimizer.lr.high", "search.optimizer.lr.distribution=choice"]
    code, found = tune(
        *pruning, *rates, "trainer.max_epochs=6", "+search.optimizer.lr.values=[0.03,1e-7]", "~search.model.dropout"
    )
    assert code == 0
    assert found["trials"]["pruned"] >= 1
    assert sum(found["trials"].values()) == 6
    pruned = [trial for trial in trials(root) if trial.state.name == "PRUNED"]
    for trial in pruned:
        assert 1 <= len(trial.intermediate_values) < 6
        folder = root / "checkpoints" / trial.user_attrs["run_id"]
        assert json.loads((folder / "run.json").read_text())["status"] == "stopped"
        assert not (folder / "metrics.json").exists()
        assert not (folder / "claim.json").exists()


@pytest.mark.parametrize(
    "more",
    [
        ["logger=wandb", "logger.wandb.mode=foo"],
        ["test=true"],
        ["study.name=smoke"],
        ["study.trials=0"],
        ["launcher=local"],
        ["study.name=a/b"],
        ["-m"],
    ],
)
def test_invalid_settings_of_a_study_are_refused_before_anything_is_written(
    empty_root: Path, words: list[str], more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *more]) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert {
        "logger=wandb": "logger.wandb.mode",
        "test=true": "test: expected false",
        "-m": "-m",
        "launcher=local": "launcher: expected basic",
    }.get(more[0], "study") in printed
    assert [path.name for path in empty_root.iterdir()] == ["data"]


def test_a_study_needs_a_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune"]) == 2
    assert "study.name" in capsys.readouterr().err


def test_all_problems_of_a_search_space_are_reported_at_once(
    empty_root: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lab" / "search").mkdir(parents=True)
    (tmp_path / "lab" / "search" / "wrong.yaml").write_text(
        "optimizer.lr: {distribution: log_uniform, low: 0, high: 1}\n"
        "optimizer.rate: {distribution: uniform, low: 0, high: 1}\n"
        "fusion: {distribution: choice, values: [concat, concta]}\n"
        "dataset.fold: {distribution: choice, values: [0, 1]}\n"
        "model.dropout: {low: 0, high: 1}\n"
        "batch_size: {distribution: integer, low: 0, high: 8}\n"
        "trainer.max_epochs: {distribution: integer, low: 1, high: 2}\n"
    )
    given = [word for word in words if not word.startswith("search")]
    assert main([*given, "--config-dir", str(tmp_path / "lab"), "search=wrong"]) == 2
    printed = capsys.readouterr().err
    keys = (
        "optimizer.lr",
        "optimizer.rate",
        "fusion",
        "dataset.fold",
        "model.dropout",
        "trainer.max_epochs",
        "batch_size",
    )
    assert all(f"search.{key}: " in printed for key in keys), printed
    assert all(word in printed for word in ("emorec tune: the study: 7 problem", "concta", "self_attention"))
    assert [path.name for path in empty_root.iterdir()] == ["data"]


def test_another_base_config_or_search_space_is_refused(
    root: Path, tune: Callable[..., tuple[int, dict[str, Any]]], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tune("study.trials=1")
    before = runs(root)
    for word, told in [
        ("fusion=gated", "fusion._target_"),
        ("seed=3", "seed is 0 in the study, 3 here"),
        ("search.optimizer.lr.high=0.5", "optimizer.lr"),
        ("dataset.limit=16", "dataset.limit"),
        ("study.pruner=asha", "study: pruner is 'median' in the study, 'asha' here"),
    ]:
        assert main([*words, "study.trials=2", word]) == 2
        assert told in capsys.readouterr().err
    assert runs(root) == before
    code, _ = tune("study.trials=1", "logger=none", "progress=false", "extraction.workers=1")  # change no result
    assert code == 0


def test_without_optuna_the_error_says_what_to_install(
    root: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(words) == 2
    assert "emorec[sweep]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 75)]
)
def test_an_interrupted_study_goes_on_with_the_run_it_was_at(
    root: Path, words: list[str], number: signal.Signals, code: int
) -> None:
    long = [f"trainer.max_epochs={LONG}", "trainer.patience=null", "checkpoint.every_seconds=0", "study.pruner=none"]
    process = emorec_process(*words, *long, "study.trials=2", root=root)
    deadline = time.monotonic() + TIMEOUT
    while not list(root.glob("checkpoints/*/resume/*-*.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert finish(process)[0] == code
    (first,) = runs(root)
    assert runs(root)[first]["status"] == ("running" if number == signal.SIGKILL else "interrupted")

    ended, out, err = finish(emorec_process(*words, *long, "study.trials=2", "--json", root=root))
    assert ended == 0, err
    assert "resuming from" in err
    assert "Traceback" not in err
    assert json.loads(out)["trials"] == {"complete": 2, "pruned": 0, "failed": 0}
    assert len(runs(root)) == 2
    assert runs(root)[first]["epochs"] == LONG
    lost, again, other = trials(root)
    assert [lost.state.name, again.state.name, other.state.name] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert lost.params == again.params
    assert sorted(again.intermediate_values) == list(range(1, LONG + 1))  # what pruners judge by, whole
    assert list((study_folder(root) / "workers").iterdir()) == []


def test_two_workers_share_a_study_and_make_no_trial_too_many(root: Path, words: list[str]) -> None:
    more = ["study.trials=7", "trainer.max_epochs=25", "trainer.patience=null", "--json"]
    processes = [emorec_process(*words, *more, root=root) for _ in range(2)]
    outcomes = [finish(process) for process in processes]
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    found = json.loads(outcomes[0][1])
    assert found == json.loads(outcomes[1][1])
    assert sum(found["trials"].values()) == 7
    made = trials(root)
    assert len(made) == 7
    assert {trial.user_attrs["process"] for trial in made} == {
        f"process {process.pid} on {made[0].user_attrs['process'].rpartition(' ')[2]}" for process in processes
    }
    assert len({str(trial.params) for trial in made}) == 7
