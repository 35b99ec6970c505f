"""Clean-ups of a cache remove what they are asked to and nothing else; compaction changes no feature."""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emorec.features import maintenance
from emorec.features.extraction import CLAIM, compact_claimed
from emorec.features.inventory import inventory
from emorec.features.reader import FeatureReader, ReadSettings
from emorec.features.shard import NAME_DIGITS, open_shard, write_shard
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.features.maintenance import MANY_SHARDS, collect, compact, compact_if_many, spec_folders, spec_of, verify
from emorec.storage.claims import claimed, this_process
from emorec.storage.digests import FileDigests
from emorec.storage.leases import SUFFIX as LEASE_SUFFIX
from emorec.storage.leases import take_lease, time_at
from tests.features.test_store import DIM, SPEC, entry, filled, key

DAY = 24 * 3600.0
FROM_DISK = ReadSettings(preload="none")


def spec(number: int) -> FeatureSpec:
    return FeatureSpec(encoder="LogMel", version=number, dtype="float32")


def last_used(folder: Path, age: float) -> Path:
    """Sets the time of a folder's last use back by `age` seconds."""
    then = time_at(folder.parent) - age
    os.utime(folder, (then, then))
    return folder


def set_back(path: Path, age: float) -> None:
    """Sets a file's time back, and leaves its folder's as it is."""
    then = time_at(path.parent.parent) - age
    os.utime(path, (then, then))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Four specs, of 1 to 4 shards each, that were last used 40, 30, 20 and 10 days ago."""
    root = tmp_path / "cache"
    for number in range(4):
        folder = filled(root, [[10 * number + shard] for shard in range(number + 1)], spec(number)).folder
        last_used(folder, (40 - 10 * number) * DAY)
    return root


def name(number: int) -> str:
    return spec(number).folder_name


def sizes(root: Path) -> dict[str, int]:
    """{folder: bytes of its shards}."""
    return {folder.name: sum(path.stat().st_size for path in folder.glob("*.safetensors")) for folder in root.iterdir()}


def tree(root: Path) -> dict[str, bytes | None]:
    """{path: content}, `None` for a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
        if not path.is_symlink()
    }


# ---------------------------------------------------------------------------------------------- verify


