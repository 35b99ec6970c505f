"""Maintenance never removes weights that a run links to; an export needs no store."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emorec.errors import UserError
from emorec.runs.checkpoint_store import CLAIM, CheckpointStore, RunRecord
from emorec.runs.maintenance import GRACE_SECONDS, collect_weights, export_run, remove_run, verify
from emorec.storage.claims import this_process, try_claim
from emorec.storage.leases import time_at
from tests.runs.test_checkpoint_store import WEIGHTS, record

FIRST, SECOND = "a" * 12, "b" * 12
OTHER = {"head": {"weight": torch.full((2, 3), 7.0), "bias": torch.ones(2)}}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Two finished runs that share one of their weights."""
    made = CheckpointStore(tmp_path / "checkpoints")
    for run_id, weights in ((FIRST, WEIGHTS), (SECOND, {**OTHER, "fusion": WEIGHTS["fusion"]})):
        made.write(record(run_id, weights=made.publish(run_id, weights)))
        (made.folder(run_id) / "metrics.json").write_text(json.dumps({"val/uar": 0.5}))
    return made


def read(store: CheckpointStore, run_id: str) -> RunRecord:
    stored = store.read(run_id)
    assert stored is not None
    return stored


def blob(store: CheckpointStore, run_id: str, component: str) -> Path:
    return store.root / "weights" / f"{read(store, run_id).weights[component]}.safetensors"


def link(store: CheckpointStore, run_id: str, component: str) -> Path:
    return store.folder(run_id) / "model" / f"{component}.safetensors"


