"""Hostile tables, feature files and archives end in one message: nothing hangs, unfolds or leads elsewhere."""

import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from emorec.datasets import tables
from emorec.datasets.custom import Custom
from emorec.datasets.fixtures.media import write_sound
from emorec.datasets.manifest import Problem
from emorec.datasets.tree import files_below
from emorec.encoders.feature_files import open_features
from emorec.errors import UserError
from emorec.media.audio import AudioSettings, audio_seconds
from emorec.media.source import Source
from emorec.storage.regular_files import read_regular

CANARY = "the canary"


def custom(root: Path, table: Path | None = None, **options: object) -> Custom:
    settings = {"root": str(root), "task": "emotion", "protocol": "stratified", "fold": 0, **options}
    return Custom(table=None if table is None else str(table), **settings)  # type: ignore[arg-type]


def write(path: Path, content: str = CANARY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


# Tables


SMALL = 1_000_000  # bytes of the largest table that these tests read


def long_text() -> pyarrow.Table:
    return pyarrow.table({"id": [str(row) for row in range(2000)], "text": ["x" * 10_000] * 2000})


def many_rows() -> pyarrow.Table:
    ids = pyarrow.DictionaryArray.from_arrays(pyarrow.array(bytes(1_000_000), pyarrow.int8()), ["same"])
    return pyarrow.table({"id": ids})


def one_page_of_zeros() -> pyarrow.Table:
    return pyarrow.table({"id": ["a"], "text": ["\0" * 20_000_000]})


def one_list_in_a_row() -> pyarrow.Table:
    return pyarrow.table({"id": ["a"], "tags": [["x" * 10_000] * 2000]})


def write_parquet(path: Path, table: pyarrow.Table, **options: object) -> int:
    """Writes a small file; returns the bytes that it states for its columns."""
    parquet.write_table(table, path, compression="zstd", write_statistics=False, **options)
    assert path.stat().st_size < SMALL / 20
    return int(parquet.read_metadata(path).row_group(0).total_byte_size)


def understate(path: Path, stated: int) -> None:
    """Makes the footer of a Parquet file, which states so many bytes in variable-length digits of 7 bits, say 1."""

    def digits(number: int, length: int) -> bytes:
        return bytes(2 * number >> 7 * place & 127 | (place < length - 1) << 7 for place in range(length))

    length = -(-(2 * stated).bit_length() // 7)
    content = path.read_bytes()
    assert content.count(digits(stated, length)) >= 2  # of the column and of the row group
    path.write_bytes(content.replace(digits(stated, length), digits(1, length)))
    assert parquet.read_metadata(path).row_group(0).total_byte_size == 1


def memory_to_read(path: Path) -> int:
    """The most bytes that a process with the reader's limits holds while it reads a Parquet file."""
    command = [sys.executable, tables.PARQUET_READER, str(SMALL)]
    with path.open("rb") as content:
        reader = subprocess.Popen(
            command,
            stdin=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | tables.PARQUET_VARIABLES,
        )
    _, _, usage = os.wait4(reader.pid, 0)
    reader.returncode = 0
    return usage.ru_maxrss * 1024


@pytest.mark.parametrize("content", [long_text, many_rows, one_page_of_zeros, one_list_in_a_row])
def test_a_small_parquet_file_does_not_unfold(tmp_path: Path, content: Callable[[], pyarrow.Table]) -> None:
    path = tmp_path / "corpus.parquet"
    write_parquet(path, content())
    problems: list[Problem] = []
    rows = tables.read_any_table(path, ("id",), problems, largest=SMALL)
    (problem,) = problems
    if content is one_list_in_a_row:
        assert "expected text or numbers in column tags" in problem.detail
        assert [row.cells for row in rows] == [{"id": "a"}]
    else:
        assert "expected Parquet, got a table that unfolds to " in problem.detail
        assert rows == []


def one_text_in_each_row() -> pyarrow.Table:
    """As a dictionary of one text and the number of times that it recurs."""
    return pyarrow.table({"text": pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 3000), ["x" * 100_000])})


def one_large_page() -> pyarrow.Table:
    return pyarrow.table({"text": ["\0" * 100_000] * 900})