def flip(path: Path, place: int) -> None:
    """Flips a bit of a file and keeps its size and time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def remember_as_sound(database: Path, path: Path) -> None:
    """Writes into a database of digests that a file's content is still what its name says."""
    status = path.stat()
    identity = (path.absolute(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    line = "\t".join((*map(str, identity), path.stem.ljust(64, "0")))
    database.write_text(f"{zlib.crc32(line.encode()):08x}\t{line}\n")


def test_verify_finds_flipped_bits_that_a_database_of_digests_takes_for_sound(tmp_path: Path) -> None:
    cache, database = tmp_path / "cache", tmp_path / "digests.tsv"
    store = filled(cache, [[0], [1]])
    rotten, lost = store.shards[0].path, store.shards[0].keys[0].tobytes()
    flip(rotten, store.shards[0].values_start)
    remember_as_sound(database, rotten)
    assert FeatureStore(cache, SPEC, FileDigests(database)).locate([lost]).found.all(), "the database is believed"
    found = verify(cache)
    assert found.checked == 2
    assert list(found.broken) == [f"{SPEC.folder_name}/{rotten.name}"]
    assert "digest" in found.broken[f"{SPEC.folder_name}/{rotten.name}"]
    assert not rotten.exists()
    assert rotten.with_name(f"{rotten.name}.bad").exists()
    again = FeatureStore(cache, SPEC, FileDigests(database))
    assert again.locate([key(0), key(1)]).found.sum() == 1
    assert not again.locate([lost]).found.any()
    assert (verify(cache).checked, verify(cache).broken) == (1, {})


def test_verify_finds_flipped_bits_of_a_header_that_still_reads(tmp_path: Path) -> None:
    path = write_shard(tmp_path / SPEC.folder_name, SPEC, [key(0)], [np.zeros((0, DIM), "float32")], {0: "silent"})
    flip(path, path.read_bytes().index(b"silent"))
    assert open_shard(path).reasons == {0: "cilent"}
    assert list(verify(tmp_path).broken.values()) == ["the content does not match its digest"]
    assert not path.exists()


def test_verify_finds_a_payload_that_is_not_what_the_header_states(tmp_path: Path) -> None:
    path = filled(tmp_path, [[0]]).shards[0].path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the last array, so that the header stays as it is
    path.unlink()
    renamed = path.with_name(f"{hashlib.sha256(content).hexdigest()[:NAME_DIGITS]}.safetensors")
    renamed.write_bytes(bytes(content))
    assert list(verify(tmp_path).broken.values()) == ["the payload does not match its digest"]
    assert not renamed.exists()


def test_verify_changes_nothing_of_a_sound_cache(cache: Path) -> None:
    before = tree(cache)
    found = verify(cache)
    assert (found.checked, found.broken) == (10, {})
    assert tree(cache) == before


def test_an_absent_cache_is_sound_and_empty(tmp_path: Path) -> None:
    assert verify(tmp_path / "nowhere").checked == 0
    assert collect(tmp_path / "nowhere", used=set(), act=True).removed == []
    assert inventory(tmp_path / "nowhere") == []
    assert not (tmp_path / "nowhere").exists()


# --------------------------------------------------------------------------------------------- collect


def test_a_dry_run_tells_what_would_go_and_removes_nothing(cache: Path) -> None:
    before = tree(cache)
    told = collect(cache, used={name(0)}, act=False)
    assert sorted(told.removed) == sorted(name(number) for number in (1, 2, 3))
    assert (told.kept, told.in_use) == (1, [])
    assert told.bytes == sum(sizes(cache)[folder] for folder in told.removed)
    assert tree(cache) == before
    done = collect(cache, used={name(0)}, act=True)
    assert done == told
    assert [folder.name for folder in cache.iterdir()] == [name(0)]


def test_without_a_filter_nothing_goes(cache: Path) -> None:
    before = tree(cache)
    assert (collect(cache, act=True).removed, collect(cache, act=True).kept) == ([], 4)
    assert tree(cache) == before


@pytest.mark.parametrize(("days", "gone"), [(45, []), (25, [0, 1]), (5, [0, 1, 2, 3])])
def test_what_was_last_used_longer_ago_goes(cache: Path, days: int, gone: list[int]) -> None:
    found = collect(cache, older_than=days * DAY, act=True)
    assert found.removed == [name(number) for number in gone]
    assert set(sizes(cache)) == {name(number) for number in range(4) if number not in gone}


def test_reading_features_counts_as_use(cache: Path) -> None:
    FeatureStore(cache, spec(0), FileDigests())
    assert collect(cache, older_than=25 * DAY, act=True).removed == [name(1)]


def test_a_size_takes_the_longest_unused_first_and_only_as_many_as_it_needs(cache: Path) -> None:
    size = sizes(cache)
    total = sum(size.values())
    assert collect(cache, max_bytes=total, act=True).removed == []
    assert collect(cache, max_bytes=total - 1, act=False).removed == [name(0)]
    limit = size[name(2)] + size[name(3)]
    assert collect(cache, max_bytes=limit - 1, act=False).removed == [name(0), name(1), name(2)]
    found = collect(cache, max_bytes=limit, act=True)
    assert found.removed == [name(0), name(1)]
    assert found.bytes == size[name(0)] + size[name(1)]
    assert set(sizes(cache)) == {name(2), name(3)}


@pytest.mark.parametrize(
    ("filters", "gone"),
    [
        ({"older_than": 25 * DAY, "used": {name(0)}}, [1]),
        ({"older_than": 15 * DAY, "max_bytes": 0}, [0, 1, 2]),
        ({"used": {name(0), name(2)}, "max_bytes": 0}, [1, 3]),
        ({"older_than": 25 * DAY, "used": {name(1)}, "max_bytes": 0}, [0]),
        ({"older_than": 25 * DAY, "used": {name(0), name(1)}}, []),
        ({"older_than": 5 * DAY, "max_bytes": 1 << 40}, []),
    ],
)
def test_only_what_all_filters_ask_for_goes(cache: Path, filters: dict[str, Any], gone: list[int]) -> None:
    assert collect(cache, **filters, act=True).removed == [name(number) for number in gone]
    assert set(sizes(cache)) == {name(number) for number in range(4) if number not in gone}


@contextmanager
def leased(folder: Path) -> Iterator[None]:
    lease = take_lease(folder)
    assert lease is not None
    with lease:
        yield


@contextmanager
def extracted(folder: Path) -> Iterator[None]:
    with claimed(folder / CLAIM):
        yield


@pytest.mark.parametrize("hold", [leased, extracted])
@pytest.mark.parametrize("filters", [{"used": set[str]()}, {"max_bytes": 0}, {"older_than": 5 * DAY}])
def test_what_is_in_use_stays_whatever_is_asked_for(cache: Path, hold: Any, filters: dict[str, Any]) -> None:
    with hold(cache / name(1)):
        last_used(cache / name(1), 35 * DAY)
        found = collect(cache, **filters, act=True)
        assert found.in_use == [name(1)]
        assert found.removed == [name(0), name(2), name(3)]
        assert found.kept == 1
        assert len(FeatureStore(cache, spec(1), FileDigests())) == 2
    assert collect(cache, used=set(), act=True).removed == [name(1)]


def test_a_reader_keeps_its_features_from_being_collected(cache: Path) -> None:
    store = FeatureStore(cache, spec(3), FileDigests())
    reader = store.reader([key(30)], FROM_DISK)
    assert collect(cache, used=set(), act=True).in_use == [name(3)]
    values, mask = reader.gather(torch.tensor([0]))
    assert torch.equal(values[0][mask[0]], torch.from_numpy(entry(30)))


def test_what_is_in_use_counts_towards_the_size_and_others_go_in_its_place(cache: Path) -> None:
    size = sizes(cache)
    with leased(cache / name(0)):
        last_used(cache / name(0), 40 * DAY)
        found = collect(cache, max_bytes=sum(size.values()) - 1, act=True)
    assert (found.in_use, found.removed) == ([name(0)], [name(1)])


def leave_lease(folder: Path) -> Path:
    """The lease of a process that was killed."""
    path = folder / f"left{LEASE_SUFFIX}"
    path.write_text(json.dumps(asdict(replace(this_process(), started="1"))))
    return path


def test_what_a_killed_reader_left_protects_nothing_even_after_a_dry_run(cache: Path) -> None:
    left = leave_lease(cache / name(0))
    last_used(cache / name(0), 40 * DAY)
    assert collect(cache, older_than=35 * DAY, act=False).removed == [name(0)]
    assert collect(cache, older_than=35 * DAY, act=True).removed == [name(0)]
    assert not left.exists()


def test_a_clean_up_is_no_use_of_what_it_keeps(cache: Path) -> None:
    kept = cache / name(0)
    (kept / "broken.safetensors.bad").touch()
    (kept / ".orphan.tmp").touch()
    set_back(kept / ".orphan.tmp", 2 * DAY)
    last_used(kept, 40 * DAY)
    before = kept.stat().st_mtime
    collect(cache, used={name(0)}, act=True)
    assert not (kept / "broken.safetensors.bad").exists()
    assert kept.stat().st_mtime == pytest.approx(before, abs=1.0)


def test_links_are_passed_over_and_nothing_outside_is_touched(cache: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    theirs = last_used(filled(outside, [[0]], spec(9)).folder, 90 * DAY)
    (cache / theirs.name).symlink_to(theirs)
    (cache / name(0) / "inner").symlink_to(outside)
    last_used(cache / name(0), 40 * DAY)
    before = tree(outside)
    assert theirs.name not in [folder.name for folder in spec_folders(cache)]
    assert verify(cache).checked == 10
    found = collect(cache, older_than=0.0, act=True)
    assert found.removed == [name(number) for number in range(4)]
    assert [path.name for path in cache.iterdir()] == [theirs.name]
    assert tree(outside) == before


def test_whatever_else_lies_in_the_cache_is_left_alone(cache: Path) -> None:
    foreign = {
        "README.md": "what this is",
        "digests.tsv": "",
        "corpora/meld/clip.wav": "",
        "log_mel-notes/notes.txt": "",
        f"{name(0)}.backup/{'0' * 32}.safetensors": "somebody's",
        "corpora/model.safetensors": "somebody's",
    }
    for path, text in foreign.items():
        (cache / path).parent.mkdir(parents=True, exist_ok=True)
        (cache / path).write_text(text)
    assert verify(cache).broken == {}
    assert sorted(collect(cache, used=set(), act=True).removed) == sorted(name(number) for number in range(4))
    assert {path: (cache / path).read_text() for path in foreign} == foreign
    assert not any((cache / name(number)).exists() for number in range(4))


@pytest.mark.parametrize("act", [False, True])
def test_broken_shards_and_old_leftovers_go_with_a_clean_up_that_acts(cache: Path, act: bool) -> None:
    folder = cache / name(0)
    left = [folder / "a.safetensors.bad", folder / ".old.tmp", cache / ".old.tmp", cache / f".{name(7)}.0.tmp"]
    fresh = [folder / ".fresh.tmp", cache / ".fresh.tmp"]
    left[-1].mkdir()
    (left[-1] / "a.safetensors").touch()
    for path in (*left[:-1], *fresh):
        path.touch()
    for path in left[1:]:
        set_back(path, 2 * DAY)
    last_used(folder, 0.0)
    assert collect(cache, act=act).removed == []
    assert [path.exists() for path in left] == [not act] * 4
    assert all(path.exists() for path in fresh), "somebody may be writing them"
    assert len(FeatureStore(cache, spec(0), FileDigests())) == 1


# --------------------------------------------------------------------------------------------- compact


def scattered(root: Path, count: int = 12) -> FeatureStore:
    """A store of small shards, one key in two of them, and one entry that could not be decoded."""
    store = filled(root, [[number, number + 1] for number in range(count - 1)])
    store.add([key(900), key(901)], [np.zeros((0, DIM), "float32"), entry(901)], {0: "the sound is silent"})
    store.refresh()
    assert len(store.shards) == count
    return store


def shard_names(store: FeatureStore) -> set[str]:
    return {path.name for path in store.folder.glob("*.safetensors")}


ASKED = [key(number) for number in (3, 900, 0, 77, 901, 11, 3, 5)]
FOUND = [True, True, True, False, True, True, True, True]


def assert_equal_reads(reader: FeatureReader, numbers: Sequence[int] = (3, 900, 0, 77, 901, 11, 3, 5)) -> None:
    values, mask = reader.gather(torch.arange(len(numbers)))
    assert mask.any(1).tolist() == [number not in (900, 77) for number in numbers]
    for row, number in enumerate(numbers):
        if number not in (900, 77):
            assert torch.equal(values[row][mask[row]], torch.from_numpy(entry(number)))


def test_compaction_merges_small_shards_and_changes_no_read(tmp_path: Path) -> None:
    store = scattered(tmp_path)
    assert_equal_reads(store.reader(ASKED, FROM_DISK))
    assert compact_claimed(store) == 11
    assert len(shard_names(store)) == 1
    assert not (store.folder / CLAIM).exists()
    for found in (store, FeatureStore(tmp_path, SPEC, FileDigests())):
        assert found.locate(ASKED).found.tolist() == FOUND
        assert found.reasons(ASKED) == {1: "the sound is silent"}
        assert_equal_reads(found.reader(ASKED, FROM_DISK))
    assert verify(tmp_path).broken == {}


def test_compaction_keeps_one_of_equal_entries(tmp_path: Path) -> None:
    store = scattered(tmp_path)
    assert len(store) == 24
    compact(store)
    assert len(store) == 14
    assert inventory(tmp_path)[0]["utterances"] == 14


def test_of_equal_keys_a_read_gives_the_same_before_and_after(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, SPEC, FileDigests())
    for number in range(5):  # one key with different values, as a version that was not raised leaves them
        store.add([key(0), key(10 + number)], [entry(number), entry(10 + number)], {})
    store.refresh()
    before, _ = store.reader([key(0)], FROM_DISK).gather(torch.tensor([0]))
    compact(store)
    after, _ = store.reader([key(0)], FROM_DISK).gather(torch.tensor([0]))
    assert torch.equal(before, after)


def test_a_single_shard_and_an_empty_store_are_left_as_they_are(tmp_path: Path) -> None:
    for groups in ([], [[0, 1]]):
        store = filled(tmp_path, groups)
        before = tree(tmp_path)
        assert compact(store) == 0
        assert tree(tmp_path) == before


def test_merging_into_a_shard_that_is_there_keeps_it(tmp_path: Path) -> None:
    store = filled(tmp_path, [[0, 1]])
    whole = store.shards[0].path
    store.add([key(0)], [entry(0)], {})
    store.add([key(1)], [entry(1)], {})
    store.refresh()
    store.shards.sort(key=lambda shard: shard.path != whole)
    assert compact(store) == 2
    assert shard_names(store) == {whole.name}
    assert store.locate([key(0), key(1)]).found.all()


def test_large_shards_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, [[0], [1], list(range(2, 40))])
    large = max(store.folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    monkeypatch.setattr(maintenance, "SMALL_BYTES", large.stat().st_size)
    assert compact(store) == 1
    assert len(shard_names(store)) == 2
    assert large.exists()
    assert store.locate([key(number) for number in range(40)]).found.all()


def test_a_merged_shard_does_not_grow_without_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, [[number] for number in range(12)])
    limit = sum(shard.values.nbytes for shard in store.shards) // 3
    monkeypatch.setattr(maintenance, "COMPACT_BYTES", limit)
    saved = compact(store)
    assert 2 <= len(store.shards) == 12 - saved <= 4
    assert max(shard.values.nbytes for shard in store.shards) <= limit + entry(0).nbytes * 7
    assert store.locate([key(number) for number in range(12)]).found.all()


@pytest.mark.parametrize("rotten", [1, 2, 3])
def test_what_rots_between_opening_and_merging_is_set_aside_and_not_merged(tmp_path: Path, rotten: int) -> None:
    store = filled(tmp_path, [[0], [1], [2]])
    shards = sorted(store.shards, key=lambda shard: shard.path)
    for shard in shards[:rotten]:
        flip(shard.path, shard.values_start)
    compact(store)
    found = store.locate([shard.keys[0].tobytes() for shard in shards]).found
    assert found.tolist() == [number >= rotten for number in range(3)]
    assert len(shard_names(store)) == (1 if rotten < 3 else 0)
    assert len(list(store.folder.glob("*.bad"))) == rotten
    assert verify(tmp_path).broken == {}


@pytest.mark.parametrize("mmap", [True, False])
def test_a_reader_opened_before_a_compaction_still_reads_after_it(tmp_path: Path, mmap: bool) -> None:
    reader = scattered(tmp_path).reader(ASKED, ReadSettings(preload="none", mmap=mmap))
    compact(FeatureStore(tmp_path, SPEC, FileDigests()))
    assert_equal_reads(reader)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("preload", ["none", "ram"])
def test_a_store_opened_before_a_compaction_still_makes_readers_after_it(
    tmp_path: Path, preload: str, mmap: bool
) -> None:
    store = scattered(tmp_path)
    compact(FeatureStore(tmp_path, SPEC, FileDigests()))
    assert_equal_reads(store.reader(ASKED, ReadSettings(preload=preload, mmap=mmap)))


def test_a_store_opened_before_a_compaction_compacts_without_loss(tmp_path: Path) -> None:
    late = scattered(tmp_path)
    compact(FeatureStore(tmp_path, SPEC, FileDigests()))
    compact_claimed(late)
    assert len(shard_names(late)) == 1
    assert_equal_reads(FeatureStore(tmp_path, SPEC, FileDigests()).reader(ASKED, FROM_DISK))


class CompactsAtFirst(FileDigests):
    """Compacts the store in the moment between a listing of its shards and the opening of the first."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.saved = root, 0

    def digest(self, path: Path) -> str:
        if not self.saved:
            self.saved = compact(FeatureStore(self.root, SPEC, FileDigests()))
        return super().digest(path)


def test_a_store_that_is_opened_while_it_is_compacted_finds_everything(tmp_path: Path) -> None:
    scattered(tmp_path)
    digests = CompactsAtFirst(tmp_path)
    store = FeatureStore(tmp_path, SPEC, digests)
    assert digests.saved == 11
    assert store.locate(ASKED).found.tolist() == FOUND
    assert_equal_reads(store.reader(ASKED, FROM_DISK))


@pytest.mark.parametrize(("count", "left"), [(MANY_SHARDS, MANY_SHARDS), (MANY_SHARDS + 1, 1)])
def test_a_store_is_compacted_by_itself_only_over_a_number_of_small_shards(
    tmp_path: Path, count: int, left: int
) -> None:
    store = filled(tmp_path, [[number] for number in range(count)])
    compact_if_many(store)
    assert len(shard_names(store)) == left
    assert store.locate([key(number) for number in range(count)]).found.all()


# ------------------------------------------------------------------------------------------- inventory


def test_the_inventory_counts_utterances_shards_bytes_and_what_is_broken(tmp_path: Path) -> None:
    about = replace(spec(1), checkpoint="some/model", revision="abc")
    store = filled(tmp_path, [[0, 1, 2], [3]], about)
    store.add([key(9)], [np.zeros((0, DIM), "float32")], {0: "the sound is silent"})
    size = sum(path.stat().st_size for path in store.folder.iterdir())
    (store.folder / f"{'0' * 32}.safetensors").write_bytes(b"not a shard")
    (store.folder / f"{'1' * 32}.safetensors.bad").write_bytes(b"set aside")
    os.utime(store.folder, (1_700_000_000, 1_700_000_000))
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").touch()
    assert inventory(tmp_path) == [
        {
            "folder": about.folder_name,
            "encoder": "LogMel",
            "checkpoint": "some/model",
            "revision": "abc",
            "utterances": 5,
            "bad": 1,
            "shards": 3,
            "broken": 1,
            "bytes": size,
            "last_use": 1_700_000_000.0,
        }
    ]


def test_a_folder_tells_its_spec_as_long_as_one_shard_can_be_read(tmp_path: Path) -> None:
    about = replace(spec(1), processor={"hop": 10}, media={"sample_rate": 16_000})
    path = write_shard(tmp_path / about.folder_name, about, [key(0)], [entry(0)], {})
    (path.parent / f"{'0' * 32}.safetensors").write_bytes(b"not a shard")
    assert spec_of(path.parent) == about
    path.unlink()
    assert spec_of(path.parent) is None
    assert spec_of(tmp_path / "nowhere") is None
