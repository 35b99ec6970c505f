"""The checkpoint store with killed writers, concurrent collections and a filesystem without links."""

import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning.pytorch as lightning
import pytest
import torch
from safetensors.torch import load

from emorec.cli import main
from emorec.errors import RunTakenOverError, UserError
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from emorec.runs.maintenance import collect_weights
from emorec.storage.claims import read_holder
from emorec.storage.links import link_relative
from emorec.training import attempt, distributed
from emorec.training.callbacks.save_states import SaveStates
from emorec.training.lifecycle import CLAIM
from emorec.training.preemption import Preemption
from emorec.training.states import AtomicCheckpointIO, newest_state, states
from tests.faults.conftest import (
    FORK,
    Crew,
    append_line,
    dead_holder,
    elsewhere,
    leftovers,
    lines,
    plant_claim,
)
from tests.runs.test_checkpoint_store import WEIGHTS, record

pytestmark = pytest.mark.faults

Weights = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_demo: Path) -> tuple[Path, list[str]]:
    """An EMOREC_ROOT with one finished run, and the arguments of its command."""
    root = tmp_path_factory.mktemp("trained") / "root"
    root.mkdir()
    words = ["train", f"dataset.root={small_demo}", "trainer.max_epochs=3", "model.hidden=16", "batch_size=8"]
    words += ["encoder/video=none"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOREC_ROOT", str(root))
        assert main(words) == 0
    return root, words


@pytest.fixture
def copied(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path, list[str]]:
    """A copy of that root in another folder, the directory of its run, and the command."""
    shutil.copytree(trained[0], tmp_path / "moved" / "root", symlinks=True)
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path / "moved" / "root"))
    (path,) = (tmp_path / "moved" / "root" / "checkpoints").glob("*/run.json")
    return tmp_path / "moved" / "root", path.parent, trained[1]


def test_the_features_and_the_run_of_a_moved_tree_are_found_and_its_links_work(
    copied: tuple[Path, Path, list[str]], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root, run, words = copied
    caplog.set_level("INFO")
    assert main(words) == 0
    output = capsys.readouterr().out
    store = CheckpointStore(root / "checkpoints")
    kept = store.find(run.name)
    links = list((run / "model").iterdir())
    hits = sum("32 found, 0 computed" in line for line in caplog.messages)
    print(f"features_found={hits}/2 links={len(links)} resolved={sum(link.exists() for link in links)}")
    assert hits == 2
    assert f"run {run.name} is finished" in caplog.text
    assert output.strip().endswith(str(run))
    assert store.load(kept).keys() == kept.weights.keys() == {link.stem for link in links}
    assert all(link.is_symlink() and link.resolve().is_relative_to(root) for link in links)


@pytest.mark.parametrize("holder", ["a dead process", "another host"])
def test_the_stale_claim_of_a_run_is_taken_over_and_the_run_finished(
    copied: tuple[Path, Path, list[str]], crew: Crew, caplog: pytest.LogCaptureFixture, holder: str
) -> None:
    _, run, words = copied
    finished = json.loads((run / "run.json").read_text())
    metrics = (run / "metrics.json").read_text()
    (run / "run.json").write_text(json.dumps({**finished, "status": "running", "weights": {}, "ended": None}))
    (run / "metrics.json").unlink()
    shutil.rmtree(run / "model")
    here = holder == "a dead process"
    plant_claim(run / CLAIM, dead_holder(crew) if here else elsewhere())
    started = time.monotonic()
    code = main(words if here else [*words, "extraction.stale_after=1"])
    again = json.loads((run / "run.json").read_text())
    print(
        f"holder={holder!r} code={code} status={again['status']} attempts={again['attempts']} "
        f"seconds={time.monotonic() - started:.1f}"
    )
    assert code == 0
    assert "taking over from" in caplog.text
    assert (again["status"], again["attempts"]) == ("finished", 2)
    assert again["weights"] == finished["weights"]
    assert (run / "metrics.json").read_text() == metrics
    assert not (run / CLAIM).exists()
    assert leftovers(run) == []


@pytest.mark.parametrize("error", [None, FileNotFoundError(2, "which the other process has removed")])
def test_a_run_that_was_taken_over_ends_in_words_and_leaves_the_record_alone(
    copied: tuple[Path, Path, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError | None,
) -> None:
    _, run, words = copied
    finished = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**finished, "status": "running", "ended": None}))

    def lose_the_claim(*_: object, **__: object) -> dict[str, Any]:
        plant_claim(run / CLAIM, elsewhere())
        (run / "run.json").write_text("the other's")
        if error is not None:
            raise error
        return {}

    monkeypatch.setattr(attempt, "fit", lose_the_claim)
    assert main(words) == 2
    lines_of_error = capsys.readouterr().err.splitlines()
    assert "has taken it over" in lines_of_error[-1]
    assert "Traceback" not in "".join(lines_of_error)
    assert (run / "run.json").read_text() == "the other's"
    assert read_holder(run / CLAIM) is not None


