"""Trainings with loggers: which loggers a config gives, how W&B names a run, how offline runs are uploaded."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from emorec.cli import main
from emorec.config.composition import composer, parse
from emorec.config.schema import TrainConfig
from emorec.errors import UserError
from emorec.loggers.factory import make_loggers
from emorec.loggers.lightning import LightningLogger
from emorec.loggers.wandb import WandbLogger
from emorec.training.callbacks.history import History
from tests.loggers.wandb_files import Written, read, wandb_files
from tests.loggers.wandb_server import serving

pytestmark = pytest.mark.slow

KEY = "cd" * 20
OFFLINE = ["logger=wandb", "logger.wandb.mode=offline", "logger.wandb.system_metrics=false"]


@pytest.fixture(autouse=True)
def _without_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def train(*words: str) -> int:
    return main(["train", "dataset.limit=16", "trainer.max_epochs=3", *words])


def runs(root: Path) -> list[Path]:
    return sorted(path.parent for path in (root / "checkpoints").glob("*/run.json"))


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def written(run: Path) -> list[Written]:
    return [read(path) for path in wandb_files(run)]


def chosen(*words: str) -> list[Any]:
    with composer(parse("train", words), TrainConfig) as open_composer:
        return make_loggers(open_composer.compose(list(words)).config.logger)


# ------------------------------------------------------------------------------------------------ choices


@pytest.mark.parametrize(
    ("word", "kinds"),
    [
        ("logger=csv", [LightningLogger]),
        ("logger=none", []),
        ("logger=wandb", [WandbLogger]),
        ("logger=tensorboard", [LightningLogger]),
        ("logger=wandb_tensorboard", [WandbLogger, LightningLogger]),
        ("logger=[wandb,tensorboard]", [WandbLogger, LightningLogger]),
        ("logger=[csv,tensorboard]", [LightningLogger, LightningLogger]),
    ],
)
def test_each_choice_of_loggers_gives_its_classes(word: str, kinds: list[type]) -> None:
    assert [type(logger) for logger in chosen(word)] == kinds


def test_settings_come_from_the_config_or_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "of_the_environment")
    (logger,) = chosen("logger=wandb", "logger.wandb.entity=laboratory", "logger.wandb.mode=offline")
    assert (logger.project, logger.entity, logger.mode) == ("of_the_environment", "laboratory", "offline")


def test_an_entry_that_is_not_a_logger_is_refused() -> None:
    with pytest.raises(UserError, match=r"logger\.wandb: expected a mapping or null, got 'online'"):
        chosen("+logger.wandb=online")
    with pytest.raises(UserError, match=r"logger\.mine: expected a class derived from RunLogger, got AudioSettings"):
        chosen("+logger.mine._target_=emorec.media.audio.AudioSettings")


def test_a_wrong_mode_is_reported_before_anything_is_written(
    empty_root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*train_overrides, "logger=wandb", "logger.wandb.mode=sometimes") == 2
    message = "logger.wandb.mode: expected 'online', 'offline' or 'disabled', got 'sometimes'"
    assert message in capsys.readouterr().err
    assert [path.name for path in empty_root.iterdir()] == ["data"]


def test_the_logger_is_no_part_of_the_identity(root: Path, train_overrides: list[str]) -> None:
    assert train(*train_overrides, "logger=none") == 0
    assert train(*train_overrides, *OFFLINE) == 0
    (run,) = runs(root)
    assert not (run / "wandb").exists()  # it was finished


# ------------------------------------------------------------------------------------------------ W&B


def test_wandb_has_the_metrics_of_the_runs_directory(root: Path, train_overrides: list[str]) -> None:
    words = ["logger=[wandb,tensorboard]", *OFFLINE[1:], "sweep.name=evening", "tags=[x,y]", "notes=a note"]
    assert train(*train_overrides, *words) == 0
    (run,) = runs(root)
    (found,) = written(run)
    assert (found.run["run_id"], found.run["run_group"], found.run["job_type"]) == (run.name, "evening", "train")
    assert (found.run["tags"], found.run["notes"]) == (["x", "y"], "a note")
    config = found.run["config"]["update"]
    assert (config["seed"], config["fusion"]["_target_"]) == (0, "emorec.fusion.concat.Concat")
    assert not {"paths", "logger", "sweep", "extraction"} & set(config)
    metrics = json.loads((run / "metrics.json").read_text())
    for key in ("val/uar", "test/uar", "test/weighted_f1"):
        assert found.summary[key] == pytest.approx(metrics[key])
    assert sorted(found.history) == [0, 1, 2]
    assert (found.exit_code, found.summary["run_directory"]) == (0, str(run))
    assert list((run / "tensorboard").glob("events.*"))
    assert {path.name for path in root.iterdir()} <= {"cache", "checkpoints", "data"}
    assert not (Path.cwd() / "wandb").exists()


def test_a_multirun_in_one_process_logs_each_run_in_one_group(root: Path, train_overrides: list[str]) -> None:
    assert train("-m", *train_overrides, *OFFLINE, "seed=0,1,2", "sweep.name=seeds") == 0
    found = {run.name: written(run) for run in runs(root)}
    assert len(found) == 3
    for name, (only,) in found.items():
        assert (only.run["run_id"], only.run["run_group"], only.exit_code) == (name, "seeds", 0)
        assert sorted(only.history) == [0, 1, 2]
    assert sorted(only.run["config"]["update"]["seed"] for (only,) in found.values()) == [0, 1, 2]


def test_a_failed_run_ends_as_failed_and_starts_again_under_another_id(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = History.on_train_epoch_end

    def failing(self: History, trainer: Any, module: Any) -> None:
        real(self, trainer, module)
        if trainer.current_epoch == 1:
            raise ValueError("boom")

    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_end", failing)
        with pytest.raises(ValueError, match="boom"):
            train(*train_overrides, *OFFLINE)
    assert train(*train_overrides, *OFFLINE) == 0
    (run,) = runs(root)
    first, second = written(run)
    assert (first.run["run_id"], first.exit_code, first.summary["status"]) == (run.name, 1, "failed")
    assert (second.run["run_id"], second.exit_code) == (f"{run.name}-r1", 0)
    assert sorted(second.history) == [0, 1, 2]
    assert (record(run)["attempts"], record(run)["restarts"]) == (2, 1)


def test_an_interrupted_run_resumes_under_its_id(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = History.on_train_epoch_end

    def interrupted(self: History, trainer: Any, module: Any) -> None:
        real(self, trainer, module)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    words = [*train_overrides, "logger=[wandb,tensorboard]", *OFFLINE[1:], "checkpoint.every_seconds=0"]
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_end", interrupted)
        assert train(*words) == 130
    assert train(*words) == 0
    (run,) = runs(root)
    first, second = written(run)
    assert (first.run["run_id"], second.run["run_id"]) == (run.name, run.name)
    assert first.run["run_group"] == second.run["run_group"]
    assert (first.exit_code, second.exit_code) == (130, 0)
    assert sorted(first.history) == [0, 1]
    assert sorted({**first.history, **second.history}) == [0, 1, 2]
    assert all(item["_step"] == epoch for epoch, item in second.history.items())
    assert (record(run)["attempts"], record(run)["restarts"]) == (2, 0)


def test_a_run_that_is_trained_again_has_another_id(root: Path, train_overrides: list[str]) -> None:
    assert train(*train_overrides, *OFFLINE) == 0
    assert train(*train_overrides, *OFFLINE, "rerun=true") == 0
    (run,) = runs(root)
    assert [found.run["run_id"] for found in written(run)] == [run.name, f"{run.name}-r1"]


def test_a_test_that_is_read_later_is_logged_to_the_same_run(root: Path, train_overrides: list[str]) -> None:
    words = [*train_overrides, "logger=[wandb,tensorboard]", *OFFLINE[1:]]
    assert train(*words, "test=false") == 0
    assert train(*words) == 0
    (run,) = runs(root)
    first, second = written(run)
    assert (first.run["run_id"], second.run["run_id"]) == (run.name, run.name)
    assert "test/uar" not in first.summary
    assert second.summary["test/uar"] == json.loads((run / "metrics.json").read_text())["test/uar"]
    assert (second.summary["status"], second.exit_code) == ("finished", 0)
    assert record(run)["attempts"] == 1


def test_a_record_from_before_restarts_were_counted_is_read(root: Path, train_overrides: list[str]) -> None:
    assert train(*train_overrides) == 0
    (run,) = runs(root)
    old = record(run)
    del old["restarts"]
    (run / "run.json").write_text(json.dumps(old))
    assert train(*train_overrides, "rerun=true") == 0
    assert record(run)["restarts"] == 1


# ------------------------------------------------------------------------------------------------ runs sync


def sync(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = main(["runs", "sync", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_sync_uploads_what_was_kept_offline_once(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("-m", *train_overrides, *OFFLINE, "seed=0,1", "sweep.name=seeds") == 0
    first, second = (run.name for run in runs(root))
    code, uploads = sync("--all", "--dry-run", capsys=capsys)
    assert (code, [item["status"] for item in uploads]) == (0, ["waiting", "waiting"])
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        code, uploads = sync(first[:6], capsys=capsys)
        assert (code, [(item["run_id"], item["status"]) for item in uploads]) == (0, [(first, "uploaded")])
        assert list(server.runs) == [first]
        code, uploads = sync("--all", capsys=capsys)
        assert (code, [(item["run_id"], item["status"]) for item in uploads]) == (0, [(second, "uploaded")])
        assert sync("--all", capsys=capsys) == (0, [])
    assert server.exit_codes == {first: 0, second: 0}
    assert {run["groupName"] for run in server.runs.values()} == {"seeds"}
    assert [line["epoch"] for line in server.lines[second] if "train/loss" in line] == [0, 1, 2]
    assert not any(KEY.encode() in path.read_bytes() for path in root.rglob("*") if path.is_file())
    assert not (Path.cwd() / "wandb").exists()
    assert not list((Path(os.environ["HOME"])).rglob("*wandb*"))


def test_sync_tells_why_an_upload_failed(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*train_overrides, *OFFLINE) == 0
    code, (upload,) = sync("--all", capsys=capsys)
    assert (code, upload["status"]) == (1, "failed")
    assert "No API key" in upload["error"]
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    code, (upload,) = sync("--all", "--timeout", "3s", capsys=capsys)
    assert (code, upload["status"]) == (1, "failed")
    assert "within 3 seconds" in upload["error"]
    assert main(["runs", "sync", "--all", "--dry-run"]) == 0
    assert "waiting" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--all", "0123"]])
def test_sync_wants_runs_or_all(words: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "sync", *words]) == 2
    assert "--all" in capsys.readouterr().err


def test_sync_finds_nothing_where_nothing_waits(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*train_overrides) == 0
    capsys.readouterr()
    assert main(["runs", "sync", "--all"]) == 0
    assert capsys.readouterr().out == "nothing waits to be uploaded\n"
