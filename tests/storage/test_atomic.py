"""Files are complete or absent, and their mode does not depend on the umask of the process."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emorec.storage.atomic import (
    follow_folder_mode,
    make_folder,
    remove_orphans,
    replacing,
    share,
    sync_tree,
    write_bytes,
    write_json,
    write_text,
)
from tests.conftest import REPOSITORY

DAY = 24 * 3600.0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def set_umask() -> Iterator[Callable[[int], object]]:
    """Sets the umask of this process until the test ends."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


def test_writing_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"\x00\x01")
    write_text(tmp_path / "b.txt", "naïve – ü")
    write_json(tmp_path / "c.json", {"é": [1, 2]})

    assert names(tmp_path) == ["a.bin", "b.txt", "c.json"]
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\x01"
    assert (tmp_path / "b.txt").read_text(encoding="utf-8") == "naïve – ü"
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == {"é": [1, 2]}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_exception_while_writing_leaves_neither_file_nor_temporary(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def half_a_write() -> None:
        with replacing(tmp_path / "new.bin") as temporary:
            temporary.write_bytes(b"half of it")
            raise error("interrupted")

    with pytest.raises(error, match="interrupted"):
        half_a_write()
    assert names(tmp_path) == []


def test_the_old_content_survives_an_exception_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")

    def half_a_write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise ValueError("interrupted")

    with pytest.raises(ValueError, match="interrupted"):
        half_a_write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["kept.txt"]


def test_the_file_does_not_exist_before_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "whole.txt"
    with replacing(path) as temporary:
        temporary.write_text("part")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same filesystem, or the rename would be a copy
    assert path.read_text() == "part"


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "kept.txt", "old")

    def no_write() -> None:
        with replacing(tmp_path / "kept.txt"):
            pass

    with pytest.raises(FileNotFoundError):
        no_write()
    assert (tmp_path / "kept.txt").read_text() == "old"


def test_a_killed_writer_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom emorec.storage.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('ne')\n    print('written', flush=True)\n    time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer:
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)

    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2, "the temporary file remains"
    (orphan,) = remove_orphans(tmp_path, grace=-1.0)
    assert not orphan.exists()
    assert names(tmp_path) == ["kept.txt"]


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o2775, 0o664), (0o750, 0o640), (0o700, 0o600)])
def test_the_mode_of_a_file_follows_its_folder_and_not_the_umask(
    tmp_path: Path, set_umask: Callable[[int], object], umask: int, folder_mode: int, file_mode: int
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(folder_mode)
    set_umask(umask)
    write_text(folder / "a.txt", "text")
    assert oct(mode(folder / "a.txt")) == oct(file_mode)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_nested_folders_have_the_mode_of_their_parent(
    tmp_path: Path, set_umask: Callable[[int], object], umask: int
) -> None:
    top = tmp_path / "shared"
    top.mkdir()
    top.chmod(0o2775)
    set_umask(umask)
    nested = make_folder(top / "a" / "b" / "c")
    assert nested == top / "a" / "b" / "c"
    assert {oct(mode(path)) for path in (top / "a", top / "a" / "b", nested)} == {oct(0o2775)}


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files and folders that are flushed, in order."""
    paths: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: paths.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    return paths


def test_the_entries_of_new_folders_reach_disk(tmp_path: Path, flushed: list[Path]) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_a_tree_is_flushed_without_what_its_links_lead_to(tmp_path: Path, flushed: list[Path]) -> None:
    outside = tmp_path / "outside.bin"
    outside.touch()
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "b.bin").touch()
    (tmp_path / "tree" / "link").symlink_to(outside)
    sync_tree(tmp_path / "tree")
    assert set(flushed) == {tmp_path / "tree", tmp_path / "tree" / "a", tmp_path / "tree" / "a" / "b.bin"}


def test_what_others_wrote_into_a_folder_is_shared_and_links_are_not_followed(
    tmp_path: Path, set_umask: Callable[[int], object]
) -> None:
    outside = tmp_path / "bashrc"
    outside.touch(0o600)
    tmp_path.chmod(0o2775)
    set_umask(0o077)
    (tmp_path / "wandb" / "media").mkdir(parents=True)
    (tmp_path / "wandb" / "media" / "image.png").touch()
    (tmp_path / "wandb" / "link").symlink_to(outside)
    os.mkfifo(tmp_path / "wandb" / "fifo", 0o600)
    share(tmp_path / "wandb")
    follow_folder_mode(tmp_path / "wandb" / "link")
    assert oct(mode(tmp_path / "wandb" / "media")) == oct(0o2775)
    assert oct(mode(tmp_path / "wandb" / "media" / "image.png")) == oct(0o664)
    assert oct(mode(outside)) == oct(0o600)
    assert oct(mode(tmp_path / "wandb" / "fifo")) == oct(0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other groups")
def test_a_file_that_was_moved_into_a_shared_folder_gets_its_group(tmp_path: Path) -> None:
    os.chown(tmp_path, -1, 2000)
    tmp_path.chmod(0o2775)
    elsewhere = tmp_path / "image.png"
    elsewhere.touch()
    os.chown(elsewhere, -1, 0)
    follow_folder_mode(elsewhere)
    assert elsewhere.stat().st_gid == 2000
    assert make_folder(tmp_path / "new").stat().st_gid == 2000


def test_an_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    folder.chmod(0o710)
    make_folder(folder)
    assert oct(mode(folder)) == oct(0o710)


def test_writing_creates_missing_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "text")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"


def aged(path: Path, seconds: float) -> Path:
    """Sets the age of a file."""
    status = path.stat()
    os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))
    return path


def orphan_in(folder: Path, name: str) -> Path:
    """The temporary file that a killed writer of `name` leaves."""
    with replacing(folder / name) as temporary:
        temporary.write_text("half")
        left = temporary.name
    (folder / name).rename(folder / left)
    return folder / left


def test_only_orphans_older_than_the_grace_are_removed(tmp_path: Path) -> None:
    young = aged(orphan_in(tmp_path, "young.bin"), 100.0)
    old = aged(orphan_in(tmp_path, "old.bin"), 300.0)
    assert remove_orphans(tmp_path, grace=200.0) == [old]
    assert young.exists()
    assert not old.exists()


def test_the_default_grace_is_a_day(tmp_path: Path) -> None:
    young = aged(orphan_in(tmp_path, "young.bin"), DAY - 3600.0)
    old = aged(orphan_in(tmp_path, "old.bin"), DAY + 3600.0)
    assert remove_orphans(tmp_path) == [old]
    assert young.exists()


def test_removing_orphans_touches_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    kept = [
        tmp_path / "model.safetensors",
        tmp_path / "notes.tmp",
        tmp_path / ".hidden",
        tmp_path / ".tmp.txt",
        tmp_path / "inner" / ".a.0123.tmp",
    ]
    for path in kept:
        path.write_text("kept")
        aged(path, 10 * DAY)
    orphan = aged(orphan_in(tmp_path, "model.safetensors.part"), 10 * DAY)
    assert remove_orphans(tmp_path) == [orphan]
    assert [path.read_text() for path in kept] == ["kept"] * len(kept)


def test_an_old_draft_folder_does_not_stop_the_removal_of_orphans(tmp_path: Path) -> None:
    draft = tmp_path / ".version_1.0123456789abcdef0123456789abcdef.tmp"
    draft.mkdir()
    aged(draft, 10 * DAY)
    orphan = aged(orphan_in(tmp_path, "a.bin"), 10 * DAY)
    assert orphan in remove_orphans(tmp_path)
    assert not orphan.exists()
