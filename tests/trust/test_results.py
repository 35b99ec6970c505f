"""Attacks on the directories of runs that a group shares; the canary of each lies outside and must not change."""

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from emorec.cli import main
from emorec.config.schema import SweepName, Tag
from emorec.config.validation import check
from emorec.errors import UserError
from emorec.loggers import sync
from emorec.loggers.wandb import WandbLogger, tidy
from emorec.reporting.aggregate import finished_runs, grouped
from emorec.reporting.report import write_report
from emorec.reporting.tables import make_tables
from emorec.runs.checkpoint_store import CLAIM, CheckpointStore, stored_config
from emorec.runs.logs import log_to
from emorec.runs.maintenance import collect_weights, export_run, remove_run, used_features, verify
from emorec.storage.atomic import share
from emorec.storage.regular_files import read_regular
from emorec.sweeps.record import SweepRecord, find_sweep
from tests.runs.test_checkpoint_store import WEIGHTS, record

RUN, OTHER = "a" * 12, "b" * 12
SECRET = "a key that is nobody else's"
TASK = {"name": "emotion", "kind": "classification", "labels": ["angry", "calm"], "monitor": "uar", "direction": "max"}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """One finished run in a directory that the group may write."""
    made = CheckpointStore(tmp_path / "checkpoints")
    made.write(record(RUN, weights=made.publish(RUN, WEIGHTS), task=TASK, data={"dataset": "demo", "protocol": "p"}))
    (made.folder(RUN) / "metrics.json").write_text(json.dumps({"val/uar": 0.5}))
    (made.folder(RUN) / "config.yaml").write_text("seed: 0\n")
    made.folder(RUN).chmod(0o770)
    return made


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A colleague's folder."""
    folder = tmp_path / "home"
    (folder / "cache").mkdir(parents=True)
    for name in (".bashrc", "run.json", "cache/project", "model.safetensors", "plot.png", f"{'0' * 64}.safetensors"):
        (folder / name).write_text(SECRET)
        (folder / name).chmod(0o600)
    (folder / "link").symlink_to("cache")
    folder.chmod(0o700)
    return folder


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """{path: its mode and its content}."""
    paths = [folder, *folder.rglob("*")]
    return {
        str(path.relative_to(folder)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in paths
    }


def plant(link: Path, target: Path) -> None:
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


# ----------------------------------------------------------------------------------------------- links


def test_a_log_is_not_appended_to_the_file_behind_a_link(store: CheckpointStore, canary: Path) -> None:
    before, log = state(canary), store.folder(RUN) / "log.txt"
    plant(log, canary / ".bashrc")
    with pytest.raises(OSError, match="got a link") as caught, log_to(log):
        pass
    assert str(log) in str(caught.value)
    assert state(canary) == before


def test_nothing_waits_for_the_other_end_of_a_pipe(store: CheckpointStore) -> None:
    folder, pipe = store.folder(RUN), store.root / "weights" / f"{'0' * 64}.safetensors"
    for path in (folder / "log.txt", folder / CLAIM, pipe):
        os.mkfifo(path)
        os.utime(path, (0, 0))  # an unreadable claim is alive while it is touched
    with pytest.raises(OSError, match="expected a regular file"), log_to(folder / "log.txt"):
        pass
    assert verify(store) == {f"weights/{pipe.name}": "expected a regular file, got a pipe"}
    with pytest.raises(OSError, match="expected a regular file"):
        export_run(store, record(RUN), store.root / "export")
    assert CLAIM in remove_run(store, store.find(RUN), act=True)


@pytest.mark.parametrize("keep_resume", [True, False])
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("log.txt", ".bashrc"),
        ("history.csv", ".bashrc"),
        ("model/head.safetensors", "model.safetensors"),
        *((name, "") for name in ("model", "resume", "wandb", "tensorboard", "evaluations", "csv")),
    ],
)
def test_no_run_starts_in_a_directory_with_a_link_out_of_it(
    store: CheckpointStore, canary: Path, name: str, target: str, keep_resume: bool
) -> None:
    before, link = state(canary), store.folder(RUN) / name
    plant(link, canary / target)
    with pytest.raises(OSError, match="expected no link") as caught:
        store.prepare(RUN, keep_resume=keep_resume)
    assert str(link) in str(caught.value)
    assert state(canary) == before