def test_the_ranks_of_a_run_that_was_taken_over_are_waited_for_no_longer() -> None:
    with pytest.raises(RunTakenOverError):
        distributed._wait([], lambda: False)


def weights_of(number: int, size: int = 256) -> Weights:
    """Weights that depend on a number only."""
    generator = torch.Generator().manual_seed(number)
    return {name: {"weight": torch.randn(size, generator=generator)} for name in ("fusion", "head", "projections")}


VARIANTS = 6  # few, so that unlinked weights are soon published again
READERS = 4
COLLECTING_SECONDS = 3.0


def missing_links(store: CheckpointStore, run_id: str) -> int:
    return sum(not path.exists() for path in (store.folder(run_id) / "model").iterdir())


def publish_on(store: CheckpointStore, journal: Path, counts: Path) -> None:
    """Publishes runs, rewrites their records and removes old ones; the journal records the present runs."""
    rng, end = random.Random(3), time.monotonic() + COLLECTING_SECONDS
    live: list[RunRecord] = []
    published = missing = 0
    while time.monotonic() < end:
        run_id = f"{published:012x}"
        kept = record(run_id, weights=store.publish(run_id, weights_of(rng.randrange(VARIANTS))))
        store.write(kept)
        missing += missing_links(store, run_id)
        append_line(journal, f"+{run_id}")
        live.append(kept)
        published += 1
        store.write(replace(rng.choice(live), notes=f"after {published}"))
        if len(live) > 5:
            old = live.pop(rng.randrange(len(live)))
            append_line(journal, f"-{old.run_id}")
            shutil.rmtree(store.folder(old.run_id))
    append_line(counts, f"publisher {published} {missing}")


def live_runs(journal: Path) -> list[str]:
    """The runs that are published and not removed according to the journal."""
    words = lines(journal)
    gone = {word[1:] for word in words if word.startswith("-")}
    return [word[1:] for word in words[-40:] if word.startswith("+") and word[1:] not in gone]


def read_on(store: CheckpointStore, journal: Path, counts: Path, seed: int, stop: Any) -> None:
    """Loads published runs and counts as missing those that cannot be loaded and were not removed."""
    rng, loads, missing = random.Random(seed), 0, 0
    while not stop.is_set():
        for run_id in rng.sample(live := live_runs(journal), len(live)):
            try:
                kept = store.read(run_id)
                complete = kept is not None and store.load(kept).keys() == kept.weights.keys()
            except UserError as error:
                complete = False
                message = str(error)
            if complete:
                loads += 1
            elif run_id in live_runs(journal):
                missing += 1
                append_line(counts.with_name("complaints"), message)
    append_line(counts, f"reader {loads} {missing}")


def collect_on(store: CheckpointStore, counts: Path, stop: Any) -> None:
    """Collects weights without a grace period."""
    rounds = removed = 0
    while not stop.is_set():
        removed += len(collect_weights(store, grace=0.0, act=True).removed)
        rounds += 1
    append_line(counts, f"collector {rounds} {removed}")