def flip_a_bit(path: Path) -> None:
    """Flips a bit of a file and keeps its size and time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def grow_old(store: CheckpointStore, age: float) -> None:
    """Sets the time of all weights back by `age` seconds."""
    then = time_at(store.root) - age
    for path in (store.root / "weights").iterdir():
        os.utime(path, (then, then), follow_symlinks=False)


def tree(root: Path) -> dict[str, bytes | str | None]:
    """{path: content}, where a link leads, or `None` for a folder."""
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else None)
        for path in root.rglob("*")
    }


# ---------------------------------------------------------------------------------------------- verify


def test_a_sound_store_has_nothing_broken_and_is_left_as_it_is(store: CheckpointStore) -> None:
    before = tree(store.root)
    assert verify(store) == {}
    assert tree(store.root) == before


def test_an_empty_store_is_sound(tmp_path: Path) -> None:
    empty = CheckpointStore(tmp_path / "nowhere")
    assert verify(empty) == {}
    assert collect_weights(empty, act=True).removed == []


def test_damaged_weights_are_named(store: CheckpointStore) -> None:
    damaged = blob(store, FIRST, "head")
    flip_a_bit(damaged)
    assert verify(store) == {f"weights/{damaged.name}": "the content does not match its digest"}
    assert damaged.exists(), "weights cannot be computed again"


def test_links_that_lead_nowhere_are_named_for_each_run(store: CheckpointStore) -> None:
    blob(store, FIRST, "fusion").unlink()  # both runs link to it
    link(store, SECOND, "head").unlink()
    assert verify(store) == {
        f"{FIRST}/model/fusion.safetensors": "the link leads nowhere",
        f"{SECOND}/model/fusion.safetensors": "the link leads nowhere",
        f"{SECOND}/model/head.safetensors": "the link leads nowhere",
    }


def test_a_link_to_other_weights_is_named(store: CheckpointStore) -> None:
    path = link(store, FIRST, "head")
    path.unlink()
    path.symlink_to(os.path.relpath(blob(store, SECOND, "head"), path.parent))
    (name,) = verify(store)
    assert name == f"{FIRST}/model/head.safetensors"
    assert read(store, FIRST).weights["head"] in verify(store)[name]


def test_a_copy_in_place_of_a_link_is_as_good_until_it_is_damaged(store: CheckpointStore) -> None:
    path, source = link(store, FIRST, "head"), blob(store, FIRST, "head")
    path.unlink()
    shutil.copyfile(source, path)
    assert verify(store) == {}
    flip_a_bit(path)
    assert verify(store) == {f"{FIRST}/model/head.safetensors": "the content does not match its digest"}


# ------------------------------------------------------------------------------------- collect_weights


def test_weights_that_no_run_links_to_are_removed_and_linked_ones_stay(store: CheckpointStore) -> None:
    loose, size = blob(store, FIRST, "head"), blob(store, FIRST, "head").stat().st_size
    shutil.rmtree(store.folder(FIRST))
    grow_old(store, 2 * GRACE_SECONDS)
    before = tree(store.root)
    planned = collect_weights(store, act=False)
    assert (planned.removed, planned.bytes, planned.kept) == ([loose.name], size, 2)
    assert tree(store.root) == before
    assert collect_weights(store, act=True) == planned
    assert not loose.exists()
    assert verify(store) == {}
    assert store.load(read(store, SECOND)).keys() == {"head", "fusion"}
    assert collect_weights(store, act=True).removed == []


@pytest.mark.parametrize(
    ("age", "grace", "gone"),
    [(GRACE_SECONDS / 2, GRACE_SECONDS, 0), (GRACE_SECONDS * 2, GRACE_SECONDS, 3), (90.0, 60.0, 3), (30.0, 60.0, 0)],
)
def test_weights_that_were_touched_recently_stay(store: CheckpointStore, age: float, grace: float, gone: int) -> None:
    for run_id in (FIRST, SECOND):
        shutil.rmtree(store.folder(run_id))
    grow_old(store, age)
    result = collect_weights(store, grace=grace, act=True)
    assert (len(result.removed), result.kept) == (gone, 3 - gone)
    assert len(list((store.root / "weights").iterdir())) == 3 - gone


def test_publishing_weights_again_makes_them_young(store: CheckpointStore) -> None:
    shutil.rmtree(store.folder(FIRST))
    grow_old(store, 2 * GRACE_SECONDS)
    store.publish(FIRST, {"head": WEIGHTS["head"]})
    shutil.rmtree(store.folder(FIRST))
    assert collect_weights(store, act=True).removed == []


def test_the_weights_of_a_run_that_is_not_finished_stay_too(store: CheckpointStore) -> None:
    store.write(replace(read(store, FIRST), status="running", weights={}))
    (store.folder(SECOND) / "run.json").write_text("{")
    grow_old(store, 2 * GRACE_SECONDS)
    assert collect_weights(store, grace=0.0, act=True).kept == 3


def test_a_link_among_the_weights_and_a_file_of_another_kind_are_left_alone(
    store: CheckpointStore, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("precious")
    (store.root / "weights" / f"{'0' * 64}.safetensors").symlink_to(tmp_path / "precious")
    (store.root / "weights" / "README.md").write_text("what this is")
    grow_old(store, 2 * GRACE_SECONDS)
    before = tree(store.root)
    assert collect_weights(store, act=True).removed == []
    assert tree(store.root) == before
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("act", [False, True])
def test_files_of_a_killed_writer_are_removed_by_a_collection_that_acts(store: CheckpointStore, act: bool) -> None:
    left, fresh = store.root / "weights" / ".old.tmp", store.root / "weights" / ".fresh.tmp"
    left.touch()
    grow_old(store, 2 * GRACE_SECONDS)
    fresh.touch()
    collect_weights(store, act=act)
    assert left.exists() is not act
    assert fresh.exists(), "a process may be writing it"


# ------------------------------------------------------------------------------------------ remove_run


def test_removing_a_run_lists_its_files_and_acts_only_when_asked(store: CheckpointStore) -> None:
    before = tree(store.root)
    names = remove_run(store, read(store, FIRST), act=False)
    assert names == ["metrics.json", "model/fusion.safetensors", "model/head.safetensors", "run.json"]
    assert tree(store.root) == before
    assert remove_run(store, read(store, FIRST), act=True) == names
    assert not store.folder(FIRST).exists()
    assert {path.name for path in store.root.iterdir()} == {SECOND, "weights"}
    assert len(list((store.root / "weights").iterdir())) == 3, "weights go with their own clean-up"
    assert verify(store) == {}


def test_removing_a_run_follows_no_link(store: CheckpointStore, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    (store.folder(FIRST) / "inner").symlink_to(tmp_path / "precious")
    remove_run(store, read(store, FIRST), act=True)
    assert (tmp_path / "precious" / "file").read_text() == "precious"


@pytest.mark.parametrize("act", [False, True])
def test_a_run_that_a_process_trains_is_not_removed(store: CheckpointStore, act: bool) -> None:
    before = tree(store.root)
    claim = try_claim(store.folder(FIRST) / CLAIM)
    assert claim is not None
    with claim, pytest.raises(UserError, match="no process trains") as caught:
        remove_run(store, read(store, FIRST), act=act)
    assert FIRST in str(caught.value)
    assert tree(store.root) == before


def test_a_run_whose_process_was_killed_can_be_removed(store: CheckpointStore) -> None:
    left = replace(this_process(), started="1")  # the pid lives, but is another process's by now
    (store.folder(FIRST) / CLAIM).write_text(json.dumps(asdict(left)))
    assert CLAIM in remove_run(store, read(store, FIRST), act=True)
    assert not store.folder(FIRST).exists()


# ------------------------------------------------------------------------------------------ export_run


def test_an_export_needs_no_store(store: CheckpointStore, tmp_path: Path) -> None:
    kept, target = read(store, FIRST), tmp_path / "new" / "export"
    wanted = {path.name: path.read_bytes() for path in (store.folder(FIRST) / "model").iterdir()}
    export_run(store, kept, target)
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert {path.name: path.read_bytes() for path in (target / "model").iterdir()} == wanted
    for name in ("run.json", "metrics.json"):
        assert (target / name).read_bytes() == (store.folder(FIRST) / name).read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["export"]
    shutil.rmtree(store.root)
    for component, weights in WEIGHTS.items():
        loaded = load_file(target / "model" / f"{component}.safetensors")
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    assert CheckpointStore(target.parent).load(replace(kept, run_id="export")).keys() == WEIGHTS.keys()


def test_an_export_leaves_out_the_files_of_a_running_training(store: CheckpointStore, tmp_path: Path) -> None:
    folder = store.folder(FIRST)
    (folder / "resume").mkdir()
    for name in (CLAIM, "resume/000000000001-abc.ckpt", ".run.json.0.tmp"):
        (folder / name).touch()
    export_run(store, read(store, FIRST), tmp_path / "export")
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"model", "run.json", "metrics.json"}


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_an_export_refuses_an_existing_target(
    store: CheckpointStore, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "export")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="expected a new folder"):
        export_run(store, read(store, FIRST), tmp_path / "export")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("damage", "message"), [(flip_a_bit, "the file is damaged"), (Path.unlink, r"head\.safetensors")]
)
def test_damaged_or_missing_weights_are_not_exported(
    store: CheckpointStore, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(blob(store, FIRST, "head"))
    before = tree(tmp_path)
    with pytest.raises(UserError, match=message):
        export_run(store, read(store, FIRST), tmp_path / "export")
    assert tree(tmp_path) == before


def test_an_export_that_fails_half_way_leaves_nothing(store: CheckpointStore, tmp_path: Path) -> None:
    (store.folder(FIRST) / "nowhere").symlink_to(tmp_path / "nowhere")  # a link that cannot be copied
    with pytest.raises((OSError, shutil.Error)):
        export_run(store, read(store, FIRST), tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_collection_removes_what_a_killed_removal_has_left(store: CheckpointStore) -> None:
    old, young = (store.root / f".{FIRST}.{name}.tmp" for name in ("old", "young"))
    for folder in (old, young):
        (folder / "model").mkdir(parents=True)
    then = time_at(store.root) - 2 * GRACE_SECONDS
    os.utime(old, (then, then))
    collect_weights(store, act=True)
    assert [path.name for path in store.root.glob(".*.tmp")] == [young.name]
