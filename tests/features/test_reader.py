"""All ways to read features give equal batches; mapped features are leased and not copied."""

import gc
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from emorec.config.schema import FeaturesConfig
from emorec.config.validation import validated
from emorec.errors import UserError
from emorec.features.reader import FeatureReader
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.storage.digests import FileDigests
from emorec.storage.leases import SUFFIX
from tests.features.test_store import DIM, filled, key

GROUPS = ((0, 1, 2, 3), (4,), (5, 6, 7))  # one shard each
BAD = 8  # an entry with a reason instead of rows, in its own shard
UNKNOWN = 9  # never stored
ORDER = (6, 0, UNKNOWN, 4, 3, 3, BAD, None, 7, 1)  # the key at each index
PRELOADS = ("auto", "none", "ram", "device")
SMAPS = Path("/proc/self/smaps")


def rows_of(number: int, longest: int, dtype: str) -> NDArray[np.generic]:
    """(T, D) of an entry, T from 1 to `longest`."""
    generator = np.random.default_rng(number)
    return generator.normal(size=(1 + number % longest, DIM)).astype(dtype)


def make_store(root: Path, *, longest: int = 4, dtype: str = "float32") -> FeatureStore:
    store = FeatureStore(root, FeatureSpec(encoder="LogMel", version=1, dtype=dtype), FileDigests())
    for group in GROUPS:
        store.add([key(number) for number in group], [rows_of(number, longest, dtype) for number in group], {})
    store.add([key(BAD)], [np.zeros((0, DIM), dtype)], {0: "the sound is silent"})
    store.refresh()
    return store


def open_reader(store: FeatureStore, settings: FeaturesConfig) -> FeatureReader:
    return store.reader([None if number is None else key(number) for number in ORDER], settings)


def expected(indices: Sequence[int], longest: int, dtype: str) -> tuple[Tensor, Tensor]:
    """The batch of some utterances, padded one by one."""
    empty = np.zeros((0, DIM), dtype)
    stored = {number for group in GROUPS for number in group}
    rows = [
        rows_of(n, longest, dtype) if (n := ORDER[index]) in stored and n is not None else empty for index in indices
    ]
    frames = max(1, *(len(item) for item in rows))
    values, mask = np.zeros((len(rows), frames, DIM), dtype), np.zeros((len(rows), frames), bool)
    for index, item in enumerate(rows):
        values[index, : len(item)], mask[index, : len(item)] = item, True
    return torch.from_numpy(values), torch.from_numpy(mask)


