"""A group reads what its members write, whatever their umasks are: the bits follow the store's root."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from emorec.cli import main
from emorec.features.computation import ExtractionSettings
from emorec.features.extraction import CLAIM as EXTRACTION_CLAIM
from emorec.features.extraction import extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.training.callbacks.save_states import AtomicCheckpointIO
from emorec.storage.claims import try_claim
from emorec.storage.digests import FileDigests
from tests.faults.conftest import Crew, Noise, texts
from tests.runs.test_checkpoint_store import WEIGHTS, record

pytestmark = pytest.mark.faults

GROUP = 0o070
RUN = "aaaaaaaaaaaa"


def fill(root: Path, umask: int) -> None:
    """Writes each kind of file that the two stores know; claims are left held, as by a process that died."""
    os.umask(umask)
    sound = root.parent / "sound.wav"
    sound.write_bytes(b"its digest is kept")
    digests = FileDigests(root / "cache" / "digests.tsv")
    digests.digest(sound)
    store = FeatureStore(root / "cache", FeatureSpec(**Noise().spec()), digests)
    extract(store, Noise(), texts(5), ExtractionSettings(device="cpu"))
    assert try_claim(store.folder / EXTRACTION_CLAIM) is not None

    checkpoints = CheckpointStore(root / "checkpoints")
    folder = checkpoints.prepare(RUN, keep_resume=False)
    assert try_claim(folder / "claim.json") is not None
    checkpoints.write(record(RUN, weights=checkpoints.publish(RUN, WEIGHTS)))
    AtomicCheckpointIO().save_checkpoint({"numbers": torch.zeros(3)}, folder / "resume" / "000000000001.ckpt")


def misfits(root: Path) -> tuple[int, list[str]]:
    """How many files and folders there are, and those whose group may do less or more than the root's."""
    given, strange, count = stat.S_IMODE(root.stat().st_mode), [], 0
    for path in root.rglob("*"):
        if path.is_symlink():
            assert path.exists(), path
            continue
        count += 1
        mode = stat.S_IMODE(path.stat().st_mode)
        mask = GROUP | stat.S_ISGID if path.is_dir() else GROUP & 0o666
        if mode & mask != given & mask:
            strange.append(f"{mode:o} {path.relative_to(root)}")
    return count, strange


@pytest.mark.parametrize("folder_mode", [0o770, 0o2775, 0o750], ids=oct)
@pytest.mark.parametrize("umask", [0o027, 0o002, 0o077], ids=oct)
def test_all_that_the_stores_write_carries_the_group_bits_of_their_root(
    tmp_path: Path, crew: Crew, umask: int, folder_mode: int
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(folder_mode)
    crew.start(fill, root, umask)
    crew.finish()
    count, strange = misfits(root)
    print(f"umask={umask:03o} folder={folder_mode:o} files_and_folders={count} misfits={len(strange)}")
    names = {path.name for path in root.rglob("*")}
    assert {"digests.tsv", EXTRACTION_CLAIM, "claim.json", "run.json", "head.safetensors", "weights"} <= names
    assert list(root.glob("cache/*/*.safetensors"))
    assert list(root.glob(f"checkpoints/{RUN}/resume/*.ckpt"))
    assert strange == []


@pytest.fixture
def closed_umask() -> Iterator[None]:
    """A colleague who lets nobody read anything."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_all_that_a_training_leaves_carries_the_group_bits_of_the_root(
    root: Path, train_overrides: list[str], closed_umask: None
) -> None:
    root.chmod(0o2775)
    assert main(["train", *train_overrides, "encoder/video=none"]) == 0
    count, strange = misfits(root)
    print(f"umask=077 folder=2775 files_and_folders={count} misfits={len(strange)}")
    assert count > 10
    assert strange == []
