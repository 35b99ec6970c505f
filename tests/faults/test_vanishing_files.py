"""Files of shared folders that another process removes after they were listed are skipped and never a traceback."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from emorec.config.schema import FeaturesConfig
from emorec.features import compaction
from emorec.features import inventory as inventory_module
from emorec.features import maintenance as feature_maintenance
from emorec.features import store as store_module
from emorec.features.compaction import MANY_SHARDS, compact, compact_all, compact_if_many
from emorec.features.inventory import inventory
from emorec.features.maintenance import collect, spec_of, verify
from emorec.features.store import FeatureStore
from emorec.loggers import sync, wandb
from emorec.reporting.aggregate import finished_runs
from emorec.runs import maintenance as run_maintenance
from emorec.runs.checkpoint_store import CLAIM, CheckpointStore
from emorec.storage import atomic, leases
from emorec.storage.claims import this_process, try_claim
from emorec.storage.digests import FileDigests
from emorec.training import states as states_module
from emorec.training.states import AtomicCheckpointIO, newest_state, states
from emorec.tuning.study import drop_broken_lines
from tests.faults.conftest import plant_claim
from tests.features.test_store import SPEC, filled, key
from tests.runs.test_checkpoint_store import WEIGHTS, record

pytestmark = pytest.mark.faults

FIRST, SECOND = "a" * 12, "b" * 12
Vanish = Callable[[ModuleType, str, Path], None]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.fixture
def vanish_after(monkeypatch: pytest.MonkeyPatch) -> Vanish:
    """Removes a path after a function of a module has listed or read it, or has listed the files in it."""

    def arrange(module: ModuleType, name: str, path: Path) -> None:
        function = getattr(module, name)

        def then_remove(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            listed = result if isinstance(result, list) and result and isinstance(result[0], Path) else [path]
            if path in {*listed, listed[0].parent}:
                remove(path)
            return result

        monkeypatch.setattr(module, name, then_remove)

    return arrange


@pytest.fixture
def vanish_before(monkeypatch: pytest.MonkeyPatch) -> Vanish:
    """Removes a path before a function of a module uses it."""

    def arrange(module: ModuleType, name: str, path: Path) -> None:
        function = getattr(module, name)

        def remove_first(*args: Any, **kwargs: Any) -> Any:
            remove(path)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, remove_first)

    return arrange


# -------------------------------------------------------------------------------------------- features


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Three shards with one key each."""
    return filled(tmp_path, [[0], [1], [2]])


def test_the_inventory_skips_a_shard_that_was_merged(tmp_path: Path, store: FeatureStore, vanish_after: Vanish) -> None:
    vanish_after(inventory_module, "list_folder", store.shards[1].path)
    (entry,) = inventory(tmp_path)
    assert (entry["shards"], entry["broken"], entry["utterances"]) == (2, 0, 2)


def test_the_inventory_skips_a_shard_that_vanishes_after_its_header_was_read(
    tmp_path: Path, store: FeatureStore, vanish_after: Vanish
) -> None:
    vanish_after(inventory_module, "read_header", store.shards[1].path)
    (entry,) = inventory(tmp_path)
    assert (entry["shards"], entry["broken"], entry["utterances"]) == (2, 0, 2)


@pytest.mark.parametrize("function", ["list_folder", "_add_shard"])
def test_the_inventory_skips_a_spec_that_was_collected(
    tmp_path: Path, store: FeatureStore, vanish_after: Vanish, function: str
) -> None:
    vanish_after(inventory_module, function, store.folder)
    assert inventory(tmp_path) == []


def test_the_inventory_counts_a_link_without_a_target_as_broken(tmp_path: Path, store: FeatureStore) -> None:
    (store.folder / f"{'0' * 32}.safetensors").symlink_to(tmp_path / "missing")
    assert [entry["broken"] for entry in inventory(tmp_path)] == [1]


def test_verify_skips_a_shard_that_was_merged(tmp_path: Path, store: FeatureStore, vanish_after: Vanish) -> None:
    vanish_after(feature_maintenance, "list_folder", store.shards[1].path)
    result = verify(tmp_path)
    assert (result.checked, result.broken) == (2, {})


@pytest.mark.parametrize("act", [True, False])
@pytest.mark.parametrize("function", ["inventory", "time_at"])
def test_a_collection_skips_a_spec_that_another_one_has_removed(
    tmp_path: Path, store: FeatureStore, vanish_after: Vanish, function: str, act: bool
) -> None:
    other = filled(tmp_path, [[5]], replace(SPEC, version=2))
    vanish_after(feature_maintenance, function, store.folder)
    result = collect(tmp_path, used=set(), act=act)
    assert result.removed == [other.folder.name]
    assert result.bytes > 0
    assert other.folder.exists() is not act


def test_a_collection_skips_a_spec_that_vanishes_after_it_was_found_unused(
    tmp_path: Path, store: FeatureStore, vanish_after: Vanish
) -> None:
    vanish_after(feature_maintenance, "_is_used", store.folder)
    result = collect(tmp_path, used=set(), act=True)
    assert (result.removed, result.in_use, result.bytes) == ([], [], 0)