def leases(store_folder: Path) -> list[str]:
    return sorted(path.name for path in store_folder.glob(f"*{SUFFIX}"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("longest", [1, 4])
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("preload", PRELOADS)
def test_every_way_to_read_gives_equal_batches(
    tmp_path: Path, preload: str, mmap: bool, longest: int, dtype: str
) -> None:
    reader = open_reader(make_store(tmp_path, longest=longest, dtype=dtype), FeaturesConfig(preload=preload, mmap=mmap))
    assert reader.present.tolist() == [number not in (None, BAD, UNKNOWN) for number in ORDER]
    everything = tuple(range(len(ORDER)))
    batches = [
        everything,
        everything[::-1],
        (4, 5),  # one utterance twice
        (1, 4, 9),  # of one shard
        (3, 3),
        (2, 6, 7),  # all absent
        (2,),
        (0,),
    ]
    for indices in batches:
        values, mask = reader.gather(torch.tensor(indices))
        wanted, wanted_mask = expected(indices, longest, dtype)
        assert values.dtype == wanted.dtype
        assert torch.equal(mask.cpu(), wanted_mask), indices
        assert torch.equal(values.cpu(), wanted), indices


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("preload", PRELOADS)
@pytest.mark.parametrize("longest", [1, 4])
def test_every_way_to_read_gives_equal_batches_without_absent_features(
    tmp_path: Path, longest: int, preload: str, mmap: bool
) -> None:
    store = make_store(tmp_path, longest=longest)
    present = [index for index, number in enumerate(ORDER) if number not in (None, BAD, UNKNOWN)]
    keys = [key(number) for number in ORDER if number not in (None, BAD, UNKNOWN)]
    reader = store.reader(keys, FeaturesConfig(preload=preload, mmap=mmap))
    for indices in ([0, 1, 2, 3, 4, 5, 6], [6, 0, 0], [2]):
        values, mask = reader.gather(torch.tensor(indices))
        wanted, wanted_mask = expected([present[index] for index in indices], longest, "float32")
        assert torch.equal(mask.cpu(), wanted_mask), indices
        assert torch.equal(values.cpu(), wanted), indices
        values.fill_(7.0)  # changing a batch must not change the store


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("preload", PRELOADS)
def test_a_store_without_features_reads_as_absent(tmp_path: Path, preload: str, mmap: bool) -> None:
    reader = filled(tmp_path, []).reader([key(0), None], FeaturesConfig(preload=preload, mmap=mmap))
    assert not reader.present.any()
    values, mask = reader.gather(torch.tensor([0, 1]))
    assert mask.shape == (2, 1)
    assert not mask.any()
    assert values.shape[:2] == (2, 1)


def test_an_unknown_preload_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"features\.preload") as caught:
        validated(FeaturesConfig, {"preload": "disk"}, path="features")
    assert "'disk'" in str(caught.value)
    assert all(repr(name) in str(caught.value) for name in PRELOADS)


@pytest.mark.parametrize("mmap", [True, False])
def test_features_on_disk_are_leased_until_their_reader_is_deleted(tmp_path: Path, mmap: bool) -> None:
    store = make_store(tmp_path)
    folder = store.folder
    reader = open_reader(store, FeaturesConfig(preload="none", mmap=mmap))
    another = open_reader(store, FeaturesConfig(preload="none", mmap=mmap))
    assert len(leases(folder)) == 1
    del store, another
    gc.collect()
    assert len(leases(folder)) == 1, "the reader still exists"
    assert reader.gather(torch.tensor([0]))[1].any()
    del reader
    gc.collect()
    assert leases(folder) == []


@pytest.mark.parametrize("preload", ["ram", "device", "auto"])
def test_loaded_features_need_no_lease(tmp_path: Path, preload: str) -> None:
    store = make_store(tmp_path)
    reader = open_reader(store, FeaturesConfig(preload=preload))
    assert leases(store.folder) == []
    assert reader.present.any()


def test_auto_loads_features_up_to_a_size_and_leaves_larger_ones_on_disk(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    size = open_reader(store, FeaturesConfig(preload="ram")).nbytes
    numbers = [number for number in ORDER if number is not None and number < BAD]
    assert size == sum(rows_of(number, 4, "float32").nbytes for number in numbers)
    open_reader(store, FeaturesConfig(preload="auto", resident_bytes=size))
    assert leases(store.folder) == []
    reader = open_reader(store, FeaturesConfig(preload="auto", resident_bytes=size - 1))
    assert len(leases(store.folder)) == 1
    assert reader.nbytes == size


@pytest.mark.parametrize("mmap", [True, False])
def test_loaded_features_do_not_need_their_files(tmp_path: Path, mmap: bool) -> None:
    store = make_store(tmp_path)
    reader = open_reader(store, FeaturesConfig(preload="ram", mmap=mmap))
    for path in store.folder.iterdir():
        path.write_bytes(b"")
        path.unlink()
    assert torch.equal(reader.gather(torch.arange(len(ORDER)))[0], expected(range(len(ORDER)), 4, "float32")[0])


def tensor_bytes(reader: FeatureReader) -> int:
    """Bytes of all tensors that a reader holds, in lists too."""
    held = [item for value in vars(reader).values() for item in (value if isinstance(value, list) else [value])]
    return sum(item.nbytes for item in held if isinstance(item, Tensor))


@pytest.mark.parametrize("longest", [1, 4])
@pytest.mark.parametrize("mmap", [True, False])
def test_reading_from_disk_keeps_nothing_in_the_reader(tmp_path: Path, longest: int, mmap: bool) -> None:
    reader = open_reader(make_store(tmp_path, longest=longest), FeaturesConfig(preload="none", mmap=mmap))
    before, names = tensor_bytes(reader), set(vars(reader))
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        reader.gather(torch.randint(len(ORDER), (6,), generator=generator))
    assert tensor_bytes(reader) == before
    assert set(vars(reader)) == names


def copied_pages(paths: Sequence[str]) -> dict[str, int]:
    """{file: size in kB of the mapped pages that this process has copied by writing}."""
    sizes, current = dict[str, int](), None
    for line in SMAPS.read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = line.split(maxsplit=5)[-1]
            current = name if name in paths else None
        elif current is not None and line.startswith("Anonymous:"):
            sizes[current] = sizes.get(current, 0) + int(line.split()[1])
    return sizes


@pytest.mark.skipif(not SMAPS.exists(), reason="the system does not report its mappings")
@pytest.mark.parametrize("longest", [1, 4])
def test_no_page_of_a_mapped_file_is_copied_by_reading(tmp_path: Path, longest: int) -> None:
    store = make_store(tmp_path, longest=longest)
    reader = open_reader(store, FeaturesConfig(preload="none"))
    shards = [shard for shard in store.shards if len(shard.values)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        values, _ = reader.gather(torch.randint(len(ORDER), (6,), generator=generator))
        values.fill_(7.0)  # changing a batch must not change the store
    paths = [os.path.realpath(shard.path) for shard in shards]
    assert copied_pages(paths) == dict.fromkeys(paths, 0)
    shards[0].values[0] = 7.0
    assert copied_pages(paths)[paths[0]] > 0, "a copy is measured"