def test_weights_are_not_published_into_a_linked_folder(store: CheckpointStore, canary: Path) -> None:
    for link in (store.folder(RUN) / "model", store.root / "weights"):
        before = state(canary)
        plant(link, canary)
        with pytest.raises(OSError, match="expected no link"):
            store.publish(RUN, WEIGHTS)
        assert state(canary) == before
        link.unlink()


def test_a_planted_weight_file_is_replaced_and_not_touched_through_a_link(store: CheckpointStore, canary: Path) -> None:
    before, digest = state(canary), store.publish(RUN, WEIGHTS)["head"]
    blob = store.root / "weights" / f"{digest}.safetensors"
    plant(blob, canary / "model.safetensors")
    store.publish(OTHER, WEIGHTS)
    assert not blob.is_symlink()
    assert torch.equal(store.load(record(OTHER, weights={"head": digest}))["head"]["weight"], WEIGHTS["head"]["weight"])
    assert state(canary) == before


@pytest.mark.parametrize(("name", "target"), [("notes", "cache"), (".env", ".bashrc"), ("evaluations", "")])
def test_an_export_copies_nothing_from_behind_a_link(
    store: CheckpointStore, canary: Path, tmp_path: Path, name: str, target: str
) -> None:
    plant(store.folder(RUN) / name, canary / target)
    with pytest.raises(OSError, match="expected no link"):
        export_run(store, record(RUN), tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_project_behind_a_link_is_neither_tidied_nor_shared_nor_uploaded(
    store: CheckpointStore, canary: Path
) -> None:
    (canary / "offline-run-1").mkdir()
    before, run = state(canary), store.folder(RUN)
    plant(run / "wandb", canary)
    tidy(run)
    share(run / "wandb")
    (upload,) = sync.uploads(store, [RUN], act=True, timeout=1.0)
    assert (upload.status, str(run / "wandb") in str(upload.error)) == ("failed", True)
    WandbLogger(mode="offline").started(record(RUN), {}, run)
    assert state(canary) == before


def test_a_collection_removes_no_files_of_others(store: CheckpointStore, canary: Path) -> None:
    foreign = store.root / "weights" / "model.safetensors"
    foreign.write_text(SECRET)
    assert collect_weights(store, grace=-1.0, act=True).removed == []
    assert foreign.exists()
    before = state(canary)
    plant(store.root / "weights", canary)
    with pytest.raises(OSError, match="expected no link"):
        collect_weights(store, grace=-1.0, act=True)
    assert state(canary) == before


def test_a_report_removes_no_figures_behind_a_link(store: CheckpointStore, canary: Path) -> None:
    before, folder = state(canary), store.root / "report"
    folder.mkdir()
    plant(folder / "figures", canary)
    with pytest.raises(OSError, match="expected no link"):
        write_report(folder, make_tables(grouped(finished_runs(store))))
    assert state(canary) == before


def test_no_sweep_and_no_report_is_written_behind_a_link(
    canary: Path, tmp_path: Path, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, sweeps = state(canary), store.root / "sweeps"
    sweeps.mkdir()
    plant(sweeps / "evening", canary)
    with pytest.raises(OSError, match="expected no link"):
        SweepRecord(sweeps / "evening", "evening", "basic", []).claim(60.0)
    plant(store.root / "report", canary)
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path))
    assert main(["report"]) == 2
    assert state(canary) == before


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 11)
    for path in (Path("/dev/zero"), Path("/proc/self/status"), tmp_path, tmp_path / "large"):
        with pytest.raises(OSError, match=r"expected|directory"):
            read_regular(path, most=10)
    assert read_regular(tmp_path / "large", most=11) == b"x" * 11