def one_prefix_of_each_row() -> pyarrow.Table:
    return pyarrow.table({"text": ["x" * 100_000] * 3000})


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (one_text_in_each_row, {}),
        (one_large_page, {"use_dictionary": False, "data_page_size": 1 << 30}),
        (one_prefix_of_each_row, {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}),
    ],
)
def test_a_parquet_file_that_understates_its_size_takes_no_more_memory(
    tmp_path: Path, content: Callable[[], pyarrow.Table], options: dict[str, object]
) -> None:
    path, plain = tmp_path / "corpus.parquet", tmp_path / "plain.parquet"
    understate(path, write_parquet(path, content(), **options))
    write_parquet(plain, pyarrow.table({"text": ["x"]}))
    with pytest.raises(
        UserError, match=r"corpus\.parquet: expected Parquet, got a table that unfolds to more than \d+"
    ):
        custom(tmp_path, path, largest_table=SMALL).read()
    assert memory_to_read(path) < memory_to_read(plain) + 80 * SMALL


def test_a_parquet_file_of_lists_alone_has_no_rows(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"id": [["a"], ["b"]]}), tmp_path / "corpus.parquet")
    with pytest.raises(UserError, match=r"corpus\.parquet: expected rows, found none"):
        custom(tmp_path, tmp_path / "corpus.parquet").read()


def test_a_larger_table_is_read_where_the_config_allows_it(tmp_path: Path) -> None:
    table = write(tmp_path / "corpus.csv", "id,text,label\n" + "".join(f"u{n},Hi.,{'ab'[n % 2]}\n" for n in range(40)))
    (problem,) = custom(tmp_path, table, largest_table=100).scan().problems
    assert "expected a file of at most 100 bytes, got" in problem.detail
    assert len(custom(tmp_path, table, largest_table=1000).scan().utterances) == 40


def test_a_header_without_end_is_a_problem(tmp_path: Path) -> None:
    (problem, *_) = custom(tmp_path, write(tmp_path / "corpus.csv", "id,text,label," + "x" * 200_000)).scan().problems
    assert "expected CSV, got field larger than field limit" in problem.detail


def test_a_date_that_python_does_not_have_is_a_problem(tmp_path: Path) -> None:
    days = pyarrow.array([2**31 - 1], pyarrow.int32()).cast(pyarrow.date32())
    parquet.write_table(pyarrow.table({"id": ["a"], "label": ["x"], "day": days}), tmp_path / "corpus.parquet")
    (problem,) = custom(tmp_path, tmp_path / "corpus.parquet").scan().problems
    assert "expected Parquet, got" in problem.detail


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def process_file(path: Path) -> None:
    path.symlink_to("/proc/kmsg")


def folder(path: Path) -> None:
    path.mkdir()


ODD_FILES = (pipe, endless_device, process_file, folder)


@pytest.mark.parametrize("make", ODD_FILES)
@pytest.mark.parametrize("name", ["corpus.csv", "corpus.parquet"])
def test_only_a_regular_file_is_read_as_a_table(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    with pytest.raises((UserError, OSError)) as refused:
        custom(tmp_path, tmp_path / name).read()
    assert "expected" in str(refused.value)


@pytest.mark.parametrize("make", [pipe, endless_device])
def test_a_text_beside_the_media_is_read_only_from_a_regular_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    write(tmp_path / "happy" / "a.wav")
    make(tmp_path / "happy" / "a.txt")
    (problem,) = custom(tmp_path).scan().problems
    assert "expected a regular file, got a" in problem.detail


def test_what_is_appended_to_a_file_meanwhile_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "table.csv")
    measured, sizes = os.fstat, []

    def growing(descriptor: int) -> os.stat_result:
        status = measured(descriptor)
        sizes.append(status.st_size)
        with path.open("a") as stream:
            stream.write("more")
        return status

    monkeypatch.setattr(os, "fstat", growing)
    assert len(read_regular(path, most=100)) == sizes[-1] < path.stat().st_size


# Folders


def test_a_loop_of_links_counts_each_clip_once(tmp_path: Path) -> None:
    for label in ("happy", "sad"):
        for number in range(4):
            write(tmp_path / "corpus" / label / f"{number}.wav")
    (tmp_path / "corpus" / "sad" / "loop").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "happy" / "around").symlink_to(tmp_path)
    (tmp_path / "corpus" / "happy" / "other").symlink_to(tmp_path / "corpus" / "sad")
    (tmp_path / "corpus" / "happy" / "again.wav").symlink_to(tmp_path / "corpus" / "sad" / "0.wav")
    (tmp_path / "corpus" / "happy" / "itself").symlink_to(tmp_path / "corpus" / "happy" / "itself")
    utterances = custom(tmp_path / "corpus").scan().utterances
    assert [item.id for item in utterances] == [f"{label}/{n}" for label in ("happy", "sad") for n in range(4)]


