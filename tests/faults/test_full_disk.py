"""A full disk: one clear line, no partial file, and the same command works once there is space."""

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from emorec.cli import main
from emorec.features import computation
from emorec.features.store import CLAIM
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.training.states import AtomicCheckpointIO, newest_state
from tests.faults.conftest import Noise, leftovers, open_store, run_extraction, texts, wrong_features
from tests.runs.test_checkpoint_store import record

pytestmark = pytest.mark.faults

DISK_BYTES = 64 << 20
BALLAST = "ballast"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "emorec-faults", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounts are refused: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leave: int) -> None:
    """Fills the disk except for `leave` bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / BALLAST).open("wb") as stream:
        if free > leave:
            os.posix_fallocate(stream.fileno(), 0, free - leave)


def free_space(disk: Path) -> None:
    (disk / BALLAST).unlink()


def test_an_extraction_that_fills_the_disk_keeps_complete_shards_only(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computation, "PUBLISH_BYTES", 3 << 20)
    encoder, sources, cache = Noise(dim=40_000), texts(80), disk / "cache"  # 0.5 MB each
    fill(disk, leave=16 << 20)
    with pytest.raises(OSError, match="No space left") as caught:
        run_extraction(cache, encoder, sources)
    assert caught.value.errno == errno.ENOSPC
    store = open_store(cache, encoder)
    files = [path.name for path in store.folder.iterdir()]
    kept = len(store)
    partial, broken = leftovers(cache), [name for name in files if name.endswith(".bad")]
    claims = [name for name in files if name == CLAIM]
    free_space(disk)
    store, report = run_extraction(cache, encoder, sources)
    wrong = wrong_features(store, encoder, sources)
    print(
        f"kept={kept} partial={len(partial)} broken={len(broken)} afterwards: found={report.found} "
        f"computed={report.computed} wrong={wrong}"
    )
    assert (partial, broken, claims) == ([], [], [])
    assert 0 < kept == report.found < 80
    assert report.found + report.computed == 80
    assert wrong == 0


@pytest.fixture
def extract_words(disk: Path, root: Path, small_demo: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that extracts to the small disk, in several shards."""
    monkeypatch.setattr(computation, "PUBLISH_BYTES", 64 << 10)
    words = ["extract", f"dataset.root={small_demo}", "encoder/text=none", "encoder/video=none"]
    return [*words, "encoder/audio=log_mel", f"paths.cache={disk}/cache"]


@pytest.mark.parametrize("leave", [0, 12 << 10, 200 << 10])
def test_a_command_on_a_full_cache_ends_in_one_line(
    disk: Path, extract_words: list[str], capsys: pytest.CaptureFixture[str], leave: int
) -> None:
    fill(disk, leave=leave)
    code = main(extract_words)
    lines = capsys.readouterr().err.strip().splitlines()
    shards = list(disk.glob("cache/*/*.safetensors"))
    whole = [path for path in shards if hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem)]
    partial = leftovers(disk)
    free_space(disk)
    again = main(extract_words)
    out = capsys.readouterr().out
    print(
        f"leave={leave} code={code} lines={len(lines)} shards={len(shards)} whole={len(whole)} partial={len(partial)} "
        f"afterwards: {out.strip()}"
    )
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("emorec extract: ")
    assert "No space left on device" in lines[0]
    assert str(disk) in lines[0], "the message names the path"
    assert len(shards) == len(whole)
    assert partial == []
    assert again == 0
    assert "0 bad" in out


def test_weights_that_do_not_fit_leave_no_file_and_are_published_later(disk: Path) -> None:
    store = CheckpointStore(disk / "checkpoints")
    weights = {name: {"weight": torch.full((1 << 20,), value)} for name, value in (("fusion", 1.0), ("head", 2.0))}
    earlier = record(weights=store.publish("aaaaaaaaaaaa", {"head": {"weight": torch.zeros(3)}}))
    store.write(earlier)
    fill(disk, leave=6 << 20)  # space for one of the two
    with pytest.raises(OSError, match="No space left") as caught:
        store.publish("bbbbbbbbbbbb", weights)
    assert caught.value.errno == errno.ENOSPC
    blobs = list((store.root / "weights").iterdir())
    whole = [path for path in blobs if hashlib.sha256(path.read_bytes()).hexdigest() == path.stem]
    partial = leftovers(disk)
    assert store.load(earlier).keys() == {"head"}
    free_space(disk)
    kept = record("bbbbbbbbbbbb", weights=store.publish("bbbbbbbbbbbb", weights))
    print(f"files={len(blobs)} whole={len(whole)} partial={len(partial)} afterwards: loaded={len(store.load(kept))}")
    assert partial == []
    assert len(blobs) == len(whole)
    assert torch.equal(store.load(kept)["head"]["weight"], weights["head"]["weight"])


def test_a_state_that_does_not_fit_is_an_os_error_and_keeps_the_previous_one(disk: Path) -> None:
    folder, states = disk / "resume", AtomicCheckpointIO()
    states.save_checkpoint({"numbers": torch.zeros(1 << 18)}, folder / "000000000001.ckpt")
    before = newest_state(folder)
    fill(disk, leave=100 << 10)
    with pytest.raises(OSError, match="No space left"):
        states.save_checkpoint({"numbers": torch.ones(1 << 18)}, folder / "000000000002.ckpt")
    print(f"partial={len(leftovers(disk))} files={len(list(folder.iterdir()))}")
    assert leftovers(disk) == []
    assert newest_state(folder) == before
    free_space(disk)
    states.save_checkpoint({"numbers": torch.ones(1 << 18)}, folder / "000000000002.ckpt")
    assert newest_state(folder) != before


@pytest.mark.parametrize("leave", [0, 12 << 10, 60 << 10, 300 << 10])
def test_a_training_on_a_full_disk_ends_in_one_line_and_finishes_later(
    disk: Path, root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str], leave: int
) -> None:
    words = ["train", *train_overrides, "encoder/video=none", "encoder.text.dim=256", "checkpoint.every_seconds=0"]
    assert main(["extract", train_overrides[0], "encoder/video=none", "encoder.text.dim=256"]) == 0
    capsys.readouterr()
    fill(disk, leave=leave)
    words.append(f"paths.checkpoints={disk}/checkpoints")
    code = main(words)
    lines = capsys.readouterr().err.strip().splitlines()
    partial = leftovers(disk)
    free_space(disk)
    again = main(words)
    print(f"leave={leave} code={code} lines={len(lines)} partial={len(partial)} afterwards: code={again}")
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("emorec train: ")
    assert "No space left on device" in lines[0]
    assert str(disk) in lines[0], "the message names the path"
    assert partial == []
    assert again == 0
    (run,) = CheckpointStore(disk / "checkpoints").records()
    assert run.status == "finished"
