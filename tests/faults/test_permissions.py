"""The mode of files follows the root of the store and not the umask, so that a group can share it."""

import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from emorec.cli import main
from emorec.config.schema import ExtractionConfig
from emorec.datasets.demo import make_corpus
from emorec.features.extraction import extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import CLAIM as EXTRACTION_CLAIM
from emorec.features.store import FeatureStore
from emorec.loggers.wandb import tidy
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.runs.logs import log_to
from emorec.storage.atomic import make_folder
from emorec.storage.claims import try_claim
from emorec.storage.digests import FileDigests
from emorec.training.states import AtomicCheckpointIO, newest_state
from tests.faults.conftest import Crew, Noise, Unloadable, texts
from tests.runs.test_checkpoint_store import WEIGHTS, record

pytestmark = pytest.mark.faults

GROUP = 0o070
RUN = "aaaaaaaaaaaa"


@pytest.fixture
def root(empty_root: Path) -> Path:
    """Without features, so that what is written is seen."""
    return empty_root


def fill(root: Path, umask: int) -> None:
    """Writes each kind of file of the two stores; the claims remain, as those of a killed process."""
    os.umask(umask)
    sound = root.parent / f"sound{os.getuid()}.wav"
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
        if path == root / "data":  # of the fixture
            continue
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


USERS = (20_001, 20_002)
LAB = 20_000  # their group


@pytest.fixture
def lab() -> Iterator[Path]:
    """A folder of a group, where other users can reach it, as the temporary folders of tests cannot be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        folder = Path(name) / "lab"
        folder.mkdir()
        os.chown(folder, USERS[0], LAB)
        folder.chmod(0o2775)
        yield folder


def as_user(user: int, work: Callable[..., object], *arguments: object) -> None:
    """Works as another user with a closed umask."""
    os.setgroups([LAB])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.umask(0o077)
    work(*arguments)


def leave(root: Path) -> None:
    """Leaves a run as a killed training does, with files of a tracker that its own process had not shared yet."""
    fill(root, 0o077)
    folder = root / "checkpoints" / RUN
    with log_to(folder / "log.txt"):
        logging.getLogger("emorec").warning("the first start")
    make_folder(folder / "wandb")
    (folder / "wandb" / "private.wandb").touch()


def go_on(root: Path) -> None:
    """Goes on with another user's run, features and weights."""
    folder = root / "checkpoints" / RUN
    with log_to(folder / "log.txt"):
        logging.getLogger("emorec").warning("the second start")
    (folder / "wandb" / "own.wandb").touch()
    tidy(folder)
    assert newest_state(folder / "resume") is not None
    store = FeatureStore(root / "cache", FeatureSpec(**Noise().spec()), FileDigests())
    assert extract(store, Unloadable(), texts(5), ExtractionConfig(device="cpu")).found == 5
    fill(root, 0o077)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")
def test_a_colleague_goes_on_with_what_another_user_has_left(lab: Path, tmp_path: Path, crew: Crew) -> None:
    for work in (leave, go_on):
        crew.start(work, tmp_path / "rehearsal")  # imports what a child that is another user may not read
        crew.finish()
    for user, work in zip(USERS, (leave, go_on), strict=True):
        crew.start(as_user, user, work, lab)
        crew.finish()
    log_file = lab / "checkpoints" / RUN / "log.1.txt"  # the other start is from scratch
    assert [line.rpartition(" the ")[2] for line in log_file.read_text().splitlines()] == [
        "first start",
        "second start",
    ]
    owners = {path.lstat().st_uid for path in lab.rglob("*")}
    assert owners == set(USERS)
    assert wrong_modes(lab)[1] == ["600 checkpoints/aaaaaaaaaaaa/wandb/private.wandb"], "which only its owner can share"
    assert {path.lstat().st_gid for path in lab.rglob("*")} == {LAB}


def test_the_demo_corpus_has_the_mode_of_its_folder(tmp_path: Path, closed_umask: None) -> None:
    tmp_path.chmod(0o2775)
    make_corpus(tmp_path / "version_1", speakers=1, clips_per_speaker=1)
    assert wrong_modes(tmp_path) == (6, [])


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
