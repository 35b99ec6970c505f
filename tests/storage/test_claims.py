"""One process at a time holds a claim, and a dead process does not block others."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emorec.storage import claims
from emorec.storage.claims import (
    Claim,
    Holder,
    Watch,
    acquire,
    claimed,
    is_alive,
    is_dead,
    read_holder,
    this_process,
    try_claim,
)
from emorec.storage.leases import is_live

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS = 40
RACERS = 8


def write_claim(path: Path, holder: Holder) -> Path:
    path.write_text(json.dumps(asdict(holder)))
    return path


def of_another_host() -> Holder:
    return replace(this_process(), host="elsewhere", boot="another", pid=1, started="1")


def of_a_dead_process() -> Holder:
    return replace(this_process(), started="1")  # the pid now belongs to another process


class Clock:
    """A replacement of the module `time` that advances only in `sleep`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(claims, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    return clock


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Claim]:
    claim = try_claim(tmp_path / "held")
    assert claim is not None
    yield claim
    claim.release()


def test_a_claim_is_exclusive_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "work"
    first = try_claim(path)
    assert first is not None
    assert try_claim(path) is None
    first.release()
    assert list(path.parent.iterdir()) == []
    with try_claim(path) or pytest.fail("expected the released claim to be free"):
        assert path.exists()
    assert not path.exists()


def test_claims_of_different_work_are_independent(held: Claim, tmp_path: Path) -> None:
    other = try_claim(tmp_path / "other")
    assert other is not None
    other.release()
    assert held.path.exists()


def test_a_claim_file_names_host_and_process(held: Claim) -> None:
    content = json.loads(held.path.read_text())
    assert content["host"] == socket.gethostname()
    assert content["pid"] == os.getpid()
    assert str(read_holder(held.path)) == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.parametrize("with_links", [True, False])
def test_the_mode_of_a_claim_file_follows_its_folder_and_not_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_links: bool
) -> None:
    if not with_links:
        monkeypatch.setattr(os, "link", refuse_links)
    tmp_path.chmod(0o2775)
    before = os.umask(0o077)
    try:
        claim = try_claim(tmp_path / "work")
    finally:
        os.umask(before)
    assert claim is not None
    with claim:
        assert oct(stat.S_IMODE(claim.path.stat().st_mode)) == oct(0o664)


def refuse_links(*_: object, **__: object) -> None:
    raise OSError(1, "Operation not permitted")


def test_a_claim_is_exclusive_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse_links)
    first = try_claim(tmp_path / "work")
    assert first is not None
    assert read_holder(tmp_path / "work") == first.holder
    assert try_claim(tmp_path / "work") is None
    first.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [28, 30])
def test_a_full_or_read_only_disk_is_an_os_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        try_claim(tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reaped", [True, False])
def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path: Path, reaped: bool) -> None:
    path = tmp_path / "work"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom emorec.storage.claims import try_claim\n"
        "claim = try_claim(Path(sys.argv[1]))\nprint(claim is not None, flush=True)\ntime.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        holder = read_holder(path)
        assert holder is not None
        assert holder.pid == process.pid
        assert try_claim(path) is None, "its holder is alive"
        process.send_signal(signal.SIGKILL)
        if reaped:
            process.wait()
        else:  # it is a zombie until its parent waits for it
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        claim = try_claim(path)
        assert claim is not None
        assert read_holder(path) == claim.holder
        claim.release()
    assert list(tmp_path.iterdir()) == []


def test_this_process_is_not_dead() -> None:
    assert not is_dead(this_process())


def test_a_process_whose_pid_has_another_start_time_is_dead(tmp_path: Path) -> None:
    holder = of_a_dead_process()
    assert holder.pid == os.getpid()
    assert is_dead(holder)
    claim = try_claim(write_claim(tmp_path / "work", holder))
    assert claim is not None
    claim.release()


