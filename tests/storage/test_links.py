"""Links are relative, are replaced atomically, and are copies on filesystems without links."""

import threading
from pathlib import Path

import pytest

from emorec.storage.links import link_relative


def test_a_link_is_relative(tmp_path: Path) -> None:
    target = tmp_path / "weights" / "a.bin"
    target.parent.mkdir()
    target.write_bytes(b"a")
    link = tmp_path / "runs" / "one" / "model.bin"
    assert link_relative(target, link)
    assert link.readlink() == Path("..", "..", "weights", "a.bin")
    assert link.read_bytes() == b"a"


def test_a_link_works_in_a_moved_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "weights").mkdir(parents=True)
    (tree / "weights" / "a.bin").write_bytes(b"a")
    link_relative(tree / "weights" / "a.bin", tree / "runs" / "model.bin")
    tree.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "runs" / "model.bin").read_bytes() == b"a"


def test_a_target_can_be_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.bin").write_bytes(b"a")
    link_relative(Path("a.bin"), tmp_path / "runs" / "model.bin")
    assert (tmp_path / "runs" / "model.bin").read_bytes() == b"a"


def test_a_link_is_never_absent_while_it_is_replaced(tmp_path: Path) -> None:
    targets = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for target in targets:
        target.write_bytes(target.name.encode())
    link = tmp_path / "latest"
    link_relative(targets[0], link)
    seen: set[bytes] = set()
    absent: list[OSError] = []
    done, started = threading.Event(), threading.Event()

    def poll() -> None:
        while not done.is_set():
            try:
                seen.add(link.read_bytes())
            except OSError as error:
                absent.append(error)
            started.set()

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        assert started.wait(30)
        for number in range(300):
            link_relative(targets[number % 2], link)
    finally:
        done.set()
        reader.join()
    assert absent == []
    assert seen <= {b"a.bin", b"b.bin"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.bin", "latest"]


def test_a_file_at_the_path_of_the_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"a")
    (tmp_path / "link").write_bytes(b"old")
    assert link_relative(tmp_path / "a.bin", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_bytes() == b"a"


def test_a_copy_is_made_on_a_filesystem_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    target, link = tmp_path / "a.bin", tmp_path / "deep" / "link"
    target.write_bytes(b"a")
    link_relative(tmp_path / "another", link)  # an older link, which the copy replaces
    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert not link_relative(target, link)
    assert not link.is_symlink()
    assert link.read_bytes() == b"a"
    assert [path.name for path in link.parent.iterdir()] == ["link"]


def test_a_link_that_cannot_be_placed_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"a")
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        link_relative(tmp_path / "a.bin", tmp_path / "deep" / "folder")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["folder"]