def test_a_collection_during_publishing_and_reading_removes_no_linked_weights(tmp_path: Path, crew: Crew) -> None:
    store, journal, counts = CheckpointStore(tmp_path / "checkpoints"), tmp_path / "journal", tmp_path / "counts"
    stop = FORK.Event()
    publisher = crew.start(publish_on, store, journal, counts)
    for seed in range(READERS):
        crew.start(read_on, store, journal, counts, seed, stop)
    crew.start(collect_on, store, counts, stop)
    publisher.join()
    stop.set()
    crew.finish()
    rows = [(line.split()[0], *map(int, line.split()[1:])) for line in lines(counts)]
    (published, unlinked), (rounds, removed) = (
        next((first, second) for name, first, second in rows if name == kind) for kind in ("publisher", "collector")
    )
    loads, missing = (sum(row[column] for row in rows if row[0] == "reader") for column in (1, 2))
    final = sum(missing_links(store, run_id) for run_id in live_runs(journal))
    print(
        f"published={published} collections={rounds} removed={removed} loads={loads} missing_after_publish={unlinked} "
        f"missing_at_load={missing} missing_at_the_end={final}"
    )
    assert min(published, rounds, removed, loads) > 0
    assert (unlinked, missing, final) == (0, 0, 0), lines(tmp_path / "complaints")[:5]
    for run_id in live_runs(journal):
        store.load(store.find(run_id))


def test_a_collection_follows_no_link_out_of_the_store(tmp_path: Path) -> None:
    store, outside = CheckpointStore(tmp_path / "checkpoints"), tmp_path / "outside"
    outside.mkdir()
    kept = record("aaaaaaaaaaaa", weights=store.publish("aaaaaaaaaaaa", WEIGHTS))
    store.write(kept)
    (outside / f"{'1' * 64}.safetensors").write_bytes(b"somebody's")
    weights = store.root / "weights"
    (weights / f"{'0' * 64}.safetensors").symlink_to(outside / f"{'1' * 64}.safetensors")
    (weights / ".old.tmp").symlink_to(outside)
    (weights / f"{'2' * 64}.safetensors").write_bytes(b"nobody's")
    long_ago = time.time() - 10 * 24 * 3600
    for path in weights.iterdir():
        os.utime(path, (long_ago, long_ago), follow_symlinks=False)
    dry = collect_weights(store, grace=0.0, act=False)
    assert (weights / f"{'2' * 64}.safetensors").exists()
    found = collect_weights(store, grace=0.0, act=True)
    print(f"removed={len(found.removed)} kept={found.kept} files_outside={len(list(outside.iterdir()))}")
    assert dry.removed == found.removed
    assert not (weights / f"{'2' * 64}.safetensors").exists()
    assert [path.read_bytes() for path in outside.iterdir()] == [b"somebody's"]
    assert store.load(kept).keys() == WEIGHTS.keys()


KILLS = 30
STATE_SIZE = 300_000  # numbers; large, so that kills interrupt writes


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files on another filesystem."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev or not os.access(memory, os.W_OK):
        pytest.skip("there is no second filesystem to write to")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


def save_on(root: Path, journal: Path, temporary: Path, first: int) -> None:
    """Saves states, publishes weights and records each in the journal."""
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    assert Path(tempfile.gettempdir()) == temporary
    store, calm = CheckpointStore(root), Preemption()
    saver = SaveStates(folder=root / "resume", every_seconds=0, owned=lambda: True, preemption=calm, seed=0)
    for number in range(first, first + 10_000):
        numbers = torch.full((STATE_SIZE,), float(number))
        state = {"number": number, "numbers": numbers}
        trainer = SimpleNamespace(
            global_step=number,
            is_global_zero=True,
            save_checkpoint=lambda path, state=state: AtomicCheckpointIO().save_checkpoint(state, path),
        )
        saver.save(cast("lightning.Trainer", trainer))
        append_line(journal, f"state {number}")
        store.publish("aaaaaaaaaaaa", {"head": {"numbers": numbers}})
        append_line(journal, f"weights {number}")


def last_recorded(journal: Path, what: str) -> int:
    return max((int(line.split()[1]) for line in lines(journal) if line.startswith(what)), default=-1)


