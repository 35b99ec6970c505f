"""Maintenance removes only what was selected; compaction changes no feature."""

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

from emorec.config.schema import FeaturesConfig
from emorec.features import compaction
from emorec.features.compaction import MANY_SHARDS, compact, compact_claimed, compact_if_many
from emorec.features.inventory import inventory
from emorec.features.maintenance import collect, spec_folders, spec_of, verify
from emorec.features.reader import FeatureReader
from emorec.features.shard import NAME_DIGITS, PAYLOAD, open_shard, write_shard
from emorec.features.spec import FeatureSpec
from emorec.features.store import CLAIM, FeatureStore
from emorec.storage.claims import claimed, this_process
from emorec.storage.digests import FileDigests
from emorec.storage.leases import SUFFIX as LEASE_SUFFIX
from emorec.storage.leases import take_lease, time_at
from tests.features.test_store import DIM, SPEC, entry, filled, key

DAY = 24 * 3600.0
FROM_DISK = FeaturesConfig(preload="none")


def spec(number: int) -> FeatureSpec:
    return FeatureSpec(encoder="LogMel", version=number, dtype="float32")


def last_used(folder: Path, age: float) -> Path:
    """Sets the last use of a folder to `age` seconds ago."""
    then = time_at(folder.parent) - age
    os.utime(folder, (then, then))
    return folder


def set_back(path: Path, age: float) -> None:
    """Sets the modification time of a file to `age` seconds ago."""
    then = time_at(path.parent.parent) - age
    os.utime(path, (then, then))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Four specs of 1 to 4 shards, last used 40, 30, 20 and 10 days ago."""
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


def flip(path: Path, offset: int) -> None:
    """Flips a bit of a file and keeps its size and time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def remember_as_sound(database: Path, path: Path) -> None:
    """Writes digests into a database that match the name of a shard and the digest of the arrays in its header."""
    status = path.stat()
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    for name, digest in ((path.absolute(), path.stem.ljust(64, "0")), (f"{PAYLOAD}{path}", open_shard(path).payload)):
        line = "\t".join(map(str, (name, *numbers, digest)))
        with database.open("a") as stream:
            stream.write(f"{zlib.crc32(line.encode()):08x}\t{line}\n")


def test_verify_finds_flipped_bits_that_the_database_of_digests_does_not_show(tmp_path: Path) -> None:
    cache, database = tmp_path / "cache", tmp_path / "digests.tsv"
    store = filled(cache, [[0], [1]])
    corrupted, lost = store.shards[0].path, store.shards[0].keys[0].tobytes()
    flip(corrupted, store.shards[0].values_start)
    remember_as_sound(database, corrupted)
    assert FeatureStore(cache, SPEC, FileDigests(database)).locate([lost]).found.all(), "the database is read"
    result = verify(cache)
    assert result.checked == 2
    assert list(result.broken) == [f"{SPEC.folder_name}/{corrupted.name}"]
    assert "digest" in result.broken[f"{SPEC.folder_name}/{corrupted.name}"]
    assert not corrupted.exists()
    assert corrupted.with_name(f"{corrupted.name}.bad").exists()
    again = FeatureStore(cache, SPEC, FileDigests(database))
    assert again.locate([key(0), key(1)]).found.sum() == 1
    assert not again.locate([lost]).found.any()
    assert (verify(cache).checked, verify(cache).broken) == (1, {})


def test_verify_finds_flipped_bits_in_a_valid_header(tmp_path: Path) -> None:
    path = write_shard(tmp_path / SPEC.folder_name, SPEC, [key(0)], [np.zeros((0, DIM), "float32")], {0: "silent"})
    flip(path, path.read_bytes().index(b"silent"))
    assert open_shard(path).reasons == {0: "cilent"}
    assert list(verify(tmp_path).broken.values()) == ["the content does not match its digest"]
    assert not path.exists()


def test_verify_finds_a_payload_that_differs_from_the_header(tmp_path: Path) -> None:
    path = filled(tmp_path, [[0]]).shards[0].path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the last array, so that the header stays as it is
    path.unlink()
    renamed = path.with_name(f"{hashlib.sha256(content).hexdigest()[:NAME_DIGITS]}.safetensors")
    renamed.write_bytes(bytes(content))
    assert list(verify(tmp_path).broken.values()) == ["the payload does not match its digest"]
    assert not renamed.exists()


def test_verify_does_not_change_an_intact_cache(cache: Path) -> None:
    before = tree(cache)
    result = verify(cache)
    assert (result.checked, result.broken) == (10, {})
    assert tree(cache) == before


