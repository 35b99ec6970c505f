import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emorec.config.schema import FeaturesConfig
from emorec.features.shard import ShardError, open_shard, write_shard
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.storage.digests import FileDigests

SPEC = FeatureSpec(encoder="LogMel", version=1, dtype="float32")
DIM = 5


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def entry(number: int, dtype: str = "float32") -> np.ndarray:
    generator = np.random.default_rng(number)
    return generator.normal(size=(int(generator.integers(1, 7)), DIM)).astype(dtype)


def filled(root: Path, groups: list[list[int]], spec: FeatureSpec = SPEC) -> FeatureStore:
    store = FeatureStore(root, spec, FileDigests())
    for group in groups:
        store.add([key(number) for number in group], [entry(number, spec.dtype) for number in group], {})
    store.refresh()
    return store


def test_stored_features_are_read_in_any_order(tmp_path: Path) -> None:
    store = filled(tmp_path, [[0, 1, 2], [3, 4], [5]])
    order = [4, 0, 5, 2]
    for reader in (store.reader([key(n) for n in order], FeaturesConfig(resident_bytes=size)) for size in (0, 1 << 20)):
        values, mask = reader.gather(torch.arange(len(order)))
        for row, number in enumerate(order):
            assert torch.equal(values[row][mask[row]], torch.from_numpy(entry(number)))
            assert not values[row][~mask[row]].any()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=8), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_any_batch_of_any_store_is_read(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[int]], seed: int
) -> None:
    store = filled(tmp_path_factory.mktemp("store"), groups)
    asked = random.Random(seed).choices(range(60), k=12)
    stored = {number for group in groups for number in group}
    reader = store.reader(
        [key(number) for number in asked], FeaturesConfig(resident_bytes=seed % 2 << 20, mmap=seed % 3 > 0)
    )
    assert reader.present.tolist() == [number in stored for number in asked]
    indices = torch.randperm(12, generator=torch.Generator().manual_seed(seed))[:7]
    values, mask = reader.gather(indices)
    assert values.shape[:2] == mask.shape
    for row, index in enumerate(indices.tolist()):
        wanted = entry(asked[index]) if asked[index] in stored else np.zeros((0, DIM), "float32")
        assert torch.equal(values[row][mask[row]], torch.from_numpy(wanted))


def test_keys_with_equal_first_eight_bytes_are_distinguished(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, SPEC, FileDigests())
    keys = [b"\1" * 8 + bytes([number]) * 24 for number in range(5)]
    store.add(keys[:4], [entry(number) for number in range(4)], {})
    store.refresh()
    assert store.locate(keys).found.tolist() == [True, True, True, True, False]
    values, mask = store.reader([keys[2]], FeaturesConfig(preload="none")).gather(torch.tensor([0]))
    assert torch.equal(values[0][mask[0]], torch.from_numpy(entry(2)))


def test_half_precision_is_stored_and_read_without_a_cast(tmp_path: Path) -> None:
    spec = FeatureSpec(encoder="LogMel", version=1, dtype="float16")
    store = filled(tmp_path, [[0]], spec)
    assert store.shards[0].values.dtype == np.float16
    values, _ = store.reader([key(0)], FeaturesConfig(preload="none")).gather(torch.tensor([0]))
    assert values.dtype == torch.float16
    assert torch.equal(values[0], torch.from_numpy(entry(0, "float16")))


def test_a_reason_is_stored_instead_of_features(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, SPEC, FileDigests())
    store.add([key(0), key(1)], [np.zeros((0, DIM), "float32"), entry(1)], {0: "the sound is silent"})
    store.refresh()
    assert store.locate([key(0)]).found.all()
    assert store.reasons([key(1), key(0)]) == {key(0): "the sound is silent"}
    assert store.reader([key(0), key(1)], FeaturesConfig(preload="none")).present.tolist() == [False, True]


def test_shards_that_another_process_adds_are_found(tmp_path: Path) -> None:
    first, second = filled(tmp_path, []), filled(tmp_path, [[7]])
    assert not first.locate([key(7)]).found.any()
    first.refresh()
    assert first.locate([key(7)]).found.all()
    assert len(second) == 1


def flip(content: bytearray) -> bytearray:
    content[-3] ^= 0x10
    return content


def lengthen_header(content: bytearray) -> bytearray:
    content[:8] = (1 << 60).to_bytes(8, "little")
    return content


DAMAGE: dict[str, Callable[[bytearray], bytearray]] = {
    "a flipped bit": flip,
    "a cut": lambda content: content[: len(content) // 2],
    "a tail of zeros": lambda content: content[:-20] + bytes(20),
    "nothing left": lambda content: bytearray(),
    "a header of an exabyte": lengthen_header,
    "text": lambda content: bytearray(b"not a shard"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_shard_is_set_aside_and_its_features_are_absent(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(tmp_path, [[0], [1]])
    path = store.shards[0].path
    lost = store.shards[0].keys[0].tobytes()
    path.write_bytes(bytes(DAMAGE[damage](bytearray(path.read_bytes()))))
    again = FeatureStore(tmp_path, SPEC, FileDigests())
    assert again.locate([key(0), key(1)]).found.sum() == 1
    assert not again.locate([lost]).found.any()
    assert not path.exists()
    assert path.name in caplog.text


@pytest.mark.parametrize("damage", ["a cut", "nothing left", "a header of an exabyte", "text"])
def test_a_malformed_file_is_a_shard_error(tmp_path: Path, damage: str) -> None:
    path = write_shard(tmp_path, SPEC, [key(0)], [entry(0)], {})
    path.write_bytes(bytes(DAMAGE[damage](bytearray(path.read_bytes()))))
    with pytest.raises(ShardError):
        open_shard(path)


def test_a_shard_of_another_spec_is_refused(tmp_path: Path) -> None:
    other = FeatureSpec(encoder="LogMel", version=2, dtype="float32")
    write_shard(tmp_path / SPEC.folder_name, other, [key(0)], [entry(0)], {})
    assert len(FeatureStore(tmp_path, SPEC, FileDigests())) == 0


def test_equal_entries_are_stored_as_equal_bytes(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a", SPEC, [key(0)], [entry(0)], {})
    second = write_shard(tmp_path / "b", SPEC, [key(0)], [entry(0)], {})
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
