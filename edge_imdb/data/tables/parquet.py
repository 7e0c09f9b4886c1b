"""open_parquet and parquet_rows: Parquet, of which only the columns that are needed become values of Python."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from .arrow_values import python_values
from .kinds import require
from .separated import column_names

_BATCH = 1024


def open_parquet(file: IO[bytes], name: str) -> Any:
    """The ``pyarrow.parquet.ParquetFile`` of a stream that can seek. Raises InputError for two columns of one name.

    It isn't memory-mapped, so that a truncated file ends in an error and not in a signal.
    """
    parquet = require("pyarrow.parquet", "pyarrow", "Reading Parquet")
    opened = parquet.ParquetFile(file)
    column_names(opened.schema_arrow.names, name)
    return opened


def parquet_rows(
    file: IO[bytes], name: str, size: int, columns: Sequence[str] | None, read: Callable[[int], None] | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its number; ``size`` is the number of bytes that ``read`` is told in total."""
    # The footer of Parquet is at the end, so that a stream which can't seek is copied first.
    with tempfile.TemporaryFile() as copy:
        if not file.seekable():
            shutil.copyfileobj(file, copy)
            file = copy  # type: ignore[assignment]
        with open_parquet(file, name) as table:
            number, rows, told = 0, table.metadata.num_rows, 0
            chosen = None if columns is None else [name for name in table.schema_arrow.names if name in columns]
            for batch in table.iter_batches(_BATCH, columns=chosen):
                names = batch.schema.names
                values = [_needed(column) if columns else python_values(column) for column in batch.columns]
                for row in zip(*values, strict=True) if values else [()] * batch.num_rows:
                    number += 1
                    yield number, dict(zip(names, row, strict=True))
                    if read is not None:
                        read(size * number // rows - told)
                        told = size * number // rows


def _needed(column: Any) -> list[Any]:
    """The values as Python has them where it can hold them: bytes, for example, aren't text."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return python_values(column)
