"""Digests of values do not depend on the process; digests of files detect every edit and are stored."""

import hashlib
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from emorec.storage.digests import FileDigests, canonical_json, digest_of, hash_file
from tests.conftest import REPOSITORY


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def rewrite(path: Path, content: bytes) -> None:
    """Writes until the clock of the filesystem has advanced, so that the change time differs."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.write_bytes(content)


def test_the_order_of_keys_does_not_matter() -> None:
    one = {"b": 1, "a": {"d": [1, 2], "c": None}}
    other = {"a": {"c": None, "d": [1, 2]}, "b": 1}
    assert canonical_json(one) == canonical_json(other) == '{"a":{"c":null,"d":[1,2]},"b":1}'
    assert digest_of(one) == digest_of(other)


def test_the_order_of_a_list_matters() -> None:
    assert digest_of([1, 2]) != digest_of([2, 1])


def test_whole_floats_are_integers_at_any_depth() -> None:
    assert canonical_json({"a": [1.0, {"b": -0.0}]}) == canonical_json({"a": [1, {"b": 0}]})
    assert digest_of(1.0) == digest_of(1)
    assert digest_of(1.5) != digest_of(1)


def test_true_is_not_one() -> None:
    assert digest_of({"a": True}) != digest_of({"a": 1})


def test_tuples_are_lists() -> None:
    assert digest_of((1, (2, 3))) == digest_of([1, [2, 3]])


def test_text_is_not_escaped() -> None:
    assert canonical_json("é\n") == '"é\\n"'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"(?i)json"):
        canonical_json({"a": [value]})


@pytest.mark.parametrize("value", [{1, 2}, Path("a"), np.float32(1.0), b"bytes"])
def test_types_that_json_does_not_support_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json({"a": value})


def test_a_digest_is_the_same_in_every_process() -> None:
    value = {name: {"x": 0.1, "y": [None, True, 1e-7]} for name in ("speaker", "text", "label", "ü")}
    code = f"from emorec.storage.digests import digest_of; print(digest_of({value!r}))"
    digests = set()
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
        digests.add(done.stdout.strip())
    assert digests == {digest_of(value)}


def test_the_digest_of_a_file_is_the_sha256_of_its_content(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "a.bin").write_bytes(content)
    assert hash_file(tmp_path / "a.bin") == FileDigests().digest(tmp_path / "a.bin") == sha256(content)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileDigests().digest(tmp_path / "missing.wav")


def test_an_edit_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    digests = FileDigests()
    assert digests.digest(path) == sha256(b"one")
    rewrite(path, b"another length")
    assert digests.digest(path) == sha256(b"another length")


def test_an_edit_with_the_same_size_and_modification_time_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    status = path.stat()
    digests = FileDigests(tmp_path / "digests.tsv")
    digests.digest(path)
    digests.save()
    rewrite(path, b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert digests.digest(path) == sha256(b"two")
    assert FileDigests(tmp_path / "digests.tsv").digest(path) == sha256(b"two")


def test_a_replaced_file_is_detected(tmp_path: Path) -> None:
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_bytes(b"one")
    other.write_bytes(b"two")
    digests = FileDigests()
    digests.digest(path)
    os.replace(other, path)
    assert digests.digest(path) == sha256(b"two")


def remembered(tmp_path: Path, lie: str) -> tuple[Path, Path]:
    """A file, and a database with the wrong digest `lie` for it in a line with a correct checksum."""
    path, database = tmp_path / "a.txt", tmp_path / "digests.tsv"
    path.write_bytes(b"one")
    digests = FileDigests(database)
    digests.digest(path)
    digests.save()
    line = database.read_text().rstrip("\n").partition("\t")[2].replace(sha256(b"one"), lie)
    database.write_text(f"{zlib.crc32(line.encode()):08x}\t{line}\n")
    return path, database


def test_a_digest_is_read_from_the_database_without_hashing_the_file(tmp_path: Path) -> None:
    path, database = remembered(tmp_path, "f" * 64)
    assert FileDigests(database).digest(path) == "f" * 64


def test_verify_hashes_the_file_and_ignores_the_database(tmp_path: Path) -> None:
    path, database = remembered(tmp_path, "f" * 64)
    assert FileDigests(database, verify=True).digest(path) == sha256(b"one")


def test_a_verified_digest_replaces_that_in_the_database(tmp_path: Path) -> None:
    path, database = remembered(tmp_path, "f" * 64)
    verifying = FileDigests(database, verify=True)
    verifying.digest(path)
    verifying.save()
    assert FileDigests(database).digest(path) == sha256(b"one")


@pytest.mark.parametrize("damage", ["torn", "checksum", "digest", "bytes", "fields"])
def test_a_damaged_line_of_the_database_is_skipped_and_the_others_are_kept(tmp_path: Path, damage: str) -> None:
    path, database = remembered(tmp_path, "f" * 64)
    line = database.read_bytes()
    good_path = tmp_path / "good.txt"
    good_path.write_bytes(b"good")
    database.unlink()
    good = FileDigests(database)
    good.digest(good_path)
    good.save()
    good_line = database.read_bytes().replace(sha256(b"good").encode(), b"e" * 64)
    fields = good_line.rstrip(b"\n").partition(b"\t")[2]
    good_line = b"%08x\t%s\n" % (zlib.crc32(fields), fields)
    damaged = {
        "torn": line[:-20] + b"\n",
        "checksum": b"00000000" + line[8:],
        "digest": line[:-5] + b"0000\n",
        "bytes": b"\xff\xfe\x00\x80\n",
        "fields": b"\t\t\n\n1\t2\n",
    }[damage]
    database.write_bytes(good_line + damaged + good_line)
    digests = FileDigests(database)
    assert digests.digest(path) == sha256(b"one"), "the damaged line is skipped"
    assert digests.digest(good_path) == "e" * 64, "the valid line is read"


def test_an_incomplete_last_line_loses_one_digest_only(tmp_path: Path) -> None:
    database = tmp_path / "digests.tsv"
    paths = [tmp_path / f"{number}.txt" for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode())
    digests = FileDigests(database)
    digests.digest(paths[0])
    digests.save()
    database.write_bytes(database.read_bytes()[:-20])
    again = FileDigests(database)
    for path in paths:
        assert again.digest(path) == sha256(path.name.encode())
    again.save()
    assert sum(line.endswith(sha256(b"2.txt").encode()) for line in database.read_bytes().splitlines()) == 1
    assert [FileDigests(database).digest(path) for path in paths] == [sha256(p.name.encode()) for p in paths]


def test_the_database_may_be_deleted_at_any_time(tmp_path: Path) -> None:
    path, database = remembered(tmp_path, "f" * 64)
    digests = FileDigests(database)
    database.unlink()
    assert digests.digest(path) == "f" * 64
    assert FileDigests(database).digest(path) == sha256(b"one")


def test_saving_writes_each_digest_once(tmp_path: Path) -> None:
    path, database = tmp_path / "a.txt", tmp_path / "new" / "digests.tsv"
    path.write_bytes(b"one")
    digests = FileDigests(database)
    for _ in range(3):
        digests.digest(path)
        digests.save()
    assert len(database.read_text().splitlines()) == 1


def test_a_database_that_cannot_be_written_is_not_an_error(tmp_path: Path) -> None:
    path, blocker = tmp_path / "a.txt", tmp_path / "file"
    path.write_bytes(b"one")
    blocker.write_text("no folder can be made here")
    digests = FileDigests(blocker / "deeper" / "digests.tsv")
    assert digests.digest(path) == sha256(b"one")
    digests.save()
    assert blocker.read_text() == "no folder can be made here"


def test_a_read_only_folder_is_not_an_error(tmp_path: Path) -> None:
    path, folder = tmp_path / "a.txt", tmp_path / "cache"
    path.write_bytes(b"one")
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write to a read-only folder")
    digests = FileDigests(folder / "digests.tsv")
    assert digests.digest(path) == sha256(b"one")
    digests.save()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["with\ttab.txt", "with\nline.txt", "with\x85next.txt", "ü – x.txt"])
def test_a_file_of_any_name_is_hashed_and_does_not_affect_others(tmp_path: Path, name: str) -> None:
    database, odd, plain = tmp_path / "digests.tsv", tmp_path / name, tmp_path / "plain.txt"
    odd.write_bytes(b"odd")
    plain.write_bytes(b"plain")
    digests = FileDigests(database)
    digests.digest(odd)
    digests.digest(plain)
    digests.save()
    again = FileDigests(database)
    assert (again.digest(odd), again.digest(plain)) == (sha256(b"odd"), sha256(b"plain"))


def test_a_file_whose_name_is_not_utf8_is_hashed(tmp_path: Path) -> None:
    database, odd = tmp_path / "digests.tsv", tmp_path / os.fsdecode(b"caf\xe9.wav")
    odd.write_bytes(b"odd")
    digests = FileDigests(database)
    assert digests.digest(odd) == sha256(b"odd")
    digests.save()
    assert FileDigests(database).digest(odd) == sha256(b"odd")


def folder_with(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def test_the_digest_of_a_folder_depends_on_content_and_names_but_not_on_its_path(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    digests = FileDigests()

    def digest(name: str, content: dict[str, bytes]) -> str:
        return digests.digest_folder(folder_with(tmp_path / name, content), (".json", ".safetensors"))

    here = digest("here", files)
    assert digest("else/where", files) == here
    assert digest("edited", {**files, "config.json": b"[]"}) != here
    assert digest("renamed", {"config.json": b"{}", "other.safetensors": b"weights"}) != here
    assert digest("more", {**files, "tokenizer.json": b"{}"}) != here
    assert digest("swapped", {"config.json": b"weights", "model.safetensors": b"{}"}) != here
    assert digest("with_notes", {**files, "README.md": b"not among the suffixes"}) == here
