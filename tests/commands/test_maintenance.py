"""The commands that keep both stores sound and small: cache verify, gc, compact, and runs verify, gc, rm, export."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from emorec.cli import main
from emorec.features.spec import FeatureSpec
from emorec.runs.checkpoint_store import CLAIM, CheckpointStore
from emorec.storage.claims import try_claim
from emorec.storage.leases import take_lease, time_at
from tests.features.test_store import filled

DAY = 24 * 3600.0
UNUSED = FeatureSpec(encoder="LogMel", version=99, dtype="float32")  # no run was trained on it
TRAINING = ("trainer.max_epochs=1", "model.hidden=16", "batch_size=8", "encoder/video=none")
Printed = pytest.CaptureFixture[str]


@pytest.fixture
def root(empty_root: Path) -> Path:
    """Without features, so that what is written is seen."""
    return empty_root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_demo: Path) -> Path:
    """A root with one finished run, and with features in many shards that no run was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    patch = pytest.MonkeyPatch()
    patch.setenv("EMOREC_ROOT", str(folder))
    assert main(["train", f"dataset.root={small_demo}", *TRAINING]) == 0
    patch.undo()
    filled(folder / "cache", [[number] for number in range(5)], UNUSED)
    return folder


@pytest.fixture
def lab(trained: Path, root: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(trained, root, symlinks=True, dirs_exist_ok=True)
    return root


def asked(printed: Printed, *words: str, code: int = 0) -> Any:
    """What a command answers in JSON."""
    assert main([*words, "--json"]) == code
    return json.loads(printed.readouterr().out)


def tree(root: Path) -> dict[str, bytes | str | None]:
    """{path: content}, where a link leads, or `None` for a folder."""
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else None)
        for path in root.rglob("*")
    }


def the_run(lab: Path) -> Path:
    (path,) = (lab / "checkpoints").glob("*/run.json")
    return path.parent


def used(lab: Path) -> set[str]:
    """The folders of the features that the run was trained on."""
    return set(json.loads((the_run(lab) / "run.json").read_text())["features"].values())


def specs(lab: Path) -> set[str]:
    return {path.name for path in (lab / "cache").iterdir() if path.is_dir()}


def weights(lab: Path) -> set[str]:
    return {path.name for path in (lab / "checkpoints" / "weights").iterdir()}


def size_of(lab: Path, spec: str) -> int:
    return sum(path.stat().st_size for path in (lab / "cache" / spec).glob("*.safetensors"))


def grow_old(path: Path, age: float) -> None:
    then = time_at(path.parent) - age
    os.utime(path, (then, then))