def test_linked_files_and_folders_elsewhere_are_listed_under_their_links(tmp_path: Path) -> None:
    store = write(tmp_path / "store" / "blob")
    (tmp_path / "corpus").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "corpus" / name).symlink_to(store)
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "corpus" / "absent.wav").symlink_to(tmp_path / "nowhere")
    names = [path.relative_to(tmp_path / "corpus").as_posix() for path in files_below(tmp_path / "corpus")]
    assert names == ["a.wav", "absent.wav", "b.wav", "linked/blob"]


def test_a_name_that_is_not_utf8_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "happy" / "a.wav")
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/sad/\xff.wav")))
    with pytest.raises(UserError, match=r"expected id in UTF-8 without NUL, got 'sad/\\udcff'"):
        custom(tmp_path).read()


def test_a_corpus_may_lie_in_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    for label in ("happy", "sad"):
        for number in range(3):
            write_sound(tmp_path / "plain" / label / f"{number}.wav", seconds=0.1, seed=number)
    (tmp_path / "plain").rename(folder)
    manifest = custom(folder).read()
    assert len(manifest.digest) == 64
    path = manifest.utterances[0].audio
    assert audio_seconds(Source(modality="audio", path=path), AudioSettings()) == pytest.approx(0.1)


def test_a_nul_in_a_table_is_a_problem_with_its_line(tmp_path: Path) -> None:
    (problem,) = custom(tmp_path, write(tmp_path / "corpus.csv", "id,text,label\na,x,y\nb\0,x,z\n")).scan().problems
    assert problem.where == "corpus.csv:3"
    parquet.write_table(pyarrow.table({"id": ["a\0"], "audio": ["a.wav"], "label": ["x"]}), tmp_path / "corpus.parquet")
    (problem,) = custom(tmp_path, tmp_path / "corpus.parquet").scan().problems
    assert "without NUL" in problem.detail


# Feature files


def zeros(*shape: int) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(shape, np.float32))
    return stream.getvalue()


def claiming(header: str) -> bytes:
    """An array of no values under a header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def shaped(shape: str, dtype: str = "<f4") -> bytes:
    return claiming(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}")


HEADERS = {
    "more than it holds": shaped("(1000000000, 6)"),
    "less than it holds": zeros(3, 6).replace(b"(3, 6)", b"(1, 6)"),
    "negative": shaped("(-1, 6)"),
    "digits": shaped("(" + "9" * 5000 + ",)"),
    "depth": claiming("(" * 5000 + ")" * 5000),
    "no end": claiming("{'shape': (3,\n\0"),
}


def packed(path: Path, entries: Mapping[str, bytes], method: int = zipfile.ZIP_LZMA) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("kind", ["npz", "npy", "folder"])
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_an_array_that_claims_another_size_is_refused(tmp_path: Path, header: bytes, kind: str) -> None:
    path = tmp_path / f"features.{kind}"
    if kind == "npz":
        packed(path, {"a.npy": header})
    else:
        (path if kind == "npy" else path / "a.npy").parent.mkdir(exist_ok=True)
        (path if kind == "npy" else path / "a.npy").write_bytes(header)
    write(tmp_path / "features.txt", "a")
    with pytest.raises(UserError, match=r"cannot be read|features in"):
        open_features(path, "encoder.audio.path").check()


def test_a_small_archive_does_not_unfold_to_gigabytes(tmp_path: Path) -> None:
    path = packed(tmp_path / "features.npz", {f"{number}.npy": zeros(100, 6000) for number in range(4)})
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match=r"9600\d+ bytes unpacked, more than 200 times the size of the archive"):
        open_features(path, "encoder.audio.path", largest=9_000_000)
    with pytest.raises(UserError, match=r"expected at most 2000000 bytes, got an array \(100, 6000\) of 2400000"):
        open_features(packed(path, {"a.npy": zeros(100, 6000)}, zipfile.ZIP_STORED), "path", largest=2_000_000).check()
    open_features(path, "encoder.audio.path", largest=2_400_000).check()


@pytest.mark.parametrize("make", [pipe, endless_device, process_file])
@pytest.mark.parametrize("name", ["features.npy", "features.npz", "features.safetensors", "features/a.npy", "ids"])
def test_only_regular_files_are_read_as_features(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / name.partition("/")[0]
    if name == "ids":
        path = tmp_path / "features.npy"
        path.write_bytes(zeros(1, 6))
        make(tmp_path / "features.txt")
    else:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        make(tmp_path / name)
        write(tmp_path / "features.txt", "a")
    with pytest.raises(UserError, match=r"cannot be read|expected"):
        open_features(path, "encoder.audio.path").check()


def test_an_id_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/features/\xff.npy")).write_bytes(zeros(6))
    with pytest.raises(UserError, match="cannot be read"):
        open_features(tmp_path / "features", "encoder.audio.path")