def test_a_collection_removes_no_leftovers_of_a_spec_that_vanishes(
    tmp_path: Path, store: FeatureStore, vanish_before: Vanish
) -> None:
    vanish_before(feature_maintenance, "remove_orphans", store.folder)
    assert collect(tmp_path, act=True).removed == []


def test_the_spec_of_a_folder_is_read_from_a_shard_that_is_left(store: FeatureStore, vanish_after: Vanish) -> None:
    vanish_after(feature_maintenance, "list_folder", sorted(shard.path for shard in store.shards)[0])
    assert spec_of(store.folder) == SPEC
    vanish_after(feature_maintenance, "list_folder", store.folder)
    assert spec_of(store.folder) is None


def test_a_compaction_skips_a_shard_that_vanishes_when_its_size_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, [[number] for number in range(MANY_SHARDS + 1)])
    exists = Path.exists

    def exists_for_the_last_time(path: Path) -> bool:
        result = exists(path)
        if path.suffix == ".safetensors":
            path.unlink(missing_ok=True)
        return result

    monkeypatch.setattr(Path, "exists", exists_for_the_last_time)
    compact_if_many(store)
    for shard in store.shards:
        shard.path.unlink(missing_ok=True)
    compact_if_many(store)
    assert compact(store) == 0


def test_the_compaction_of_a_cache_skips_a_spec_that_was_collected(
    tmp_path: Path, store: FeatureStore, vanish_after: Vanish
) -> None:
    other = filled(tmp_path, [[5], [6]], replace(SPEC, version=2))
    vanish_after(compaction, "spec_of", store.folder)
    assert compact_all(tmp_path) == {other.folder.name: 1}
    assert not store.folder.exists()
    assert other.folder.exists()


def test_a_store_opens_the_shards_that_are_left(tmp_path: Path, store: FeatureStore, vanish_after: Vanish) -> None:
    vanish_after(store_module, "list_folder", store.shards[1].path)
    assert len(FeatureStore(tmp_path, SPEC, FileDigests())) == 2
    vanish_after(store_module, "list_folder", store.folder)
    assert len(FeatureStore(tmp_path, SPEC, FileDigests())) == 0


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_reader_is_opened_although_shards_are_merged_several_times_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    store = filled(tmp_path, [[number] for number in range(4)])
    concatenate, merged = store_module._concatenate, []

    def merge_first(*args: Any) -> Any:
        if len(merged) < times:
            merged.append(True)
            other = FeatureStore(tmp_path, SPEC, FileDigests())
            other.add([key(10 + len(merged))], [torch.ones(1, 5).numpy()], {})
            other.refresh()
            assert compact(other) > 0
        return concatenate(*args)

    monkeypatch.setattr(store_module, "_concatenate", merge_first)
    reader = store.reader([key(number) for number in range(4)], FeaturesConfig(preload="none", mmap=False))
    assert len(merged) == times
    assert reader.present.all()


# ------------------------------------------------------------------------------------------------ runs


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointStore:
    """Two finished runs with different weights."""
    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    for number, run_id in enumerate((FIRST, SECOND)):
        weights = {name: {"weight": torch.full((2,), float(number))} for name in WEIGHTS}
        checkpoints.write(record(run_id, weights=checkpoints.publish(run_id, weights)))
        (checkpoints.folder(run_id) / "metrics.json").write_text("{}")
        (checkpoints.folder(run_id) / "config.yaml").write_text("seed: 1\n")
    return checkpoints


def test_verify_skips_weights_that_were_collected(checkpoints: CheckpointStore, vanish_after: Vanish) -> None:
    shutil.rmtree(checkpoints.folder(FIRST))
    unlinked = [
        path
        for path in (checkpoints.root / "weights").iterdir()
        if path.name not in run_maintenance.linked_weights(checkpoints)
    ]
    assert unlinked
    vanish_after(run_maintenance, "list_folder", unlinked[0])
    assert run_maintenance.verify(checkpoints) == {}


def test_verify_skips_a_run_that_was_removed(checkpoints: CheckpointStore, vanish_before: Vanish) -> None:
    vanish_before(run_maintenance, "_link_problem", checkpoints.folder(FIRST))
    assert run_maintenance.verify(checkpoints) == {}