def damage(path: Path) -> None:
    """Flips a bit of a file and keeps its size and time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


# ------------------------------------------------------------------------------------------------ cache


def test_a_sound_cache_is_verified_with_zero(lab: Path, capsys: Printed) -> None:
    before = tree(lab / "cache")
    found = asked(capsys, "cache", "verify")
    shards = list((lab / "cache").glob("*/*.safetensors"))
    assert found == {"checked": len(shards), "broken": {}}
    assert main(["cache", "verify"]) == 0
    assert f"{len(shards)} shards checked, 0 broken" in capsys.readouterr().out
    assert tree(lab / "cache") == before


def log_mel_shard(lab: Path) -> Path:
    (spec,) = (name for name in used(lab) if name.startswith("log_mel"))
    (shard,) = (lab / "cache" / spec).glob("*.safetensors")
    return shard


def test_a_broken_shard_is_quarantined_with_exit_code_1_and_computed_again(
    lab: Path, small_demo: Path, capsys: Printed
) -> None:
    shard = log_mel_shard(lab)
    content = shard.read_bytes()
    damage(shard)
    assert list(asked(capsys, "cache", "verify", code=1)["broken"]) == [f"{shard.parent.name}/{shard.name}"]
    assert not shard.exists()
    assert main(["cache", "verify"]) == 0
    assert main(["train", f"dataset.root={small_demo}", *TRAINING, "seed=1"]) == 0
    assert shard.read_bytes() == content


def test_a_broken_shard_is_named_in_the_table_too(lab: Path, capsys: Printed) -> None:
    shard = log_mel_shard(lab)
    damage(shard)
    assert main(["cache", "verify"]) == 1
    printed = capsys.readouterr().out
    assert f"{shard.parent.name}/{shard.name}: " in printed
    assert "quarantined" in printed
    assert "1 broken" in printed


def test_gc_of_the_cache_without_yes_only_tells(lab: Path, capsys: Printed) -> None:
    before = tree(lab)
    found = asked(capsys, "cache", "gc", "--unused")
    assert found["removed"] == [UNUSED.folder_name]
    assert (found["kept"], found["acted"]) == (2, False)
    assert found["bytes"] == size_of(lab, UNUSED.folder_name)
    assert main(["cache", "gc", "--max-size", "0"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in specs(lab))
    assert "would remove 3 specs" in printed
    assert "--yes" in printed
    assert tree(lab) == before


def test_gc_of_the_cache_removes_what_no_run_was_trained_on(lab: Path, capsys: Printed) -> None:
    found = asked(capsys, "cache", "gc", "--unused", "--yes")
    assert (found["removed"], found["acted"]) == ([UNUSED.folder_name], True)
    assert specs(lab) == used(lab)
    assert len(used(lab)) == 2
    assert main(["cache", "gc", "--unused", "--yes"]) == 0
    assert "removed 0 specs" in capsys.readouterr().out
    assert main(["runs", "rm", the_run(lab).name, "--yes"]) == 0
    assert main(["cache", "gc", "--unused", "--yes"]) == 0
    assert specs(lab) == set()


def test_gc_of_the_cache_goes_by_age_and_by_size(lab: Path, capsys: Printed) -> None:
    oldest, next_one, last = sorted(specs(lab))
    for name, days in ((oldest, 40), (next_one, 20), (last, 1)):
        grow_old(lab / "cache" / name, days * DAY)
    assert asked(capsys, "cache", "gc", "--older-than", "30d")["removed"] == [oldest]
    assert asked(capsys, "cache", "gc", "--older-than=2w")["removed"] == [oldest, next_one]
    assert asked(capsys, "cache", "gc", "--older-than", "30d", "--yes")["removed"] == [oldest]
    left = sum(size_of(lab, name) for name in specs(lab))
    assert asked(capsys, "cache", "gc", "--max-size", f"{left}")["removed"] == []
    assert asked(capsys, "cache", "gc", "--max-size", f"{left - 1}b", "--yes")["removed"] == [next_one]
    assert specs(lab) == {last}


def test_gc_of_the_cache_names_what_is_in_use_and_leaves_it(lab: Path, capsys: Printed) -> None:
    lease = take_lease(lab / "cache" / UNUSED.folder_name)
    assert lease is not None
    with lease:
        assert asked(capsys, "cache", "gc", "--unused", "--yes")["in_use"] == [UNUSED.folder_name]
        assert main(["cache", "gc", "--unused", "--yes"]) == 0
        assert f"{UNUSED.folder_name} is in use and stays" in capsys.readouterr().out
    assert UNUSED.folder_name in specs(lab)


def test_gc_of_the_cache_without_a_filter_says_which_there_are(lab: Path, capsys: Printed) -> None:
    before = specs(lab)
    assert main(["cache", "gc", "--yes"]) == 0
    printed = capsys.readouterr().out
    assert all(flag in printed for flag in ("--older-than", "--unused", "--max-size"))
    assert specs(lab) == before


def test_compact_merges_shards_and_leaves_a_sound_cache(lab: Path, capsys: Printed) -> None:
    assert asked(capsys, "cache", "compact") == {name: 4 if name == UNUSED.folder_name else 0 for name in specs(lab)}
    assert all(len(list((lab / "cache" / name).glob("*.safetensors"))) == 1 for name in specs(lab))
    assert main(["cache", "compact"]) == 0
    assert "0 shards less in 3 specs" in capsys.readouterr().out
    assert asked(capsys, "cache", "verify") == {"checked": 3, "broken": {}}


def test_compaction_is_no_use_of_the_features(lab: Path, capsys: Printed) -> None:
    for name in specs(lab):
        grow_old(lab / "cache" / name, 40 * DAY)
    assert main(["cache", "compact"]) == 0
    capsys.readouterr()
    assert set(asked(capsys, "cache", "gc", "--older-than", "30d")["removed"]) == specs(lab)


@pytest.mark.parametrize("action", ["verify", "gc", "compact"])
def test_another_cache_is_looked_after_by_an_override(lab: Path, tmp_path: Path, capsys: Printed, action: str) -> None:
    before = tree(lab)
    other = filled(tmp_path / "other", [[0], [1]], UNUSED).folder
    words = ["--unused", "--yes"] if action == "gc" else []
    found = asked(capsys, "cache", action, f"paths.cache={tmp_path / 'other'}", *words)
    wanted = {"verify": {"checked": 2, "broken": {}}, "compact": {other.name: 1}}
    assert found == wanted.get(action, found)
    assert other.exists() is (action != "gc")
    assert tree(lab) == before


# ------------------------------------------------------------------------------------------------- runs


def test_sound_runs_are_verified_with_zero(lab: Path, capsys: Printed) -> None:
    assert asked(capsys, "runs", "verify") == {}
    assert main(["runs", "verify"]) == 0
    assert "1 runs checked, 0 files broken" in capsys.readouterr().out


def test_rotten_weights_and_links_to_nowhere_are_verified_with_one(lab: Path, capsys: Printed) -> None:
    run = the_run(lab)
    record = json.loads((run / "run.json").read_text())
    rotten, gone = (f"{record['weights'][name]}.safetensors" for name in ("head", "fusion"))
    damage(lab / "checkpoints" / "weights" / rotten)
    (lab / "checkpoints" / "weights" / gone).unlink()
    names = {f"weights/{rotten}", f"{run.name}/model/fusion.safetensors"}
    assert asked(capsys, "runs", "verify", code=1).keys() == names
    assert main(["runs", "verify"]) == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert "2 files broken" in printed


def test_removing_a_run_and_its_weights_takes_two_steps_and_a_yes_each(lab: Path, capsys: Printed) -> None:
    run, before = the_run(lab), tree(lab / "checkpoints")
    linked = len(weights(lab))
    told = asked(capsys, "runs", "rm", run.name[:6])
    assert (told["run_id"], told["acted"]) == (run.name, False)
    assert "run.json" in told["files"]
    assert main(["runs", "rm", run.name]) == 0
    assert "--yes" in capsys.readouterr().out
    assert asked(capsys, "runs", "gc", "--grace", "0s", "--yes")["removed"] == []
    assert tree(lab / "checkpoints") == before
    assert main(["runs", "rm", run.name, "--yes"]) == 0
    assert f"removed run {run.name}" in capsys.readouterr().out
    assert not run.exists()
    before = tree(lab / "checkpoints")
    assert asked(capsys, "runs", "gc", "--yes")["removed"] == [], "they are young"
    told = asked(capsys, "runs", "gc", "--grace", "0s")
    assert (len(told["removed"]), told["acted"]) == (linked, False)
    assert main(["runs", "gc", "--grace", "0s"]) == 0
    assert f"would remove {linked} weight files" in capsys.readouterr().out
    assert tree(lab / "checkpoints") == before
    assert main(["runs", "gc", "--grace", "0s", "--yes"]) == 0
    assert f"removed {linked} weight files" in capsys.readouterr().out
    assert weights(lab) == set()


def test_a_run_that_somebody_runs_is_not_removed(lab: Path, capsys: Printed) -> None:
    run = the_run(lab)
    claim = try_claim(run / CLAIM)
    assert claim is not None
    with claim:
        assert main(["runs", "rm", run.name, "--yes"]) == 2
    assert run.name in capsys.readouterr().err
    assert (run / "run.json").exists()


@pytest.mark.parametrize("as_json", [True, False])
def test_an_exported_run_needs_no_store(
    lab: Path, tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    run = the_run(lab)
    wanted = CheckpointStore(lab / "checkpoints").load(CheckpointStore(lab / "checkpoints").find(run.name))
    monkeypatch.chdir(tmp_path)
    if as_json:
        told = asked(capsys, "runs", "export", run.name[:6], "out/run")
        assert told == {"run_id": run.name, "folder": str(tmp_path / "out" / "run")}
    else:
        assert main(["runs", "export", run.name, "out/run"]) == 0
        assert str(tmp_path / "out" / "run") in capsys.readouterr().out
    names = {path.name for path in run.iterdir()}
    shutil.rmtree(lab / "checkpoints")
    assert {path.name for path in Path("out/run").iterdir()} == names
    assert not any(path.is_symlink() for path in Path("out").rglob("*"))
    for component, tensors in wanted.items():
        loaded = load_file(Path("out/run/model") / f"{component}.safetensors")
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


def test_an_export_over_a_folder_or_of_damaged_weights_is_refused(lab: Path, tmp_path: Path, capsys: Printed) -> None:
    run, target = the_run(lab), tmp_path / "export"
    target.mkdir()
    assert main(["runs", "export", run.name, str(target)]) == 2
    assert str(target) in capsys.readouterr().err
    assert list(target.iterdir()) == []
    target.rmdir()
    damage((run / "model" / "head.safetensors").resolve())
    assert main(["runs", "export", run.name, str(target)]) == 2
    assert "the file is damaged" in capsys.readouterr().err
    assert not target.exists()


def test_a_run_is_exported_to_a_folder_whose_name_holds_an_equals_sign(lab: Path, tmp_path: Path) -> None:
    assert main(["runs", "export", the_run(lab).name, str(tmp_path / "lr=0.1")]) == 0
    assert (tmp_path / "lr=0.1" / "run.json").exists()


# -------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cache"], "action"),
        (["runs"], "action"),
        (["cache", "tidy"], "tidy"),
        (["cache", "gc", "--older-than", "30"], "30d"),
        (["cache", "gc", "--older-than", "soon"], "30d"),
        (["cache", "gc", "--older-than"], "--older-than"),
        (["cache", "gc", "--max-size", "much"], "10GB"),
        (["cache", "gc", "--max-size", "-1"], "--max-size"),
        (["cache", "gc", "--everything"], "--everything"),
        (["cache", "verify", "--yes"], "--yes"),
        (["cache", "verify", "paths.cahce=/nowhere"], "cahce"),
        (["runs", "gc", "--grace", "never"], "30d"),
        (["runs", "rm"], "run"),
        (["runs", "rm", "ffffffffffff", "--yes"], "ffffffffffff"),
        (["runs", "rm", "../weights", "--yes"], "../weights"),
        (["runs", "export", "ffffffffffff"], "folder"),
        (["runs", "export", "ffffffffffff", "somewhere"], "ffffffffffff"),
    ],
)
def test_arguments_that_make_no_sense_are_an_error_and_change_nothing(
    lab: Path, capsys: Printed, words: list[str], told: str
) -> None:
    before = tree(lab)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""
    assert tree(lab) == before


@pytest.mark.parametrize("command", ["cache", "runs"])
@pytest.mark.parametrize("action", ["verify", "gc"])
def test_stores_that_are_not_there_are_sound_and_empty(root: Path, capsys: Printed, command: str, action: str) -> None:
    assert main([command, action]) == 0
    assert "0" in capsys.readouterr().out
    assert [path.name for path in root.iterdir()] == ["data"]