UNSEEN: dict[str, dict[str, Any]] = {
    "another boot, or another host of the same name": {"boot": "another"},
    "another container of the same name": {"namespace": "pid:[1]"},
    "a claim of an earlier version of emorec": {"namespace": ""},
    "no boot": {"boot": ""},
    "no start time": {"started": ""},
}


@pytest.mark.parametrize("change", UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize("dead", [True, False])
def test_of_a_process_that_cannot_be_seen_only_the_heartbeat_counts(
    tmp_path: Path, clock: Clock, change: dict[str, Any], dead: bool
) -> None:
    holder = replace(of_a_dead_process() if dead else this_process(), **change)
    assert is_alive(holder) is None
    path = write_claim(tmp_path / "work", holder)
    assert try_claim(path) is None
    assert is_live(path, path.stat().st_mtime + 60)
    watch = Watch(path, 60.0)
    assert not watch.stale()
    clock.sleep(60.5)
    assert watch.stale()


def test_a_process_is_seen_under_any_name_of_its_host() -> None:
    assert is_alive(replace(this_process(), host="renamed")) is True


@pytest.mark.parametrize("error", [None, PermissionError(1, "another user's")])
def test_a_process_that_proc_hides_is_not_known_to_be_dead(
    monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    def kill(*_: object) -> None:
        if error is not None:
            raise error

    holder = this_process()
    monkeypatch.setattr(claims, "_process_state", lambda _: ("", ""))  # mounted with hidepid
    monkeypatch.setattr(os, "kill", kill)
    assert is_alive(holder) is None
    monkeypatch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(ProcessLookupError(3, "no such process")))
    assert is_alive(holder) is False, "the kernel says so, whatever /proc shows"


def test_nothing_is_known_where_proc_shows_another_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = this_process()
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in `unshare --pid --fork` without a mount
    assert is_alive(holder) is None
    assert this_process().namespace == ""


def test_a_claim_of_an_earlier_version_of_emorec_is_read(tmp_path: Path) -> None:
    content = asdict(this_process())
    del content["namespace"]
    (tmp_path / "work").write_text(json.dumps(content))
    holder = read_holder(tmp_path / "work")
    assert holder is not None
    assert holder.pid == os.getpid()


def test_a_live_process_is_not_taken_over_from_another_container(tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("no namespaces can be made here")
    code = (
        "import sys\nfrom pathlib import Path\nfrom emorec.storage.claims import is_alive, read_holder, try_claim\n"
        "path = Path(sys.argv[1])\nprint(try_claim(path), is_alive(read_holder(path)))\n"
    )
    command = [*unshare, sys.executable, "-c", code, str(tmp_path / "work")]
    with claimed(tmp_path / "work") as claim:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        output = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
        assert output.split() == ["None", "None"]
        assert read_holder(claim.path) == claim.holder


def test_a_process_of_another_host_is_never_known_to_be_dead(tmp_path: Path) -> None:
    assert not is_dead(of_another_host())
    path = write_claim(tmp_path / "work", of_another_host())
    assert try_claim(path) is None
    assert read_holder(path) is not None


def test_a_claim_of_another_host_is_stale_only_after_a_time_without_a_heartbeat(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(write_claim(tmp_path / "work", of_another_host()), 60.0)
    assert not watch.stale()
    clock.sleep(60.0)
    assert not watch.stale()
    clock.sleep(0.5)
    assert watch.stale()


def test_a_claim_with_a_heartbeat_is_never_stale(tmp_path: Path, clock: Clock) -> None:
    path = write_claim(tmp_path / "work", of_another_host())
    watch = Watch(path, 60.0)
    for beat in range(10):
        os.utime(path, (beat, beat))  # the clock of the other host may differ
        assert not watch.stale()
        clock.sleep(50.0)
        assert not watch.stale()


def test_a_new_holder_restarts_the_timeout(tmp_path: Path, clock: Clock) -> None:
    path = write_claim(tmp_path / "work", of_another_host())
    watch = Watch(path, 60.0)
    assert not watch.stale()
    clock.sleep(50.0)
    write_claim(path, replace(of_another_host(), token="another"))
    os.utime(path, (0, 0))
    assert not watch.stale()
    clock.sleep(50.0)
    assert not watch.stale()


def test_the_claim_of_a_dead_process_is_stale_at_once_and_a_missing_one_is_not(tmp_path: Path) -> None:
    assert Watch(write_claim(tmp_path / "work", of_a_dead_process()), 60.0).stale()
    assert not Watch(tmp_path / "nothing", 60.0).stale()


def test_claimed_waits_for_the_release_and_reports_the_holder(tmp_path: Path) -> None:
    first = try_claim(tmp_path / "work")
    assert first is not None
    seen: list[Holder | None] = []

    def waiting(holder: Holder | None) -> None:
        seen.append(holder)
        if len(seen) == 3:
            first.release()

    with claimed(tmp_path / "work", poll=0.001, waiting=waiting) as claim:
        assert claim.holder != first.holder
        assert read_holder(tmp_path / "work") == claim.holder
    assert seen == [first.holder] * 3
    assert list(tmp_path.iterdir()) == []


def test_acquire_gives_up_when_waiting_returns_false_and_keeps_the_claim_of_the_holder(held: Claim) -> None:
    seen: list[Holder | None] = []

    def waiting(holder: Holder | None) -> bool:
        seen.append(holder)
        return len(seen) < 3

    assert acquire(held.path, poll=0.001, waiting=waiting) is None
    assert seen == [held.holder] * 3
    assert read_holder(held.path) == held.holder


def test_acquire_returns_a_claim_that_is_held_until_its_release(tmp_path: Path) -> None:
    claim = acquire(tmp_path / "work")
    assert claim is not None
    assert try_claim(tmp_path / "work") is None
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_claimed_releases_the_claim_when_the_work_fails(tmp_path: Path) -> None:
    def work() -> None:
        with claimed(tmp_path / "work"):
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        work()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "{torn"])
def test_claimed_takes_over_from_a_host_without_a_heartbeat_only_after_the_timeout(
    tmp_path: Path, clock: Clock, content: str | None
) -> None:
    path = write_claim(tmp_path / "work", of_another_host())
    if content is not None:
        path.write_text(content)  # the holder was killed while it wrote, on a disk without hard links
    looks: list[Holder | None] = []
    with claimed(path, stale_after=60.0, poll=1.0, waiting=looks.append) as claim:
        assert clock.now > 1060.0
        assert len(looks) >= 60
        assert read_holder(path) == claim.holder


def test_claimed_does_not_take_over_from_another_host_with_a_heartbeat(tmp_path: Path, clock: Clock) -> None:
    path = write_claim(tmp_path / "work", of_another_host())

    def waiting(holder: Holder | None) -> None:
        assert holder is not None
        assert holder.host == "elsewhere"
        if clock.now > 1300.0:
            path.unlink()  # it has finished
        else:
            os.utime(path, (clock.now, clock.now))

    with claimed(path, stale_after=60.0, poll=10.0, waiting=waiting):
        assert clock.now > 1300.0


def test_claimed_does_not_replace_a_waiting_process_that_took_the_stale_claim_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    path = write_claim(tmp_path / "work", of_another_host())
    others: list[Claim] = []
    is_stale = Watch.stale

    def another_is_faster(self: Watch) -> bool:
        stale = is_stale(self)
        if stale and not others:
            path.unlink()
            other = try_claim(path)
            assert other is not None
            others.append(other)
        return stale

    still_held: list[bool] = []

    def waiting(holder: Holder | None) -> None:
        if others and holder == others[0].holder:
            still_held.append(True)
            others[0].release()

    monkeypatch.setattr(Watch, "stale", another_is_faster)
    with claimed(path, stale_after=60.0, poll=10.0, waiting=waiting):
        pass
    others[0].release()
    assert still_held == [True], "it waited for the release of the faster process"


def test_a_slow_takeover_does_not_replace_a_claim_made_in_the_meantime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = of_a_dead_process()
    path = write_claim(tmp_path / "work", dead)
    first = try_claim(path)
    assert first is not None
    third: list[Claim | None] = []

    def read_slowly(read: Path) -> Holder | None:
        if read != path and not third:
            third.append(None)
            third[0] = try_claim(path)  # another process, while the first claim is moved
        return read_holder(read)

    monkeypatch.setattr(claims, "read_holder", read_slowly)
    claims.remove_stale(path, dead)  # a process that saw the dead holder before the first took over
    monkeypatch.undo()
    holding = [claim for claim in (first, *third) if claim is not None]
    for claim in holding[1:]:
        claim.release()
    holder = read_holder(path)
    first.release()
    assert len(holding) == 1
    assert holder == first.holder


def until(condition: Callable[[], bool]) -> bool:
    """Waits for a condition and returns whether it became true."""
    for _ in range(6000):
        if condition():
            return True
        time.sleep(0.005)
    return False


def test_a_held_claim_is_touched_while_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.005)
    with claimed(tmp_path / "work") as claim:
        os.utime(claim.path, (0, 0))
        assert until(lambda: claim.path.stat().st_mtime > 0)
        assert not claim.lost


