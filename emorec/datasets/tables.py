"""Annotation tables. Problems name the file and the line."""

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emorec.datasets.manifest import Problem
from emorec.storage.regular_files import read_regular

DELIMITERS = ",;\t"
# Bytes of a table, also of its cells as text: a file of a few kilobytes can unfold to gigabytes.
LARGEST_TABLE = 1 << 28
PARQUET_READER = str(Path(__file__).with_name("parquet.py"))
PARQUET_VARIABLES = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1"}  # nothing is taken in advance
LONGEST_SECONDS = 1e6  # of a recording: more than eleven days
MOST_DIGITS = 9  # of a whole number
LARGEST_NUMBER = 3.4e38  # of single precision


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    where: str  # file and line, for problems
    cells: Mapping[str, str]  # {column: text}
    problems: list[Problem]  # collects the problems of all rows

    def reject(self, kind: str, column: str, expected: str) -> None:
        """Adds the problem that a cell is not as expected, such as "to be a number"."""
        cell = self.cells.get(column, "")
        self.problems.append(Problem(kind, self.where, f"expected {column} {expected}, got {cell!r}"))

    def text(self, column: str) -> str | None:
        """The stripped cell; `None` if it is empty or absent."""
        return (self.cells.get(column) or "").strip() or None

    def value(self, column: str) -> float:
        """The cell as a number; NaN if it is not a number of single precision."""
        text = self.text(column) or "nan"
        try:
            value = float(text)
        except ValueError:
            return math.nan
        return value if abs(value) <= LARGEST_NUMBER and "_" not in text else math.nan

    def number(self, column: str) -> float | None:
        """The cell as a finite number; `None` if it is empty. Anything else is a problem."""
        value = self.value(column)
        if math.isfinite(value):
            return value
        if self.text(column) is not None:
            self.reject("number", column, "to be a number")
        return None

    def seconds(self, column: str) -> float | None:
        """The cell as a time in a recording; `None` if it is empty. Anything else is a problem."""
        value = self.number(column)
        if value is None or 0 <= value <= LONGEST_SECONDS:
            return value
        self.reject("number", column, f"from 0 to {LONGEST_SECONDS:g} seconds")
        return None

    def whole_number(self, column: str) -> int | None:
        """The cell as a whole number from 0. Anything else, also an empty cell, is a problem."""
        text = self.text(column) or ""
        if text.isdecimal() and len(text) <= MOST_DIGITS:
            return int(text)
        self.reject("number", column, "to be a number")
        return None

    def index(self, column: str, names: Sequence[str], *, kind: str = "label", lower: bool = False) -> int | None:
        """The index of the cell among `names`. Anything else, also an empty cell, is a problem."""
        text = self.text(column) or ""
        text = text.lower() if lower else text
        if text in names:
            return names.index(text)
        self.reject(kind, column, f"in {tuple(names)}")
        return None


def read_any_table(
    path: Path, known: Iterable[str], problems: list[Problem], *, largest: int = LARGEST_TABLE
) -> list[Row]:
    """The rows of a delimited text file or a Parquet file (.parquet).

    The delimiter of a text file is the comma, semicolon or tab that yields most of the known columns. The case of known
    columns does not matter. The first row of a Parquet file is line 1, and its cells are converted to text.

    Args:
        largest: bytes of the file, and of its cells as text.
    """
    names = set(known)
    if path.suffix.lower() == ".parquet":
        rows = _parquet_rows(path, problems, largest)
    else:
        rows = _text_rows(path, (), problems, largest, lambda text: _delimiter(text, names))
    columns = rows[0][1].keys() if rows else ()
    renamed = {name: name.lower() for name in columns if name.lower() in names and name.lower() not in columns}
    return [
        Row(f"{path.name}:{line}", {renamed.get(name, name): text for name, text in cells.items()}, problems)
        for line, cells in rows
    ]


def _parquet_rows(path: Path, problems: list[Problem], largest: int) -> list[tuple[int, dict[str, str]]]:
    content = _content(path, problems, largest)
    if content is None:
        return []
    command = [sys.executable, "-P", PARQUET_READER, str(largest)]
    environment = os.environ | PARQUET_VARIABLES
    result = subprocess.run(command, input=content, capture_output=True, env=environment, check=False)
    if result.returncode:
        reason = (result.stderr.decode(errors="replace").splitlines() or [f"exit code {result.returncode}"])[-1]
        problems.append(Problem("encoding", str(path), f"expected Parquet, got {reason}"))
        return []
    header, *batches = map(json.loads, result.stdout.splitlines())
    for name, kind in header["left_out"].items():
        detail = f"expected text or numbers in column {name}, got {kind}; left out"
        problems.append(Problem("column", str(path), detail, fatal=False))
    _check_columns([name.strip() for name in header["names"]], path, problems)
    rows = (
        dict(zip(map(str.strip, batch), row, strict=True))
        for batch in batches
        for row in zip(*batch.values(), strict=True)
    )
    return list(enumerate(rows, 1))