def test_kills_during_saves_with_temporary_files_on_another_disk_leave_no_truncated_file(
    tmp_path: Path, other_disk: Path, crew: Crew
) -> None:
    rng, journal, root = random.Random(4), tmp_path / "journal", tmp_path / "checkpoints"
    blobs, verified, first = 0, 0, 0
    truncated = unfound = staged = 0
    for _ in range(KILLS):
        saver = crew.start(save_on, root, journal, other_disk, first)
        time.sleep(rng.uniform(0.02, 0.15))
        crew.kill(saver)
        staged += len(list(other_disk.iterdir()))
        for path in states(root / "resume"):
            with path.open("rb") as stream:
                whole = hashlib.file_digest(stream, "sha256").hexdigest().startswith(path.stem.rpartition("-")[2])
            state = AtomicCheckpointIO().load_checkpoint(path) if whole else {"number": -1, "numbers": torch.zeros(1)}
            right = state["numbers"].eq(state["number"]).all() and len(state["numbers"]) == STATE_SIZE
            truncated += not (whole and right and state["number"] == int(path.stem.partition("-")[0]))
            verified += 1
        newest, recorded = newest_state(root / "resume"), last_recorded(journal, "state")
        unfound += recorded >= 0 and (newest is None or int(newest.stem.partition("-")[0]) < recorded)
        for path in (root / "weights").glob("*.safetensors"):
            truncated += hashlib.sha256(path.read_bytes()).hexdigest() != path.stem
            blobs += 1
        if (recorded := last_recorded(journal, "weights")) >= 0:
            numbers = load((root / "aaaaaaaaaaaa" / "model" / "head.safetensors").read_bytes())["numbers"]
            unfound += int(numbers[0]) < recorded
        for path in sorted((root / "weights").glob("*.safetensors"), key=lambda item: item.stat().st_mtime)[:-3]:
            path.unlink()  # limits the size of the test
        first = 1 + max(last_recorded(journal, "state"), first)
    orphans = len(leftovers(root))
    print(
        f"kills={KILLS} saves={last_recorded(journal, 'state') + 1} states_checked={verified} weights_checked={blobs} "
        f"truncated={truncated} without_a_newest={unfound} staged_elsewhere={staged} orphans={orphans}"
    )
    assert min(verified, blobs, orphans) > 0
    assert (truncated, unfound, staged) == (0, 0, 0)
    shutil.rmtree(root)


RELINKS = 200


def poll(link: Path, started: Any, stop: Any, counts: Path) -> None:
    """Reads a link as fast as it can."""
    reads = missing = 0
    while not stop.is_set():
        try:
            missing += not link.read_bytes()
        except OSError:
            missing += 1
        reads += 1
        started.set()
    append_line(counts, f"{reads} {missing}")


@pytest.mark.parametrize("way", ["link", "publish"])
def test_a_link_has_a_target_during_every_replacement(tmp_path: Path, crew: Crew, way: str) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    link = store.folder("aaaaaaaaaaaa") / "model" / "head.safetensors"
    store.publish("aaaaaaaaaaaa", {"head": weights_of(0)["head"]})
    store.publish("bbbbbbbbbbbb", {"head": weights_of(1)["head"]})
    blobs = sorted((store.root / "weights").iterdir())
    assert len(blobs) == 2

    def relink(number: int) -> None:
        if way == "link":
            assert link_relative(blobs[number % 2], link)
        else:
            store.publish("aaaaaaaaaaaa", {"head": weights_of(number % 2)["head"]})

    started, stop, counts = FORK.Event(), FORK.Event(), tmp_path / "counts"
    crew.start(poll, link, started, stop, counts)
    assert started.wait(30)
    for number in range(RELINKS):
        relink(number)
    stop.set()
    crew.finish()
    reads, missing = map(int, lines(counts)[0].split())
    print(f"way={way} relinks={RELINKS} reads={reads} missing={missing}")
    assert reads > 0
    assert missing == 0
    assert leftovers(store.root) == []


@pytest.fixture
def refuse_links(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Refuses symbolic links in this process."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    return lambda: monkeypatch.setattr(os, "symlink", refuse)


def test_weights_are_copied_with_a_warning_on_a_filesystem_without_links(
    tmp_path: Path, refuse_links: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.publish("aaaaaaaaaaaa", weights_of(7))  # replaces these links
    refuse_links()
    kept = record(weights=store.publish("aaaaaaaaaaaa", WEIGHTS))
    store.write(kept)
    files = list((store.folder("aaaaaaaaaaaa") / "model").iterdir())
    warnings = [message for message in caplog.messages if "copied" in message]
    print(f"files={len(files)} links={sum(path.is_symlink() for path in files)} warnings={len(warnings)}")
    assert {path.stem for path in files} == WEIGHTS.keys()
    assert not any(path.is_symlink() for path in files)
    assert all(any(name in message for message in warnings) for name in WEIGHTS)
    assert torch.equal(store.load(kept)["head"]["weight"], WEIGHTS["head"]["weight"])
    collect_weights(store, grace=0.0, act=True)
    assert store.load(kept).keys() == WEIGHTS.keys(), "a copy needs no stored weights"
