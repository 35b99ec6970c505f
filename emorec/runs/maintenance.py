"""Maintenance of a checkpoint store: verify, collect weights, remove and export runs."""

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from emorec.errors import UserError
from emorec.runs.checkpoint_store import CLAIM, CheckpointStore, RunRecord, read_record, run_folders
from emorec.runs.weights import DOOMED, SUFFIX, WEIGHTS, read_weights, weight_folders
from emorec.storage.atomic import follow_folder_mode, make_folder, remove_orphans, write_bytes
from emorec.storage.digests import hash_file
from emorec.storage.folders import (
    TEMPORARY_SUFFIX,
    check_real_folder,
    is_real_folder,
    list_folder,
    list_tree,
    remove_folder,
    temporary_path,
)
from emorec.storage.leases import is_live, time_at
from emorec.storage.regular_files import open_regular

GRACE_SECONDS = 24 * 3600.0


@dataclass
class Collection:
    """The weight files that a collection removed, or would remove."""

    removed: list[str] = field(default_factory=list)  # their names
    bytes: int = 0  # their size
    kept: int = 0  # number of other files


def used_features(root: Path) -> set[str]:
    """Names of the feature folders that the runs of a store use.

    Raises:
        UserError: a record is not readable; the features of its run would count as unused.
    """
    if not root.is_dir():
        raise UserError(f"expected a folder of runs in {root}, as features of its runs count as unused")
    records = map(read_record, run_folders(root))  # also of copies
    return {name for record in records if record is not None for name in record.features.values()}


def linked_weights(store: CheckpointStore) -> set[str]:
    """Names of the weight files that runs link to; runs may be added and removed meanwhile."""
    names = set()
    for run in store.root.iterdir():
        for folder in weight_folders(run):
            with suppress(FileNotFoundError, NotADirectoryError):  # a folder that cannot be read is an error
                for path in folder.iterdir():
                    with suppress(FileNotFoundError):
                        if path.suffix == SUFFIX and path.is_symlink():
                            names.add(path.readlink().name)
    return names


def verify(store: CheckpointStore) -> dict[str, str]:
    """Hashes all weights, reads all records and checks the links of all runs; returns {file: what is wrong with it}."""
    broken = {}
    for path in list_folder(store.root / WEIGHTS, f"*{SUFFIX}"):
        if (problem := _content_problem(path, path.name.removesuffix(SUFFIX))) and os.path.lexists(path):
            broken[f"{WEIGHTS}/{path.name}"] = problem  # else collected in the meantime
    records, odd = store.scan()
    broken |= {f"{folder.name}/run.json": reason for folder, reason in odd.items()}
    for record in records:
        folder = store.folder(record.run_id)
        for name, digest in record.published.items():
            check = _link_problem if name.endswith(SUFFIX) else _content_problem
            if (problem := check(folder / name, digest)) and folder.is_dir():  # else the run was removed meanwhile
                broken[f"{record.run_id}/{name}"] = problem
    return broken


def _link_problem(path: Path, digest: str) -> str | None:
    """What is wrong with a run's link to (or copy of) the weights of a digest; `None` if nothing is."""
    with suppress(FileNotFoundError):
        if path.is_symlink() and path.exists():
            name = path.readlink().name
            return None if name == f"{digest}{SUFFIX}" else f"expected a link to {digest}, got {name}"
    return _content_problem(path, digest)


def _content_problem(path: Path, digest: str) -> str | None:
    try:
        return None if hash_file(path) == digest else "the content does not match its digest"
    except FileNotFoundError:
        return "the link leads nowhere" if path.suffix == SUFFIX else "the file is missing"
    except OSError as error:
        return error.strerror or str(error)


def collect_weights(store: CheckpointStore, *, grace: float = GRACE_SECONDS, act: bool) -> Collection:
    """Removes weight files that no run links to and that were last touched more than `grace` seconds ago; only reports
    them if not `act`.

    A run that publishes weights touches the file, links it, and then checks that it still exists.

    Raises:
        OSError: the folder of the weights is a link: what it leads to is not this store's.
    """
    result, folder = Collection(), store.root / WEIGHTS
    check_real_folder(folder)
    if not folder.is_dir():
        return result
    now = time_at(folder)
    linked = linked_weights(store)
    for path in list_folder(folder, f"{'[0-9a-f]' * 64}{SUFFIX}"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # another collection has removed it
        is_used = path.name in linked or not stat.S_ISREG(status.st_mode) or now - status.st_mtime < grace
        if is_used or (act and not _remove_unlinked(store, path)):
            result.kept += 1
        else:
            result.removed.append(path.name)
            result.bytes += status.st_size
    if act:
        for path in (folder, store.root):
            remove_orphans(path, grace=max(grace, 3600.0))
    return result


def _remove_unlinked(store: CheckpointStore, path: Path) -> bool:
    """Removes a weight file unless a run has linked it meanwhile.

    The collection marks the file and then looks for links; a run links it and then looks for a mark. So at least one of
    them sees the other. A mark that a killed collection leaves is ignored after `DOOMED_SECONDS`.
    """
    mark = path.with_name(path.name + DOOMED)
    mark.touch()
    try:
        if path.name in linked_weights(store):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        mark.unlink(missing_ok=True)


def is_trained(folder: Path) -> bool:
    """Whether a process trains the run in a directory."""
    with suppress(FileNotFoundError):  # another process removes the run
        return (folder / CLAIM).exists() and is_live(folder / CLAIM, time_at(folder))
    return False


def remove_run(store: CheckpointStore, record: RunRecord, *, act: bool) -> list[str]:
    """Removes the directory of a run, whose weights stay until they are collected; returns the files that were removed,
    or would be if not `act`.

    Raises:
        UserError: a process trains the run.
    """
    folder = store.folder(record.run_id)
    check_real_folder(folder)
    if is_trained(folder):
        raise UserError(f"expected a run that no process trains, got {record.run_id}: {folder / CLAIM} is held")
    names = [str(path.relative_to(folder)) for path in list_tree(folder) if not path.is_dir()]
    if act:
        with suppress(FileNotFoundError):  # another process removed the run
            remove_folder(folder)
    return names


def export_run(store: CheckpointStore, record: RunRecord, target: Path) -> None:
    """Copies the directory of a run to a new folder, with files in place of the links to its weights.

    Raises:
        UserError: the folder exists, or a weight file is missing or damaged.
        OSError: the directory holds a link out of it: what it leads to is not the run's.
    """
    if os.path.lexists(target):
        raise UserError(f"expected a new folder for run {record.run_id}, got {target}")
    folder = store.folder(record.run_id)
    store.check_links(folder)
    make_folder(target.parent)
    draft = temporary_path(target)
    try:
        _copy(folder, draft)
        for name, digest in record.published.items():
            if name.endswith(SUFFIX):
                write_bytes(draft / name, read_weights(folder / name, digest))
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy(folder: Path, draft: Path) -> None:
    """Copies the files of a run but for its weights, and for what only a running training needs; links are left out."""
    make_folder(draft)
    for path in list_tree(folder):
        name = path.relative_to(folder)
        if name.parts[0] in ("resume", "model") or path.name == CLAIM or path.name.endswith(TEMPORARY_SUFFIX):
            continue
        if is_real_folder(path):
            make_folder(draft / name)
        elif not path.is_symlink():
            _copy_file(path, draft / name)


def _copy_file(source: Path, target: Path) -> None:
    with open_regular(source, follow=False) as stream, target.open("xb") as copy:
        shutil.copyfileobj(stream, copy)
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    follow_folder_mode(target)