def _delimiter(text: str, known: set[str]) -> str:
    """The delimiter that yields most of the known columns."""
    header = io.StringIO(text, newline="").readline()

    def columns(delimiter: str) -> int:
        return len(known & {name.strip().strip('"').strip().lower() for name in header.split(delimiter)})

    return max(DELIMITERS, key=columns)


def read_rows(path: Path, columns: Iterable[str], problems: list[Problem]) -> list[Row]:
    """The rows of `read_table` with methods to check their cells."""
    return [Row(f"{path.name}:{line}", cells, problems) for line, cells in read_table(path, columns, problems)]


def read_table(path: Path, columns: Iterable[str], problems: list[Problem]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file as (line number, {column: text}), without empty rows.

    A missing file, bytes that are not UTF-8, a missing or repeated column, a row with too few or too many cells, and a
    quote that closes in another row than it opens in are added to `problems`.
    """
    return _text_rows(path, columns, problems, LARGEST_TABLE, lambda text: ",")


def _text_rows(
    path: Path,
    columns: Iterable[str],
    problems: list[Problem],
    largest: int,
    delimiter_of: Callable[[str], str],
) -> list[tuple[int, dict[str, str]]]:
    text = _decoded(path, problems, largest)
    if text is None:
        return []
    records = _Records(text, delimiter_of(text))
    rows = []
    try:
        header = [name.strip() for name in next(records, [])]
        absent = [column for column in columns if column not in header]
        if absent:
            problems.append(Problem("column", str(path), f"expected columns {absent}, found {header}"))
            return []
        _check_columns(header, path, problems)
        for cells in records:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(header):
                detail = f"expected {len(header)} cells, found {len(cells)} (put a text with a comma in quotes)"
                problems.append(Problem("row", f"{path.name}:{records.first}", detail + records.quote))
            elif records.are_rows(len(header)):
                detail = f"expected a quote that closes in its row{records.quote}; double it, or quote the whole text"
                problems.append(Problem("row", f"{path.name}:{records.first}", detail))
            else:
                rows.append((records.first, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        problems.append(Problem("row", f"{path.name}:{records.first}", f"expected CSV, got {error}{records.quote}"))
    return rows


def _content(path: Path, problems: list[Problem], largest: int) -> bytes | None:
    """The content of a table; `None` if it has a problem."""
    try:
        return read_regular(path, most=largest)
    except FileNotFoundError:
        problems.append(Problem("missing", str(path), "expected this file, found none"))
    except OSError as error:
        problems.append(Problem("file", str(path), str(error.strerror)))
    return None


def _decoded(path: Path, problems: list[Problem], largest: int) -> str | None:
    """The text of a table; `None` if it has a problem."""
    content = _content(path, problems, largest)
    if content is None:
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(Problem("encoding", str(path), f"expected UTF-8, got {error}"))
        return None
    if "\0" in text:
        where = f"{path.name}:{text[: text.index(chr(0))].count(chr(10)) + 1}"
        problems.append(Problem("encoding", where, "expected text without NUL characters, got one"))
        return None
    return text


def _check_columns(header: Sequence[str], path: Path, problems: list[Problem]) -> None:
    if repeated := sorted(name for name, count in Counter(header).items() if name and count > 1):
        problems.append(Problem("column", str(path), f"expected each column once, found {repeated} again"))


class _Records(Iterator[list[str]]):
    """The records of a CSV file with the lines that they take.

    Args:
        text: of the file.
        delimiter: of its cells.
    """

    def __init__(self, text: str, delimiter: str) -> None:
        self.first = self.last = 0  # line numbers of the current record
        self._lines = list(io.StringIO(text, newline=""))
        self._reader = csv.reader(self._lines, strict=True, delimiter=delimiter)
        self._delimiter = delimiter
        mark = re.escape(delimiter)
        self._quoted_cell = re.compile(f'(^|{mark})"(?:[^"]|"")*"(?=$|{mark})')

    def __next__(self) -> list[str]:
        self.first = self._reader.line_num + 1
        try:
            return next(self._reader)
        finally:
            self.last = self._reader.line_num

    @property
    def quote(self) -> str:
        """In parentheses, the lines in which a quote opens and closes; empty for a record of one line."""
        return f" (a quote opens in line {self.first} and closes in line {self.last})" if self.last > self.first else ""

    def are_rows(self, width: int) -> bool:
        """Whether each line of a record of several lines is a row of `width` cells, if its lone quote is text."""
        lines = [line.rstrip("\r\n") for line in self._lines[self.first - 1 : self.last]]
        return len(lines) > 1 and all(self._width(line) == width for line in lines if line)

    def _width(self, line: str) -> int:
        return self._quoted_cell.sub(r"\1", line).count(self._delimiter) + 1
