"""The feature store with killed writers, corrupted files, locks without effect and links out of its folders.

In each case a reader gets either the values that the encoder computed or no values.
"""

import fcntl
import hashlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emorec.features import computation
from emorec.features.compaction import compact
from emorec.features.maintenance import collect
from emorec.features.shard import Shard
from emorec.features.spec import FeatureSpec
from emorec.features.store import CLAIM, FeatureStore
from emorec.storage import claims
from emorec.storage.atomic import remove_orphans
from emorec.storage.digests import FileDigests
from tests.faults.conftest import (
    FORK,
    Crew,
    Noise,
    Unloadable,
    append_line,
    dead_holder,
    elsewhere,
    leftovers,
    lines,
    noise,
    open_store,
    plant_claim,
    run_extraction,
    texts,
    wrong_features,
)

pytestmark = pytest.mark.faults

SPEC = FeatureSpec(encoder="Noise", version=1, dtype="float32")
WRITERS, KEYS_OF_A_SHARD, KILLS = 4, 5, 40
ROUNDS = 4  # with KILLS / ROUNDS kills each, since the reader opens all shards after each kill
PAUSE = 0.02  # seconds at most between two shards of a writer
DIM = 1024
PROCESSES = 8
HOUR = 3600.0


def write_on(root: Path, digests: FileDigests, journal: Path, name: str) -> None:
    """Writes shards and records each in the journal; the values depend on the keys only."""
    store, rng = FeatureStore(root, SPEC, digests), random.Random(name)
    number = 0
    while True:
        time.sleep(rng.uniform(0.0, PAUSE))
        keys = [hashlib.sha256(f"{name} {number} {index}".encode()).digest() for index in range(KEYS_OF_A_SHARD)]
        store.add(keys, [noise(key, DIM) for key in keys], {})
        append_line(journal, keys[0].hex())
        number += 1


def wrong_entries(shard: Shard) -> int:
    """The number of entries of a shard whose values do not match their key."""
    bounds = zip(shard.keys, shard.offsets[:-1], shard.offsets[1:], strict=True)
    return sum(not np.array_equal(shard.values[first:last], noise(key.tobytes(), DIM)) for key, first, last in bounds)