def test_verify_skips_a_run_whose_copied_weights_vanish_while_they_are_hashed(
    checkpoints: CheckpointStore, monkeypatch: pytest.MonkeyPatch, vanish_before: Vanish
) -> None:
    monkeypatch.setattr(os, "symlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(1, "refused")))
    checkpoints.publish(FIRST, {name: {"weight": torch.zeros(2)} for name in WEIGHTS})
    shutil.rmtree(checkpoints.root / "weights")
    assert not any(path.is_symlink() for path in (checkpoints.folder(FIRST) / "model").iterdir())
    shutil.rmtree(checkpoints.folder(SECOND))
    vanish_before(run_maintenance, "hash_file", checkpoints.folder(FIRST))
    assert run_maintenance.verify(checkpoints) == {}


def test_a_link_without_a_target_of_a_present_run_is_still_reported(checkpoints: CheckpointStore) -> None:
    shutil.rmtree(checkpoints.root / "weights")
    assert set(run_maintenance.verify(checkpoints).values()) == {"the link leads nowhere"}


def test_a_collection_of_weights_skips_a_file_that_another_one_has_removed(
    checkpoints: CheckpointStore, vanish_after: Vanish
) -> None:
    shutil.rmtree(checkpoints.folder(FIRST))
    unlinked = {path.name for path in (checkpoints.root / "weights").iterdir()}
    unlinked -= run_maintenance.linked_weights(checkpoints)
    gone = sorted(unlinked)[0]
    vanish_after(run_maintenance, "list_folder", checkpoints.root / "weights" / gone)
    result = run_maintenance.collect_weights(checkpoints, grace=-1.0, act=True)
    assert set(result.removed) == unlinked - {gone}


@pytest.mark.parametrize("function", ["time_at", "list_tree"])
@pytest.mark.parametrize("act", [True, False])
def test_a_run_that_another_process_removes_can_be_removed(
    checkpoints: CheckpointStore, vanish_before: Vanish, function: str, act: bool
) -> None:
    claim = checkpoints.folder(FIRST) / CLAIM
    plant_claim(claim, replace(this_process(), started="1"))  # of a process that has ended
    vanish_before(run_maintenance, function, checkpoints.folder(FIRST))
    assert run_maintenance.remove_run(checkpoints, record(FIRST), act=act) == []
    assert not checkpoints.folder(FIRST).exists()


def test_a_run_that_vanishes_after_its_files_were_listed_can_be_removed(
    checkpoints: CheckpointStore, vanish_after: Vanish
) -> None:
    vanish_after(run_maintenance, "list_tree", checkpoints.folder(FIRST))
    assert "run.json" in run_maintenance.remove_run(checkpoints, record(FIRST), act=True)
    assert {path.name for path in checkpoints.root.iterdir()} == {SECOND, "weights"}


def test_a_report_skips_a_run_that_was_removed(checkpoints: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    records = list(checkpoints.records())
    monkeypatch.setattr(checkpoints, "records", lambda: iter(records))
    shutil.rmtree(checkpoints.folder(FIRST))
    assert [run.record.run_id for run in finished_runs(checkpoints)] == [SECOND]


@pytest.mark.parametrize("module", [run_maintenance, states_module])
def test_each_module_hashes_files_with_the_same_function(module: ModuleType) -> None:
    from emorec.storage.digests import hash_file

    assert module.hash_file is hash_file  # type: ignore[attr-defined]


def test_a_state_that_was_pruned_is_skipped(tmp_path: Path, vanish_before: Vanish) -> None:
    for step in (1, 2):
        AtomicCheckpointIO().save_checkpoint({"step": step}, tmp_path / f"{step:012d}.ckpt")
    newest, older = states(tmp_path)
    vanish_before(states_module, "hash_file", newest)
    assert newest_state(tmp_path) == older


# ---------------------------------------------------------------------------------------------- others


def test_files_that_vanish_are_not_shared(tmp_path: Path, vanish_after: Vanish) -> None:
    folder = tmp_path / "run" / "wandb"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).touch(mode=0o600)
    folder.parent.chmod(0o755)
    vanish_after(atomic, "list_tree", folder / "a")
    atomic.share(folder)
    assert (folder / "b").stat().st_mode & 0o777 == 0o644


def test_links_that_vanish_are_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / wandb.FOLDER
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).symlink_to(tmp_path)
    is_symlink = Path.is_symlink

    def is_symlink_for_the_last_time(path: Path) -> bool:
        result = is_symlink(path)
        if path == folder / "a":
            path.unlink(missing_ok=True)
        return result

    monkeypatch.setattr(Path, "is_symlink", is_symlink_for_the_last_time)
    wandb.tidy(tmp_path)
    assert list(folder.iterdir()) == []


def test_a_run_that_was_removed_has_no_uploads(checkpoints: CheckpointStore, vanish_before: Vanish) -> None:
    claim = try_claim(checkpoints.folder(FIRST) / CLAIM)
    assert claim is not None
    vanish_before(run_maintenance, "time_at", checkpoints.folder(FIRST))
    with claim:
        assert list(sync.uploads(checkpoints, [FIRST], act=False, timeout=1.0)) == []


def test_a_folder_of_uploads_that_vanishes_is_skipped(tmp_path: Path, vanish_after: Vanish) -> None:
    folder = tmp_path / wandb.FOLDER / "run-1"
    folder.mkdir(parents=True)
    vanish_after(sync, "list_folder", folder)
    assert sync.waiting(tmp_path) == []


def test_a_missing_journal_is_not_an_error(tmp_path: Path) -> None:
    drop_broken_lines(tmp_path / "journal.log")
    assert list(tmp_path.iterdir()) == []


def test_a_lease_or_claim_that_vanishes_is_not_in_use(tmp_path: Path, vanish_after: Vanish) -> None:
    (tmp_path / "a.lease").write_text(json.dumps({}))
    vanish_after(leases, "list_folder", tmp_path / "a.lease")
    assert not leases.in_use(tmp_path)