# --------------------------------------------------------------------------------------- planted records


def rewrite(store: CheckpointStore, name: str, **changes: Any) -> Path:
    """A directory whose record is that of the run with changes."""
    folder = store.root / name
    shutil.copytree(store.folder(RUN), folder, symlinks=True)
    values = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**values, **changes}))
    return folder


@pytest.mark.parametrize("run_id", ["../home", RUN])
def test_a_planted_record_removes_and_exports_no_other_directory(
    store: CheckpointStore, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    before, run = state(canary), state(store.folder(RUN))
    rewrite(store, OTHER, run_id=run_id)
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path))
    assert main(["runs", "rm", OTHER, "--yes"]) == 2
    assert main(["runs", "export", OTHER, str(tmp_path / "export")]) == 2
    for store_action in (lambda item: remove_run(store, item, act=True), store.load):
        with pytest.raises((UserError, OSError)):
            store_action(record(f"../{tmp_path.name}/home", weights={"head": "0" * 64}))
    assert state(canary) == before
    assert state(store.folder(RUN)) == run
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "changes", [{"weights": {"../../../home/model": "0" * 64}}, {"group_id": "../../x"}, {"timings": "long"}]
)
def test_a_record_with_names_that_lead_elsewhere_is_refused(store: CheckpointStore, changes: dict[str, Any]) -> None:
    rewrite(store, OTHER, run_id=OTHER, **changes)
    with pytest.raises(UserError, match=next(iter(changes))):
        store.read(OTHER)


@pytest.fixture
def odd(store: CheckpointStore, canary: Path) -> dict[str, Path]:
    """{what is odd: a directory} of a store with one sound run."""
    folders = {
        "copied": rewrite(store, f"{RUN}-copy"),
        "renamed": rewrite(store, "renamed", run_id=OTHER),
        "without metrics": rewrite(store, "c" * 12, run_id="c" * 12),
        "without config": rewrite(store, "d" * 12, run_id="d" * 12),
        "of no mapping": rewrite(store, "e" * 12),
        "of deep JSON": rewrite(store, "f" * 12),
        "of a link": store.root / ("1" * 12),
        "of metrics that are none": rewrite(store, "2" * 12, run_id="2" * 12),
        "of another kind": store.root / ("3" * 12),
        "of the weights": store.root / "weights",
    }
    (folders["without metrics"] / "metrics.json").unlink()
    (folders["without config"] / "config.yaml").unlink()
    (folders["of no mapping"] / "run.json").write_text("[1]")
    (folders["of deep JSON"] / "run.json").write_text("[" * 100_000)
    folders["of a link"].symlink_to(canary)
    (folders["of metrics that are none"] / "metrics.json").write_text("{")
    (folders["of another kind"] / "run.json").mkdir(parents=True)
    values = json.loads((store.folder(RUN) / "run.json").read_text())
    (folders["of the weights"] / "run.json").write_text(json.dumps({**values, "run_id": "weights"}))
    return folders


