"""iter_rows, iter_texts, iter_lines: the rows and texts of a CSV, TSV, JSON, JSON Lines, Parquet or text file.

Every command reads its tables here. Files may be compressed with gzip or zstd (``reviews.csv.gz``) and may come through
a pipe; all but Parquet are read row by row, as they arrive. These functions are strict: the first bad row raises
InputError. ``Rows`` is lenient: a bad row has an ``error``. Both read the same rows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ...errors import InputError
from .compression import BLOCK, decompressed, read_errors
from .folders import files_below, hidden, partitions
from .kinds import (
    COMPRESSIONS,
    INPUT_FORMATS,
    KINDS,
    PREFIX,
    TABLES,
    check_kind,
    extensions,
    format_of,
    is_table,
    require,
)
from .parquet import parquet_rows
from .rows import Row, Rows
from .separated import check_delimiter, csv_line, other_delimiter

__all__ = [
    "COMPRESSIONS",
    "INPUT_FORMATS",
    "KINDS",
    "PREFIX",
    "TABLES",
    "Row",
    "Rows",
    "check_kind",
    "column_of",
    "csv_line",
    "decompressed",
    "extensions",
    "files_below",
    "format_of",
    "hidden",
    "is_table",
    "iter_lines",
    "iter_rows",
    "iter_texts",
    "iter_values",
    "missing_column",
    "no_text",
    "partitions",
    "read_errors",
    "require",
]

Read = Callable[[int], None]


class _Counted(io.RawIOBase):
    """A raw stream that reports how many bytes were read from it."""

    def __init__(self, file: io.RawIOBase, read: Read) -> None:
        self._file, self._read = file, read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count: int | None = self._file.readinto(buffer)
        self._read(count or 0)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: Path, read: Read | None) -> IO[bytes]:
    """The bytes of a file, decompressed."""
    check_kind(path)
    try:
        raw: Any = path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check its permissions.") from None
    if read is not None:
        raw = _Counted(raw, read)
    compression = COMPRESSIONS.get(extensions(path)[1])
    return io.BufferedReader(raw, BLOCK) if compression is None else decompressed(raw, compression)


def iter_rows(
    path: Path, delimiter: str | None = None, read: Read | None = None, columns: Sequence[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a table with its position, e.g. ``("reviews.csv line 3", {"text": ...})``.

    The file is read once, row by row, so it may be a pipe. ``delimiter`` separates the fields: by default a comma in
    CSV and a tab in TSV. ``read`` is called with the number of bytes that were read, before decompression. ``columns``
    are those that are needed: others may be missing from the rows.

    Raises InputError if the file is missing, lacks one of ``columns``, or has a bad row, UsageError for a wrong
    ``delimiter``, MissingDependencyError if its kind needs a package that isn't installed.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "reviews.csv")
    >>> _ = path.write_text("text,label\\ngreat film,pos\\n")
    >>> [row for _, row in iter_rows(path)]
    [{'text': 'great film', 'label': 'pos'}]
    """
    kind = format_of(path)
    check_delimiter(delimiter, kind, str(path))
    compression = COMPRESSIONS.get(extensions(path)[1])
    folders = partitions(path)
    # What is decompressed can seek, but only by reading everything again.
    with read_errors(str(path), kind, compression), _open(path, None if kind == "parquet" else read) as file:
        rows: Iterator[tuple[str, dict[str, Any]]]
        if kind == "parquet":
            require("pyarrow.parquet", "pyarrow", "Reading Parquet")
            source: Any = _Unseekable(file) if compression else file
            numbered = parquet_rows(source, str(path), path.stat().st_size, columns, read)
            rows = ((f"{path} row {number}", values) for number, values in numbered)
        else:
            rows = _strict(Rows(file, kind, str(path), delimiter), str(path))
        for position, values in rows:
            row = {**folders, **values} if folders else values
            for column in columns or ():
                if column not in row:
                    raise missing_column(position, column, _names(path, kind, file, row))
            yield position, row


class _Unseekable:
    """A stream that doesn't offer to seek."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read = file.read

    def seekable(self) -> bool:
        return False


def _names(path: Path, kind: str, file: IO[bytes], row: dict[str, Any]) -> list[str]:
    """The columns of a file, for an error message; those of Parquet that weren't asked for aren't in its rows."""
    if kind == "parquet" and file.seekable():
        parquet = require("pyarrow.parquet", "pyarrow", "Reading Parquet")
        return list(parquet.read_schema(path).names)
    return list(row)


def _strict(rows: Rows, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in rows:
        if row.error is not None:
            raise InputError(f"{name} {row.position} {row.error}")
        yield f"{name} {row.position}", row.values


def missing_column(where: str, column: str, names: Sequence[object], option: str = "") -> InputError:
    """The error for a table without the column that was asked for.

    >>> print(missing_column("reviews.csv", "text", ["review", "label"]))
    reviews.csv has no column 'text': it has 'review', 'label'; name the right one.
    """
    shown = ", ".join(repr(str(name)) for name in names) or "none"
    advice = other_delimiter([str(name) for name in names]) or f"name the right one{option and f' with {option}'}."
    return InputError(f"{where} has no column {column!r}: it has {shown}; {advice}")


def column_of(row: dict[str, Any], column: str, where: str) -> Any:
    """The value of ``column``. Raises InputError if the row has no such column.

    >>> column_of({"text": "great"}, "text", "reviews.csv line 2")
    'great'
    """
    if column not in row:
        raise missing_column(where, column, list(row))
    return row[column]


def iter_texts(
    path: Path, column: str = "text", delimiter: str | None = None, read: Read | None = None
) -> Iterator[tuple[str, str]]:
    """Yield ``(position, text)`` for each row of a table (by its extension, see ``TABLES``), or for each line of text.

    The arguments and errors are those of ``iter_rows``; and InputError if the file is empty or lacks the column, or if
    a row has no text in it.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "reviews.txt")
    >>> _ = path.write_text("great film\\nawful film\\n")
    >>> [text for _, text in iter_texts(path)]
    ['great film', 'awful film']
    """
    for position, text in iter_values(path, column, delimiter, read):
        if not isinstance(text, str):
            raise InputError(no_text(position, text, column))
        yield position, text


def no_text(position: str, value: object, column: str) -> str:
    """The message for a row whose value isn't a text."""
    return f"{position} has {'null' if value is None else repr(value)[:80]} in column {column!r}: a text is needed."


def iter_values(
    path: Path, column: str = "text", delimiter: str | None = None, read: Read | None = None
) -> Iterator[tuple[str, Any]]:
    """Like ``iter_texts``, but with the column's values as they are, null included."""
    count = 0
    if is_table(path):
        for position, row in iter_rows(path, delimiter, read, [column]):
            count += 1
            yield position, row[column]
    else:
        check_kind(path)
        check_delimiter(delimiter, "text", str(path))
        compression = COMPRESSIONS.get(extensions(path)[1])
        with read_errors(str(path), "text", compression), _open(path, read) as file:
            for line in iter_lines(file, str(path)):
                count += 1
                yield line
    if not count:
        raise InputError(f"{path} is empty: give a file with at least one review.")


def iter_lines(file: IO[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Yield ``(position, text)`` for each line of text. Raises InputError if it is not UTF-8.

    >>> list(iter_lines(io.BytesIO(b"great\\ndull"), "input"))
    [('input line 1', 'great'), ('input line 2', 'dull')]
    """
    for position, row in _strict(Rows(decompressed(file, None), "text", name), name):
        yield position, row["text"]
