"""Folders can be listed and removed while other processes remove their content."""

import os
import shutil
from pathlib import Path

import pytest

from emorec.storage.folders import keep_modification_time, list_folder, list_tree, remove_tree


def test_a_folder_is_listed_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.bin"):
        (tmp_path / name).touch()
    assert [path.name for path in list_folder(tmp_path)] == ["a.txt", "b.txt", "c.bin"]
    assert [path.name for path in list_folder(tmp_path, "*.txt")] == ["a.txt", "b.txt"]


def test_a_missing_folder_and_a_file_are_listed_as_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        assert list_folder(path) == []
        assert list_folder(path, "*/run.json") == []
        assert list_tree(path) == []


def test_a_folder_that_vanishes_while_it_is_listed_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, scandir = tmp_path / "folder", os.scandir
    folder.mkdir()

    def remove_first(path: str) -> object:
        folder.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", remove_first)
    assert list_folder(folder) == []


def test_a_tree_is_listed_without_folders_that_vanish_and_without_following_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "a", root / "gone", outside):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (root / "link").symlink_to(outside)
    everything = {"a", "a/file", "gone", "gone/file", "link"}
    assert {str(path.relative_to(root)) for path in list_tree(root)} == everything
    scandir = os.scandir

    def remove_first(path: str) -> object:
        if path == str(root / "gone"):
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", remove_first)
    assert {str(path.relative_to(root)) for path in list_tree(root)} == everything - {"gone/file"}


def test_a_tree_is_removed_while_another_process_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    calls = []

    def removed_by_another(path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            remove(folder / "a")
            raise FileNotFoundError(2, "No such file or directory")
        remove(path)

    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", removed_by_another)
    remove_tree(folder)
    assert not folder.exists()
    assert len(calls) == 2
    remove_tree(folder)
    assert len(calls) == 2


def test_the_modification_time_of_a_folder_is_kept(tmp_path: Path) -> None:
    os.utime(tmp_path, (1_700_000_000, 1_700_000_000))
    with keep_modification_time(tmp_path):
        (tmp_path / "file").touch()
    assert tmp_path.stat().st_mtime == 1_700_000_000
