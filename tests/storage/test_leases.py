"""A lease is live while its process holds it; the leases of dead processes are removed."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from emorec.storage.claims import Holder, this_process, try_claim
from emorec.storage.leases import STALE_SECONDS, SUFFIX, in_use, is_live, take_lease, time_at


def plant(path: Path, holder: Holder, *, age: float = 0.0) -> Path:
    """Writes the file of a claim or lease with its last heartbeat `age` seconds ago."""
    path.write_text(json.dumps(asdict(holder)))
    then = time_at(path.parent) - age
    os.utime(path, (then, then))
    return path


def dead() -> Holder:
    return replace(this_process(), started="1")  # the pid now belongs to another process


def elsewhere() -> Holder:
    return replace(this_process(), host="elsewhere", boot="another", pid=1, started="1")


def test_a_lease_is_live_until_its_release(tmp_path: Path) -> None:
    lease = take_lease(tmp_path)
    assert lease is not None
    assert is_live(lease.path, time_at(tmp_path))
    assert in_use(tmp_path)
    lease.release()
    assert not is_live(lease.path, time_at(tmp_path))
    assert not in_use(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_in_use_until_the_last_of_several_leases_is_released(tmp_path: Path) -> None:
    leases = [take_lease(tmp_path) for _ in range(3)]
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 3
    for lease in leases:
        assert in_use(tmp_path)
        assert lease is not None
        lease.release()
    assert not in_use(tmp_path)


def test_the_lease_of_a_dead_process_is_not_live_and_is_removed(tmp_path: Path) -> None:
    left = plant(tmp_path / f"left{SUFFIX}", dead())
    assert not is_live(left, time_at(tmp_path))
    assert left.exists(), "is_live removes nothing"
    assert not in_use(tmp_path)
    assert not left.exists()


def test_the_lease_of_a_dead_process_does_not_hide_a_live_one(tmp_path: Path) -> None:
    left = plant(tmp_path / f"left{SUFFIX}", dead())
    lease = take_lease(tmp_path)
    assert lease is not None
    with lease:
        assert in_use(tmp_path)
        assert not left.exists()
        assert lease.path.exists()


def test_a_claim_counts_as_use_and_a_stale_one_is_not_removed(tmp_path: Path) -> None:
    left = plant(tmp_path / "work.claim", dead())
    assert not in_use(tmp_path)
    assert left.exists()
    claim = try_claim(left)
    assert claim is not None
    with claim:
        assert in_use(tmp_path)


def test_there_is_no_lease_on_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert take_lease(tmp_path / "file" / "features") is None


@pytest.mark.parametrize(("age", "live"), [(0.0, True), (STALE_SECONDS - 60, True), (STALE_SECONDS + 60, False)])
def test_a_lease_of_another_host_is_stale_after_a_time_without_a_heartbeat(
    tmp_path: Path, age: float, live: bool
) -> None:
    lease = plant(tmp_path / f"theirs{SUFFIX}", elsewhere(), age=age)
    assert is_live(lease, time_at(tmp_path)) is live
    assert in_use(tmp_path) is live
    assert lease.exists() is live


@pytest.mark.parametrize(("age", "live"), [(0.0, True), (STALE_SECONDS + 60, False)])
def test_of_a_claim_that_cannot_be_read_the_heartbeat_counts(tmp_path: Path, age: float, live: bool) -> None:
    claim = plant(tmp_path / "work.claim", elsewhere(), age=age)
    beat = claim.stat().st_mtime
    claim.write_text("torn")
    os.utime(claim, (beat, beat))
    assert is_live(claim, time_at(tmp_path)) is live


def test_the_time_of_a_folder_is_that_of_its_files_and_leaves_no_file(tmp_path: Path) -> None:
    before = time_at(tmp_path)
    (tmp_path / "file").touch()
    assert before <= (tmp_path / "file").stat().st_mtime <= time_at(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