def test_a_missing_cache_is_empty_and_has_no_broken_shards(tmp_path: Path) -> None:
    assert verify(tmp_path / "nowhere").checked == 0
    assert collect(tmp_path / "nowhere", used=set(), act=True).removed == []
    assert inventory(tmp_path / "nowhere") == []
    assert not (tmp_path / "nowhere").exists()


# --------------------------------------------------------------------------------------------- collect


def test_a_dry_run_reports_what_would_be_removed_and_removes_nothing(cache: Path) -> None:
    before = tree(cache)
    dry = collect(cache, used={name(0)}, act=False)
    assert sorted(dry.removed) == sorted(name(number) for number in (1, 2, 3))
    assert (dry.kept, dry.in_use) == (1, [])
    assert dry.bytes == sum(sizes(cache)[folder] for folder in dry.removed)
    assert tree(cache) == before
    assert collect(cache, used={name(0)}, act=True) == dry
    assert [folder.name for folder in cache.iterdir()] == [name(0)]


def test_nothing_is_removed_without_a_condition(cache: Path) -> None:
    before = tree(cache)
    assert (collect(cache, act=True).removed, collect(cache, act=True).kept) == ([], 4)
    assert tree(cache) == before


@pytest.mark.parametrize(("days", "removed"), [(45, []), (25, [0, 1]), (5, [0, 1, 2, 3])])
def test_specs_that_were_not_used_for_longer_are_removed(cache: Path, days: int, removed: list[int]) -> None:
    result = collect(cache, older_than=days * DAY, act=True)
    assert result.removed == [name(number) for number in removed]
    assert set(sizes(cache)) == {name(number) for number in range(4) if number not in removed}


def test_reading_features_counts_as_use(cache: Path) -> None:
    FeatureStore(cache, spec(0), FileDigests())
    assert collect(cache, older_than=25 * DAY, act=True).removed == [name(1)]


def test_a_size_limit_removes_the_least_recently_used_specs_until_it_is_met(cache: Path) -> None:
    size = sizes(cache)
    total = sum(size.values())
    assert collect(cache, max_bytes=total, act=True).removed == []
    assert collect(cache, max_bytes=total - 1, act=False).removed == [name(0)]
    limit = size[name(2)] + size[name(3)]
    assert collect(cache, max_bytes=limit - 1, act=False).removed == [name(0), name(1), name(2)]
    result = collect(cache, max_bytes=limit, act=True)
    assert result.removed == [name(0), name(1)]
    assert result.bytes == size[name(0)] + size[name(1)]
    assert set(sizes(cache)) == {name(2), name(3)}


@pytest.mark.parametrize(
    ("filters", "removed"),
    [
        ({"older_than": 25 * DAY, "used": {name(0)}}, [1]),
        ({"older_than": 15 * DAY, "max_bytes": 0}, [0, 1, 2]),
        ({"used": {name(0), name(2)}, "max_bytes": 0}, [1, 3]),
        ({"older_than": 25 * DAY, "used": {name(1)}, "max_bytes": 0}, [0]),
        ({"older_than": 25 * DAY, "used": {name(0), name(1)}}, []),
        ({"older_than": 5 * DAY, "max_bytes": 1 << 40}, []),
    ],
)
def test_only_specs_that_meet_all_conditions_are_removed(
    cache: Path, filters: dict[str, Any], removed: list[int]
) -> None:
    assert collect(cache, **filters, act=True).removed == [name(number) for number in removed]
    assert set(sizes(cache)) == {name(number) for number in range(4) if number not in removed}


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
def test_features_in_use_are_kept_under_any_condition(cache: Path, hold: Any, filters: dict[str, Any]) -> None:
    with hold(cache / name(1)):
        last_used(cache / name(1), 35 * DAY)
        result = collect(cache, **filters, act=True)
        assert result.in_use == [name(1)]
        assert result.removed == [name(0), name(2), name(3)]
        assert result.kept == 1
        assert len(FeatureStore(cache, spec(1), FileDigests())) == 2
    assert collect(cache, used=set(), act=True).removed == [name(1)]


def test_features_with_an_open_reader_are_not_removed(cache: Path) -> None:
    store = FeatureStore(cache, spec(3), FileDigests())
    reader = store.reader([key(30)], FROM_DISK)
    assert collect(cache, used=set(), act=True).in_use == [name(3)]
    values, mask = reader.gather(torch.tensor([0]))
    assert torch.equal(values[0][mask[0]], torch.from_numpy(entry(30)))


def test_features_in_use_count_towards_the_size_and_others_are_removed_instead(cache: Path) -> None:
    size = sizes(cache)
    with leased(cache / name(0)):
        last_used(cache / name(0), 40 * DAY)
        result = collect(cache, max_bytes=sum(size.values()) - 1, act=True)
    assert (result.in_use, result.removed) == ([name(0)], [name(1)])


