"""The mode of files follows the root of the store and not the umask, so that a group can share it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from emorec.cli import main
from emorec.config.schema import ExtractionConfig
from emorec.features.extraction import CLAIM as EXTRACTION_CLAIM
from emorec.features.extraction import extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.storage.claims import try_claim
from emorec.storage.digests import FileDigests
from emorec.training.states import AtomicCheckpointIO
from tests.faults.conftest import Crew, Noise, texts
from tests.runs.test_checkpoint_store import WEIGHTS, record

pytestmark = pytest.mark.faults

GROUP = 0o070
RUN = "aaaaaaaaaaaa"


def fill(root: Path, umask: int) -> None:
    """Writes each kind of file of the two stores; the claims remain, as those of a killed process."""
    os.umask(umask)
    sound = root.parent / "sound.wav"
    sound.write_bytes(b"its digest is kept")
    digests = FileDigests(root / "cache" / "digests.tsv")
    digests.digest(sound)
    store = FeatureStore(root / "cache", FeatureSpec(**Noise().spec()), digests)
    extract(store, Noise(), texts(5), ExtractionConfig(device="cpu"))
    assert try_claim(store.folder / EXTRACTION_CLAIM) is not None

    checkpoints = CheckpointStore(root / "checkpoints")
    folder = checkpoints.prepare(RUN, keep_resume=False)
    assert try_claim(folder / "claim.json") is not None
    checkpoints.write(record(RUN, weights=checkpoints.publish(RUN, WEIGHTS)))
    AtomicCheckpointIO().save_checkpoint({"numbers": torch.zeros(3)}, folder / "resume" / "000000000001.ckpt")


def wrong_modes(root: Path) -> tuple[int, list[str]]:
    """The number of files and folders, and those with other group permissions than the root."""
    expected, misfits, count = stat.S_IMODE(root.stat().st_mode), [], 0
    for path in root.rglob("*"):
        if path.is_symlink():
            assert path.exists(), path
            continue
        count += 1
        mode = stat.S_IMODE(path.stat().st_mode)
        mask = GROUP | stat.S_ISGID if path.is_dir() else GROUP & 0o666
        if mode & mask != expected & mask:
            misfits.append(f"{mode:o} {path.relative_to(root)}")
    return count, misfits


@pytest.mark.parametrize("folder_mode", [0o770, 0o2775, 0o750], ids=oct)
@pytest.mark.parametrize("umask", [0o027, 0o002, 0o077], ids=oct)
def test_all_files_of_the_stores_have_the_group_bits_of_their_root(
    tmp_path: Path, crew: Crew, umask: int, folder_mode: int
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(folder_mode)
    crew.start(fill, root, umask)
    crew.finish()
    count, wrong = wrong_modes(root)
    print(f"umask={umask:03o} folder={folder_mode:o} files_and_folders={count} wrong={len(wrong)}")
    names = {path.name for path in root.rglob("*")}
    assert {"digests.tsv", EXTRACTION_CLAIM, "claim.json", "run.json", "head.safetensors", "weights"} <= names
    assert list(root.glob("cache/*/*.safetensors"))
    assert list(root.glob(f"checkpoints/{RUN}/resume/*.ckpt"))
    assert wrong == []


@pytest.fixture
def closed_umask() -> Iterator[None]:
    """A umask that removes all permissions of others."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_all_files_of_a_training_have_the_group_bits_of_the_root(
    root: Path, train_overrides: list[str], closed_umask: None
) -> None:
    root.chmod(0o2775)
    assert main(["train", *train_overrides, "encoder/video=none"]) == 0
    count, wrong = wrong_modes(root)
    print(f"umask=077 folder=2775 files_and_folders={count} wrong={len(wrong)}")
    assert count > 10
    assert wrong == []
