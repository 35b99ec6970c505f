"""A script: Parquet from standard input to lines of JSON, each a batch of rows as {column: texts}.

It runs in a process of its own, whose memory is limited: a page of a few bytes can unfold to gigabytes, whatever the
file's footer says.
"""

import json
import math
import resource
import sys
from pathlib import Path

import pyarrow
from pyarrow import parquet, types

CELL_BYTES = 32  # that a cell counts beyond its text
BATCH_ROWS = 1024
MEMORY = 1 << 26  # bytes beside those of the table, which is held several times: as file, page, batch and text
COPIES = 4


def write_rows(largest: int) -> None:
    """Writes {"names": all columns, "left_out": {column of neither text nor numbers: its type}}, then the batches.

    Raises:
        ValueError: the cells take more than `largest` bytes.
        MemoryError: what they are read from takes much more.
    """
    file = parquet.ParquetFile(pyarrow.BufferReader(sys.stdin.buffer.read()))
    left_out = {field.name: str(field.type) for field in file.schema_arrow if not _is_plain(field.type)}
    print(json.dumps({"names": file.schema_arrow.names, "left_out": left_out}))
    columns = [name for name in file.schema_arrow.names if name not in left_out]
    size = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
        size += batch.nbytes + CELL_BYTES * batch.num_rows * max(1, batch.num_columns)
        if size > largest:
            raise ValueError(f"a table that unfolds to at least {size} bytes (at most {largest} are read)")
        pairs = zip(batch.schema.names, batch.columns, strict=True)
        print(json.dumps({name: [_text(value) for value in column.to_pylist()] for name, column in pairs}))


def limit_memory(size: int) -> None:
    """Lets this process take so many bytes beyond what it has; Linux alone counts them."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[5])  # private and writable
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _is_plain(kind: pyarrow.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    is_text = types.is_string(kind) or types.is_large_string(kind)
    return bool(is_text or types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind))


def _text(value: object) -> str:
    """A cell as text; empty for null and for NaN, which pandas writes for a missing value."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


if __name__ == "__main__":
    most = int(sys.argv[1])
    limit_memory(MEMORY + COPIES * most)
    try:
        write_rows(most)
    except MemoryError:
        sys.exit(f"a table that unfolds to more than {most} bytes")
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        sys.exit(str(error).strip().partition("\n")[0])