def kill_writers(folder: Path, crew: Crew, rng: random.Random) -> dict[str, int]:
    """Kills and replaces writers at random and counts what a reader finds."""
    digests, journal, cache = FileDigests(), folder / "journal", folder / "cache"
    folder.mkdir()
    writers = [crew.start(write_on, cache, digests, journal, f"{number}") for number in range(WRITERS)]
    seen: set[str] = set()
    counts = {"kills": 0, "shards_read": 0, "entries_read": 0, "wrong": 0, "lost": 0, "quarantined": 0}
    for kill in range(KILLS // ROUNDS - WRITERS):  # the writers are also killed at the end of a round
        time.sleep(rng.uniform(0.0, 0.03))
        victim = rng.randrange(WRITERS)
        crew.kill(writers[victim])
        counts["kills"] += 1
        written = [bytes.fromhex(line) for line in lines(journal)]
        store = FeatureStore(cache, SPEC, digests)
        new = [shard for shard in store.shards if shard.path.name not in seen]
        names = {shard.path.name for shard in store.shards}
        counts["shards_read"] += len(new)
        counts["entries_read"] += sum(len(shard.keys) for shard in new)
        counts["wrong"] += sum(map(wrong_entries, new))
        counts["lost"] += len(seen - names) + int((~store.locate(written).found).sum())
        seen = names
        writers[victim] = crew.start(write_on, cache, digests, journal, f"{victim} after {kill}")
    for process in writers:
        crew.kill(process)
        counts["kills"] += 1
    final = FeatureStore(cache, SPEC, FileDigests())
    counts["wrong"] += sum(map(wrong_entries, final.shards))
    counts["lost"] += len(seen - {shard.path.name for shard in final.shards})
    counts["quarantined"] += len(list(cache.rglob("*.bad")))
    return counts


def test_killed_writers_leave_complete_shards_only(tmp_path: Path, crew: Crew) -> None:
    rng, total = random.Random(1), Counter[str]()
    for number in range(ROUNDS):
        total.update(kill_writers(tmp_path / f"round{number}", crew, rng))
    orphans = [path for path in tmp_path.rglob("*.tmp")]
    young = [gone for path in orphans for gone in remove_orphans(path.parent, grace=HOUR)]
    aged = orphans[::2]
    for path in aged:
        os.utime(path, (time.time() - 2 * HOUR,) * 2)
    removed = {gone for path in orphans for gone in remove_orphans(path.parent, grace=HOUR)}
    found = " ".join(f"{name}={count}" for name, count in total.items())
    print(f"{found} orphans={len(orphans)} removed_in_grace={len(young)} removed_after_grace={len(removed)}")
    assert total["kills"] == KILLS
    assert (total["wrong"], total["lost"], total["quarantined"]) == (0, 0, 0)
    assert min(total["shards_read"], len(aged)) > 0, "writers must be killed before, during and after a write"
    assert young == []
    assert removed == set(aged)
    assert {path for path in orphans if path.exists()} == set(orphans) - removed
    for number in range(ROUNDS):
        shutil.rmtree(tmp_path / f"round{number}")


@dataclass(frozen=True, kw_only=True)
class Race:
    """Several processes that extract the same features at the same time.

    Attributes:
        cache: the cache.
        journal: file with a line for each computed text.
        done: file with a line from each process: the number of features that it computed, and that of wrong features.
        count: number of texts.
        every_seconds: between two writes.
    """

    cache: Path
    journal: Path
    done: Path
    count: int
    every_seconds: float
    barrier: Any = field(default_factory=lambda: FORK.Barrier(PROCESSES))

    def take_part(self, prepare: Callable[[], object] = lambda: None) -> None:
        prepare()
        encoder, sources = Noise(journal=self.journal, pause=0.01), texts(self.count)
        self.barrier.wait(30)
        store, report = run_extraction(self.cache, encoder, sources, batch_size=4, every_seconds=self.every_seconds)
        append_line(self.done, f"{report.computed} {wrong_features(store, encoder, sources)}")

    def results(self) -> tuple[int, int]:
        """Sums over the processes: computed, wrong."""
        rows = [[int(word) for word in line.split()] for line in lines(self.done)]
        assert len(rows) == PROCESSES
        return sum(row[0] for row in rows), sum(row[1] for row in rows)


def start_race(folder: Path, count: int, every_seconds: float = 0.02) -> Race:
    folder.mkdir()
    files = {name: folder / name for name in ("cache", "journal", "done")}
    return Race(**files, count=count, every_seconds=every_seconds)


def turn_locks_off() -> None:
    """Grants every lock, as some network disks do."""
    fcntl.flock = lambda *_: None  # type: ignore[assignment]


def turn_claims_off() -> None:
    """Grants every claim, which is worse than any disk."""
    claims._create = lambda *_: True


@pytest.mark.parametrize("prepare", [turn_locks_off, turn_claims_off])
def test_features_are_correct_without_working_locks(tmp_path: Path, crew: Crew, prepare: Callable[[], object]) -> None:
    holder, rounds, count = dead_holder(crew), 2, 40
    computed = wrong = 0
    for number in range(rounds):
        race = start_race(tmp_path / f"round{number}", count)
        claim = open_store(race.cache, Noise()).folder / CLAIM
        plant_claim(claim, holder)  # all processes try to take it over at once
        for _ in range(PROCESSES):
            crew.start(race.take_part, prepare)
        crew.finish()
        computed += len(lines(race.journal))
        wrong += race.results()[1] + wrong_features(open_store(race.cache, Noise()), Noise(), texts(count))
        assert leftovers(race.cache) == []
        assert list(race.cache.rglob("*.bad")) == []
        assert not claim.exists() or prepare is turn_claims_off
    print(f"rounds={rounds} processes={PROCESSES} sources={count * rounds} computed={computed} wrong={wrong}")
    assert wrong == 0
    assert computed >= count * rounds


@pytest.mark.parametrize("every_seconds", [15.0, 0.02])
def test_each_source_is_computed_by_exactly_one_of_many_processes(
    tmp_path: Path, crew: Crew, every_seconds: float
) -> None:
    race = start_race(tmp_path / "race", count=60, every_seconds=every_seconds)
    for _ in range(PROCESSES):
        crew.start(race.take_part)
    crew.finish()
    computations = lines(race.journal)
    reported, wrong = race.results()
    print(
        f"processes={PROCESSES} sources=60 computations={len(computations)} distinct={len(set(computations))} "
        f"reported={reported} wrong={wrong}"
    )
    assert len(computations) == len(set(computations)) == reported == 60
    assert wrong == 0


def test_the_claim_of_a_dead_process_is_taken_over_at_once(
    tmp_path: Path, crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    holder = dead_holder(crew)
    claim = open_store(tmp_path, Noise()).folder / CLAIM
    plant_claim(claim, holder)
    started = time.monotonic()
    store, report = run_extraction(tmp_path, Noise(), texts(5))
    seconds = time.monotonic() - started
    print(f"computed={report.computed} seconds={seconds:.2f}")
    assert report.computed == 5
    assert seconds < 10, "only claims of other hosts have to time out"
    assert str(holder) in caplog.text
    assert not claim.exists()
    assert wrong_features(store, Noise(), texts(5)) == 0


@pytest.mark.parametrize("content", ["another host", "torn", "empty"])
def test_a_claim_without_a_heartbeat_is_taken_over_after_the_timeout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    claim = open_store(tmp_path, Noise()).folder / CLAIM
    plant_claim(claim, elsewhere())
    if content != "another host":
        claim.write_text(claim.read_text()[:20] if content == "torn" else "")
    started = time.monotonic()
    _, report = run_extraction(tmp_path, Noise(), texts(5), stale_after=1.0)
    seconds = time.monotonic() - started
    print(f"claim={content!r} computed={report.computed} seconds={seconds:.2f}")
    assert report.computed == 5
    assert 1.0 < seconds < 20
    assert "taking over" in caplog.text
    assert not claim.exists()


def flip_a_bit(content: bytearray, rng: random.Random) -> bytearray:
    index = rng.randrange(rng.choice([8, 600, len(content)]))  # length of the header, header, anywhere
    content[index] ^= 1 << rng.randrange(8)
    return content


def cut(content: bytearray, rng: random.Random) -> bytearray:
    return content[: rng.randrange(1, len(content))]


def zero_the_tail(content: bytearray, rng: random.Random) -> bytearray:
    size = rng.randrange(1, len(content))
    return content[:-size] + bytes(size)


def empty(*_: object) -> bytearray:
    return bytearray()


def announce_a_huge_header(content: bytearray, rng: random.Random) -> bytearray:
    content[:8] = rng.choice([1 << 31, 1 << 60, 1 << 63, (1 << 64) - 1]).to_bytes(8, "little")
    return content


DAMAGES = (flip_a_bit, cut, zero_the_tail, empty, announce_a_huge_header)
CORRUPTIONS = 200


def test_every_corruption_is_detected_set_aside_and_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computation, "PUBLISH_BYTES", 4000)  # several shards
    rng, encoder, sources = random.Random(2), Noise(), texts(60)
    run_extraction(tmp_path, encoder, sources)
    counts = dict.fromkeys((damage.__name__ for damage in DAMAGES), 0)
    detected = quarantined = rebuilt = wrong = 0
    for number in range(CORRUPTIONS):
        shard = rng.choice(open_store(tmp_path, encoder).shards)
        damage, lost = DAMAGES[number % len(DAMAGES)], [row.tobytes() for row in shard.keys]
        whole = shard.path.read_bytes()
        damaged = whole
        while damaged == whole:
            damaged = bytes(damage(bytearray(whole), rng))
        shard.path.write_bytes(damaged)
        counts[damage.__name__] += 1

        store = open_store(tmp_path, encoder)
        detected += not store.locate(lost).found.any()
        bad = shard.path.with_name(shard.path.name + ".bad")
        quarantined += bad.exists() and not shard.path.exists() and bad.read_bytes() == damaged
        bad.unlink(missing_ok=True)
        store, report = run_extraction(tmp_path, encoder, sources)
        rebuilt += report.computed == len(lost)
        wrong += wrong_features(store, encoder, sources)
    kinds = " ".join(f"{name}={count}" for name, count in counts.items())
    print(f"corruptions={CORRUPTIONS} {kinds} {detected=} {quarantined=} {rebuilt=} {wrong=}")
    assert (detected, quarantined, rebuilt, wrong) == (CORRUPTIONS, CORRUPTIONS, CORRUPTIONS, 0)


def test_corrupted_entries_of_an_open_store_are_not_merged_into_a_valid_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computation, "PUBLISH_BYTES", 1000)
    rng, encoder, sources = random.Random(5), Noise(), texts(20)
    store, _ = run_extraction(tmp_path, encoder, dict(list(sources.items())[:10]))
    for text in list(sources.values())[10:]:
        assert text is not None
        assert text.text is not None
        key = bytes.fromhex(text.key(FileDigests().digest))
        store.add([key], [noise(text.text.encode(), encoder.dim)], {})
    store.refresh()
    before = len(store.shards)
    shard = rng.choice(store.shards)
    content = bytearray(shard.path.read_bytes())
    content[shard.values_start + rng.randrange(shard.values.nbytes)] ^= 0x40
    shard.path.write_bytes(content)
    merged = compact(store)
    store, report = run_extraction(tmp_path, encoder, sources)
    wrong = wrong_features(store, encoder, sources)
    print(f"shards={before} merged={merged} computed={report.computed} wrong={wrong}")
    assert merged > 0
    assert wrong == 0