def test_a_holder_detects_that_its_claim_was_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.005)
    with claimed(tmp_path / "work") as claim:
        assert not claim.lost
        write_claim(claim.path, of_another_host())
        assert until(lambda: claim.lost)


def test_a_holder_can_look_whether_its_claim_was_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(tmp_path / "work") as claim:
        assert claim.is_held()
        with monkeypatch.context() as patched:
            patched.setattr(claims, "read_regular", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "I/O error")))
            assert claim.is_held(), "a disk that fails for a moment is no loss"
        write_claim(claim.path, of_another_host())
        assert not claim.is_held()
        assert claim.lost


def test_a_claim_whose_file_was_removed_is_lost(tmp_path: Path) -> None:
    with claimed(tmp_path / "work") as claim:
        claim.path.unlink()
        assert not claim.is_held()


def test_release_does_not_remove_a_claim_that_was_taken_over(tmp_path: Path) -> None:
    claim = try_claim(tmp_path / "work")
    assert claim is not None
    other = of_another_host()
    write_claim(claim.path, other)
    claim.release()
    assert read_holder(claim.path) == other


def race(folder: Path, barrier: Any) -> None:
    """Takes part in each round and leaves a file where two processes hold the claim at once."""
    for number in range(ROUNDS):
        path = folder / f"work_{number}"
        inside = folder / f"inside_{number}"
        barrier.wait(60)
        claim = try_claim(path)
        if claim is None:
            continue
        (folder / f"held_{number}").touch()
        try:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            (folder / f"both_{number}").touch()
        time.sleep(0.002)
        with suppress(FileNotFoundError):
            inside.unlink()
        claim.release()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_in_a_race_for_the_claim_of_a_dead_process_exactly_one_holds_it_at_a_time(tmp_path: Path, kind: str) -> None:
    for number in range(ROUNDS):
        write_claim(tmp_path / f"work_{number}", of_a_dead_process())
    racers: list[Any]
    if kind == "threads":
        barrier: Any = threading.Barrier(RACERS)
        racers = [threading.Thread(target=race, args=(tmp_path, barrier)) for _ in range(RACERS)]
    else:
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(RACERS)
        racers = [context.Process(target=race, args=(tmp_path, barrier)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    if kind == "processes":
        assert [racer.exitcode for racer in racers] == [0] * RACERS
    assert sorted(path.name for path in tmp_path.glob("both_*")) == []
    assert len(list(tmp_path.glob("held_*"))) == ROUNDS, "every round has a holder"
    assert [*tmp_path.glob("work_*"), *tmp_path.glob(".*.tmp")] == []