def test_each_odd_directory_is_named_once_and_left_out(
    store: CheckpointStore, odd: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert [run.record.run_id for run in finished_runs(store)] == [RUN]
    (group,) = grouped(finished_runs(store))
    assert group.score("val/uar") == (0.5, None)
    named = [message.partition(" is left out")[0] for message in caplog.messages]
    assert sorted(named) == sorted(folder.name for folder in odd.values())


def test_a_run_is_found_and_removed_beside_its_copy(store: CheckpointStore, odd: dict[str, Path]) -> None:
    copy = state(odd["copied"])
    remove_run(store, store.find(RUN[:6]), act=True)
    assert not store.folder(RUN).exists()
    assert state(odd["copied"]) == copy
    with pytest.raises(UserError, match="expected the record of run"):
        store.find(RUN[:6])


def test_verify_names_odd_directories_and_their_features_stay(store: CheckpointStore, odd: dict[str, Path]) -> None:
    names = {f"{odd[kind].name}/run.json" for kind in ("copied", "renamed", "of deep JSON", "of a link")}
    assert names <= verify(store).keys()
    with pytest.raises(UserError, match="expected the record of a run"):
        used_features(store.root)
    for kind in ("of no mapping", "of deep JSON", "of another kind"):
        shutil.rmtree(odd[kind])
    odd["of a link"].unlink()
    values = json.loads((odd["renamed"] / "run.json").read_text())
    (odd["renamed"] / "run.json").write_text(json.dumps({**values, "features": {"text": "minilm-1"}}))
    assert used_features(store.root) == {"minilm-1"}


def test_a_config_that_unfolds_to_gigabytes_is_refused(store: CheckpointStore) -> None:
    levels = [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 12)]
    (store.folder(RUN) / "config.yaml").write_text("\n".join(["a0: &a0 lol", *levels]))
    with pytest.raises(UserError, match="aliases written out"):
        stored_config(store.folder(RUN))


# ------------------------------------------------------------------------------------- code and settings


def test_sync_runs_no_code_from_the_directory_of_a_run_and_reads_no_settings_there(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = store.folder(RUN), []
    (run / "wandb" / "offline-run-1").mkdir(parents=True)
    for name in ("random.py", "wandb/__init__.py", "wandb/random.py"):
        (run / name).write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    (run / "wandb" / "settings").write_text("[default]\nbase_url = http://somebody.else\n")
    start = subprocess.run

    def instead(command: list[str], **options: Any) -> Any:
        calls.append((command, options))
        code = "import random, importlib.util; print(random.__file__, importlib.util.find_spec('wandb').origin)"
        flags = command[1 : command.index("-m")]
        return start([sys.executable, *flags, "-c", code], **{**options, "check": True})

    monkeypatch.setattr(subprocess, "run", instead)
    monkeypatch.chdir(run)
    list(sync.uploads(store, [RUN], act=True, timeout=60.0))
    ((command, options),) = calls
    assert command[1:4] == ["-P", "-m", "wandb"]
    places = [Path(options["cwd"]), *(Path(value) for key, value in options["env"].items() if key == "WANDB_DIR")]
    assert not any(place.is_relative_to(run) for place in places)
    assert not (tmp_path / "canary").exists()


def test_training_reads_no_settings_of_wandb_from_the_directory_of_a_run(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    settings = store.folder(RUN) / "wandb" / "settings"
    settings.parent.mkdir()
    settings.write_text("[default]\nbase_url = http://somebody.else\n")
    logger = WandbLogger(mode="online")
    logger.started(record(RUN), {}, store.folder(RUN))
    logger.epoch({"epoch": 0})
    logger.closed("finished")
    assert str(settings) in caplog.text
    assert [path.name for path in settings.parent.iterdir()] == ["settings"]


# ------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["..", "a..b", "../x", "a/b", "a\\b", "x/..", "", "a" * 200, "a\nb"])
def test_names_that_lead_elsewhere_are_refused_before_they_are_recorded(tmp_path: Path, name: str) -> None:
    for annotation in (SweepName, Tag):
        problems: list[str] = []
        check(name, annotation, "name", problems)
        assert len(problems) == 1
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "sweep.json").write_text("{}")
    with pytest.raises(UserError):
        find_sweep(tmp_path / "sweeps", name)


def test_ordinary_names_are_taken() -> None:
    problems: list[str] = []
    check("20260101-120000-ab12", SweepName, "sweep.name", problems)
    check("first try, v1.2 (α)", Tag, "tags[0]", problems)
    assert problems == []


def test_an_id_is_one_name(store: CheckpointStore) -> None:
    for run_id in ("..", "a/b", "/etc", "", "weights"):
        with pytest.raises(UserError, match="expected the id of a run"):
            store.folder(run_id)
    assert asdict(store.find(RUN))["run_id"] == RUN