def test_the_features_of_a_moved_cache_are_found(tmp_path: Path) -> None:
    sources = texts(20)
    run_extraction(tmp_path / "here", Noise(), sources)
    shutil.move(tmp_path / "here", tmp_path / "elsewhere" / "cache")
    store, report = run_extraction(tmp_path / "elsewhere" / "cache", Unloadable(), sources)
    wrong = wrong_features(store, Noise(), sources)
    print(f"found={report.found} computed={report.computed} wrong={wrong}")
    assert (report.found, report.computed, wrong) == (20, 0, 0)


@pytest.fixture
def tampered(tmp_path: Path) -> tuple[Path, dict[Path, bytes]]:
    """A cache with links out of it, and {file outside: its content}.

    The folder of one spec is a link; another has a shard, a broken shard and a temporary file that are links; a third
    has no links.
    """
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    for number, dim in enumerate((4, 5, 6)):
        run_extraction(outside if number == 0 else cache, Noise(dim=dim), texts(3))
    linked_spec = open_store(outside, Noise(dim=4)).folder
    (linked_spec / "broken.safetensors.bad").write_bytes(b"somebody's")
    (linked_spec / ".old.tmp").write_bytes(b"somebody's")
    (outside / "precious.txt").write_text("precious")
    (outside / "deep").mkdir()
    (outside / "deep" / "more.txt").write_text("precious too")
    (cache / linked_spec.name).symlink_to(linked_spec)
    folder = open_store(cache, Noise(dim=5)).folder
    (folder / f"{'0' * 32}.safetensors").symlink_to(outside / "precious.txt")
    (folder / f"{'1' * 32}.safetensors.bad").symlink_to(outside / "precious.txt")
    (folder / ".orphan.tmp").symlink_to(outside / "deep")
    (folder / "inner").symlink_to(outside / "deep")
    (cache / ".orphan.tmp").symlink_to(outside / "deep")
    day = time.time() - 48 * HOUR
    for path in (*outside.rglob("*"), *cache.rglob("*")):
        os.utime(path, (day, day), follow_symlinks=False)
    return cache, {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "chosen", [{"older_than": 0.0}, {"used": set()}, {"max_bytes": 0}, {}], ids=["age", "use", "size", "nothing"]
)
def test_maintenance_follows_no_link_out_of_the_cache(
    tampered: tuple[Path, dict[Path, bytes]], chosen: dict[str, Any]
) -> None:
    cache, outside = tampered
    dry = collect(cache, **chosen, act=False)
    removal = collect(cache, **chosen, act=True)
    intact = sum(path.is_file() and path.read_bytes() == content for path, content in outside.items())
    print(f"removed={len(removal.removed)} kept={removal.kept} files_outside={len(outside)} intact={intact}")
    assert intact == len(outside) == 5
    assert dry.removed == removal.removed
    real = {open_store(cache, Noise(dim=dim)).folder.name for dim in (5, 6)}
    assert set(removal.removed) == (real if chosen else set())
    assert leftovers(cache) == []


def test_a_link_without_a_target_among_the_shards_is_skipped(tmp_path: Path) -> None:
    signal.alarm(10)  # a store that retries the link never returns
    folder = open_store(tmp_path, Noise()).folder
    run_extraction(tmp_path, Noise(), texts(3))
    (folder / f"{'0' * 32}.safetensors").symlink_to(tmp_path / "gone")
    store, report = run_extraction(tmp_path, Unloadable(), texts(3))
    print(f"found={report.found} wrong={wrong_features(store, Noise(), texts(3))}")
    assert report.found == 3