def leave_lease(folder: Path) -> Path:
    """The lease of a process that was killed."""
    path = folder / f"left{LEASE_SUFFIX}"
    path.write_text(json.dumps(asdict(replace(this_process(), started="1"))))
    return path


def test_the_lease_of_a_killed_reader_protects_nothing_even_after_a_dry_run(cache: Path) -> None:
    left = leave_lease(cache / name(0))
    last_used(cache / name(0), 40 * DAY)
    assert collect(cache, older_than=35 * DAY, act=False).removed == [name(0)]
    assert collect(cache, older_than=35 * DAY, act=True).removed == [name(0)]
    assert not left.exists()


def test_maintenance_does_not_count_as_use(cache: Path) -> None:
    kept = cache / name(0)
    (kept / "broken.safetensors.bad").touch()
    (kept / ".orphan.tmp").touch()
    set_back(kept / ".orphan.tmp", 2 * DAY)
    last_used(kept, 40 * DAY)
    before = kept.stat().st_mtime
    collect(cache, used={name(0)}, act=True)
    assert not (kept / "broken.safetensors.bad").exists()
    assert kept.stat().st_mtime == pytest.approx(before, abs=1.0)


def test_links_are_skipped_and_nothing_outside_the_cache_is_touched(cache: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    theirs = last_used(filled(outside, [[0]], spec(9)).folder, 90 * DAY)
    (cache / theirs.name).symlink_to(theirs)
    (cache / name(0) / "inner").symlink_to(outside)
    last_used(cache / name(0), 40 * DAY)
    before = tree(outside)
    assert theirs.name not in [folder.name for folder in spec_folders(cache)]
    assert verify(cache).checked == 10
    result = collect(cache, older_than=0.0, act=True)
    assert result.removed == [name(number) for number in range(4)]
    assert [path.name for path in cache.iterdir()] == [theirs.name]
    assert tree(outside) == before


def test_other_content_of_the_cache_is_not_touched(cache: Path) -> None:
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
def test_quarantined_shards_and_old_temporary_files_are_removed_unless_it_is_a_dry_run(cache: Path, act: bool) -> None:
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
    assert all(path.exists() for path in fresh), "another process may be writing them"
    assert len(FeatureStore(cache, spec(0), FileDigests())) == 1


# --------------------------------------------------------------------------------------------- compact


def scattered(root: Path, count: int = 12) -> FeatureStore:
    """A store of small shards with keys that occur twice, and one source that could not be decoded."""
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
    for opened in (store, FeatureStore(tmp_path, SPEC, FileDigests())):
        assert opened.locate(ASKED).found.tolist() == FOUND
        assert opened.reasons(ASKED) == {ASKED[1]: "the sound is silent"}
        assert_equal_reads(opened.reader(ASKED, FROM_DISK))
    assert verify(tmp_path).broken == {}


def test_compaction_keeps_one_of_equal_entries(tmp_path: Path) -> None:
    store = scattered(tmp_path)
    assert len(store) == 24
    compact(store)
    assert len(store) == 14
    assert inventory(tmp_path)[0]["utterances"] == 14


def test_compaction_keeps_the_values_that_a_repeated_key_had(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, SPEC, FileDigests())
    for number in range(5):  # one key with different values, as an encoder with an outdated version number writes them
        store.add([key(0), key(10 + number)], [entry(number), entry(10 + number)], {})
    store.refresh()
    before, _ = store.reader([key(0)], FROM_DISK).gather(torch.tensor([0]))
    compact(store)
    after, _ = store.reader([key(0)], FROM_DISK).gather(torch.tensor([0]))
    assert torch.equal(before, after)


def test_compaction_does_not_change_a_single_shard_or_an_empty_store(tmp_path: Path) -> None:
    for groups in ([], [[0, 1]]):
        store = filled(tmp_path, groups)
        before = tree(tmp_path)
        assert compact(store) == 0
        assert tree(tmp_path) == before


def test_a_merged_shard_that_exists_already_is_kept(tmp_path: Path) -> None:
    store = filled(tmp_path, [[0, 1]])
    whole = store.shards[0].path
    store.add([key(0)], [entry(0)], {})
    store.add([key(1)], [entry(1)], {})
    store.refresh()
    store.shards.sort(key=lambda shard: shard.path != whole)
    assert compact(store) == 2
    assert shard_names(store) == {whole.name}
    assert store.locate([key(0), key(1)]).found.all()


def test_large_shards_are_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, [[0], [1], list(range(2, 40))])
    large = max(store.folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    monkeypatch.setattr(compaction, "SMALL_BYTES", large.stat().st_size)
    assert compact(store) == 1
    assert len(shard_names(store)) == 2
    assert large.exists()
    assert store.locate([key(number) for number in range(40)]).found.all()


def test_the_size_of_a_merged_shard_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, [[number] for number in range(12)])
    limit = sum(shard.values.nbytes for shard in store.shards) // 3
    monkeypatch.setattr(compaction, "COMPACT_BYTES", limit)
    saved = compact(store)
    assert 2 <= len(store.shards) == 12 - saved <= 4
    assert max(shard.values.nbytes for shard in store.shards) <= limit + entry(0).nbytes * 7
    assert store.locate([key(number) for number in range(12)]).found.all()


