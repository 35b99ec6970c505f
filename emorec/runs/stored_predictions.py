"""Reads `predictions.parquet` of a run's directory."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emorec.errors import UserError, first_line
from emorec.runs.results import ORIGINS, PREDICTIONS
from emorec.storage.regular_files import read_regular

if TYPE_CHECKING:
    import pyarrow

MOST_BYTES = 1_000_000_000  # of a table, once it is unpacked
BATCH_ROWS = 1 << 16
Names = NDArray[np.object_]


@dataclass(frozen=True, kw_only=True)
class StoredPredictions:
    """What a run predicts for N utterances of a split."""

    id: Names  # (N,) names of the utterances
    speaker: Names  # (N,) names, `None` where unknown
    dialogue: Names  # (N,) names, `None` where unknown
    target: NDArray[Any]  # (N,) class numbers, -1 where unknown; for regression values, NaN where unknown
    predicted: NDArray[Any]  # (N,) class numbers, -1 where a logit was not finite; for regression values
    probabilities: NDArray[np.float32]  # (N, C); (N, 0) for regression

    def __len__(self) -> int:
        return len(self.id)

    @property
    def is_classification(self) -> bool:
        return self.target.dtype.kind == "i"

    @property
    def is_finite(self) -> bool:
        """Whether the run predicts something for every utterance."""
        return bool((self.predicted >= 0).all() if self.is_classification else np.isfinite(self.predicted).all())

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """(N,) true where there is a target."""
        known: NDArray[np.bool_] = self.target >= 0 if self.is_classification else ~np.isnan(self.target)
        return known

    def taken(self, rows: NDArray[Any]) -> "StoredPredictions":
        """Those of some rows: their numbers, or (N,) which of all."""
        return StoredPredictions(**{name: column[rows] for name, column in vars(self).items()})

    def digest(self) -> str:
        """Of the names of the utterances, whatever their order; 16 hex digits."""
        return hashlib.sha256("\0".join(sorted(self.id.tolist())).encode(errors="surrogatepass")).hexdigest()[:16]


def read_predictions(folder: Path, labels: Sequence[str]) -> dict[str, StoredPredictions]:
    """{split: predictions} of a run's directory; empty where there are none.

    Args:
        folder: of the run.
        labels: names of the classes; none for regression.

    Raises:
        UserError: the table is not readable, or not one of these classes.
    """
    import pyarrow
    from pyarrow import compute

    path = folder / PREDICTIONS
    try:
        table = _read_table(path)
        return {
            str(split): _of_split(table.filter(compute.equal(table["split"], split)), labels)
            for split in table["split"].unique().to_pylist()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise UserError(f"expected the predictions of a run in {path}, got {first_line(error)}") from error


def _read_table(path: Path) -> "pyarrow.Table":
    import pyarrow
    from pyarrow import parquet

    file = parquet.ParquetFile(pyarrow.BufferReader(read_regular(path, follow=False)))
    batches, size = [], 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
        size += batch.nbytes
        if size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        batches.append(batch)
    return pyarrow.Table.from_batches(batches, schema=file.schema_arrow)


def _of_split(table: "pyarrow.Table", labels: Sequence[str]) -> StoredPredictions:
    def names(column: str) -> Names:
        if column not in table.column_names:  # older runs
            return np.full(len(table), None, dtype=object)
        found = table[column].to_pylist()
        if not all(isinstance(name, str) or (name is None and column in ORIGINS) for name in found):
            raise ValueError(f"a {column} that is no text")
        return np.array(found, dtype=object)

    def values(column: str) -> NDArray[Any]:
        if not labels:
            return np.asarray(table[column].to_numpy(), dtype=np.float64)
        return _numbers(table[column], labels)

    probabilities = [np.asarray(table[f"probability_{label}"].to_numpy(), dtype=np.float32) for label in labels]
    return StoredPredictions(
        id=names("id"),
        **{column: names(column) for column in ORIGINS},
        target=values("target"),
        predicted=values("predicted"),
        probabilities=np.stack(probabilities, 1) if probabilities else np.zeros((len(table), 0), np.float32),
    )


def _numbers(column: "pyarrow.ChunkedArray", labels: Sequence[str]) -> NDArray[np.int64]:
    """The class numbers of names (N,); -1 for null.

    Raises:
        ValueError: a name is of no class.
    """
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_null(column.type):
        return np.full(len(column), -1, dtype=np.int64)
    found = compute.index_in(column, value_set=pyarrow.array(labels, column.type))
    unknown = compute.and_(compute.is_null(found), compute.is_valid(column))
    if compute.any(unknown).as_py():
        name = column.filter(unknown)[0].as_py()
        raise ValueError(f"class {name!r}, which is not among {list(labels)}")
    return np.asarray(compute.fill_null(found, -1).to_numpy(), dtype=np.int64)