@pytest.mark.parametrize("corrupted", [1, 2, 3])
def test_shards_that_rot_after_they_were_opened_are_set_aside_and_not_merged(tmp_path: Path, corrupted: int) -> None:
    store = filled(tmp_path, [[0], [1], [2]])
    shards = sorted(store.shards, key=lambda shard: shard.path)
    for shard in shards[:corrupted]:
        flip(shard.path, shard.values_start)
    compact(store)
    located = store.locate([shard.keys[0].tobytes() for shard in shards]).found
    assert located.tolist() == [number >= corrupted for number in range(3)]
    assert len(shard_names(store)) == (1 if corrupted < 3 else 0)
    assert len(list(store.folder.glob("*.bad"))) == corrupted
    assert verify(tmp_path).broken == {}


@pytest.mark.parametrize("mmap", [True, False])
def test_a_reader_opened_before_a_compaction_still_reads_after_it(tmp_path: Path, mmap: bool) -> None:
    reader = scattered(tmp_path).reader(ASKED, FeaturesConfig(preload="none", mmap=mmap))
    compact(FeatureStore(tmp_path, SPEC, FileDigests()))
    assert_equal_reads(reader)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("preload", ["none", "ram"])
def test_a_store_opened_before_a_compaction_still_makes_readers_after_it(
    tmp_path: Path, preload: str, mmap: bool
) -> None:
    store = scattered(tmp_path)
    compact(FeatureStore(tmp_path, SPEC, FileDigests()))
    assert_equal_reads(store.reader(ASKED, FeaturesConfig(preload=preload, mmap=mmap)))


def test_a_store_opened_before_a_compaction_compacts_without_loss(tmp_path: Path) -> None:
    late = scattered(tmp_path)
    compact(FeatureStore(tmp_path, SPEC, FileDigests()))
    compact_claimed(late)
    assert len(shard_names(late)) == 1
    assert_equal_reads(FeatureStore(tmp_path, SPEC, FileDigests()).reader(ASKED, FROM_DISK))


class CompactsAtFirst(FileDigests):
    """Compacts the store after its shards were listed and before the first is opened."""

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
def test_a_store_is_compacted_automatically_only_with_many_small_shards(tmp_path: Path, count: int, left: int) -> None:
    store = filled(tmp_path, [[number] for number in range(count)])
    compact_if_many(store)
    assert len(shard_names(store)) == left
    assert store.locate([key(number) for number in range(count)]).found.all()


# ------------------------------------------------------------------------------------------- inventory


def test_the_inventory_counts_utterances_shards_bytes_and_broken_shards(tmp_path: Path) -> None:
    described = replace(spec(1), checkpoint="some/model", revision="abc")
    store = filled(tmp_path, [[0, 1, 2], [3]], described)
    store.add([key(9)], [np.zeros((0, DIM), "float32")], {0: "the sound is silent"})
    size = sum(path.stat().st_size for path in store.folder.iterdir())
    (store.folder / f"{'0' * 32}.safetensors").write_bytes(b"not a shard")
    (store.folder / f"{'1' * 32}.safetensors.bad").write_bytes(b"set aside")
    os.utime(store.folder, (1_700_000_000, 1_700_000_000))
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").touch()
    assert inventory(tmp_path) == [
        {
            "folder": described.folder_name,
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


def test_the_spec_of_a_folder_is_read_from_any_valid_shard(tmp_path: Path) -> None:
    described = replace(spec(1), processor={"hop": 10}, media={"sample_rate": 16_000})
    path = write_shard(tmp_path / described.folder_name, described, [key(0)], [entry(0)], {})
    (path.parent / f"{'0' * 32}.safetensors").write_bytes(b"not a shard")
    assert spec_of(path.parent) == described
    path.unlink()
    assert spec_of(path.parent) is None
    assert spec_of(tmp_path / "nowhere") is None
