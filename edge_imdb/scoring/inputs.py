"""find_inputs, survey and Reader: rows of any number of files of any size, in constant memory, by their number.

The rows are those of ``data.tables``, read leniently: pyarrow's own readers of CSV and JSON stop at the first bad row,
or leave it out without naming it, but here it must become a row with an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ..data.tables import (
    COMPRESSIONS,
    INPUT_FORMATS,
    KINDS,
    Rows,
    decompressed,
    extensions,
    format_of,
    missing_column,
    partitions,
    read_errors,
    require,
)
from ..data.tables.arrow_values import without_nan
from ..data.tables.parquet import open_parquet
from ..data.tables.separated import check_delimiter
from ..errors import InputError, UsageError
from .schemas import Fields, json_field, json_kind, merge_kinds, unified
from .storage import File, glob, same_file

_CHUNK = 1 << 20
_ROWS = 1024
# Read only where they are named, because a folder of data often has others of these that aren't data.
_NAMED = ("", ".log")


@dataclass
class Source:
    """One input file. ``columns`` maps each name to a kind (see ``schemas``); None for Parquet, which has a schema.

    ``partitions`` are the columns that its folders' names hold, such as ``lang=en``.
    """

    file: File
    format: str
    compression: str | None
    delimiter: str | None = None
    bytes: int = 0
    sha256: str = ""
    rows: int = 0
    columns: dict[str, str] | None = None
    partitions: dict[str, str | None] = field(default_factory=dict)
    stamp: object = None

    @property
    def name(self) -> str:
        return self.file.shown or self.file.name


@dataclass
class Block:
    """Consecutive rows. *Shape:* every list ``(rows,)``, ``table`` too; ``errors`` None for a row that could be read.

    ``texts`` is None for a row with an error. ``places`` name each row as a person would, e.g. ``reviews.csv line 3``.
    """

    table: Any
    texts: list[str | None]
    errors: list[str | None]
    places: list[str] = field(repr=False)


def find_inputs(
    inputs: Sequence[str | File],
    input_format: str | None = None,
    delimiter: str | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Source]:
    """The files that ``inputs`` name, in their order. A folder gives every file of a known kind below it, by name.

    ``say`` is told which files of a folder are left out though they aren't hidden. Raises InputError if an input is
    missing, of no known kind, or the same file as another, or if a folder has no file to read.
    """
    if not inputs:
        raise UsageError("Give at least one file or folder to score, or - for standard input.")
    sources: list[Source] = []
    for name in inputs:
        found, folder = ([name], False) if isinstance(name, File) else glob(name, say)
        known = [
            source for file in found if (source := _source(file, input_format, delimiter, folder, say)) is not None
        ]
        if not known:
            raise InputError(f"{name} has no file to score: it needs one of {KINDS}.")
        sources += known
    seen: dict[str, Source] = {}
    for source in sources:
        key = same_file(source.file.name)
        if key in seen:
            also = "" if seen[key].name == source.name else f" (also as {seen[key].name})"
            raise InputError(f"{source.name} is given twice{also}: name each file once.")
        seen[key] = source
    return sources


def _source(
    file: File, input_format: str | None, delimiter: str | None, folder: bool, say: Callable[[str], None] | None
) -> Source | None:
    suffix, packed = extensions(file.shown or file.name)
    if folder and (suffix not in INPUT_FORMATS or suffix in _NAMED):
        return None
    kind = input_format or format_of(file.shown or file.name)
    if suffix == "" and input_format is None and say is not None:
        say(f"{file.shown or file.name} is read as text, a text per line: for a table, give --input-format.")
    if kind == "parquet" and packed:
        raise InputError(f"{file.name} is a compressed Parquet file: decompress it first.")
    check_delimiter(delimiter, kind, file.name)
    return Source(file, kind, COMPRESSIONS.get(packed), delimiter, partitions=partitions(file.shown or file.name))


def survey(source: Source, known: dict[str, Any] | None = None) -> None:
    """Fill in size, hash, number of rows and columns. Raises InputError if the file can't be read to its end.

    ``known`` is the entry of an earlier run; if the hash is the same, the rows aren't counted again.
    """
    with _errors(source):
        source.stamp = source.file.stamp()
        digest, size = hashlib.sha256(), 0
        with source.file.open() as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        source.sha256, source.bytes = digest.hexdigest(), size
        if source.format == "parquet":
            with _parquet(source) as parquet:
                source.rows = parquet.metadata.num_rows
        elif known is not None and all(known.get(name) == getattr(source, name) for name in _DECIDING):
            source.rows, source.columns = known["rows"], dict(known["columns"])
        else:
            with _rows(source) as rows:
                source.rows, source.columns = _count(rows)


# What decides the number of rows and the columns of a file.
_DECIDING = ("sha256", "format", "delimiter", "compression")


def _count(rows: Rows) -> tuple[int, dict[str, str]]:
    """The number of rows, and the kind of each column."""
    if rows.columns is not None:
        return rows.skip(), dict.fromkeys(rows.columns, "string")
    count, kinds = 0, dict[str, str]()
    for row in rows:
        count += 1
        for name, value in row.values.items():
            kinds[name] = merge_kinds(kinds.get(name, "null"), json_kind(value))
    return count, kinds


def schema_of(sources: Sequence[Source], column: str) -> Any:
    """The Arrow schema of all inputs together, by the columns' names in the order in which they come.

    Raises InputError if the text column is missing or holds no text, or if a column has types in two files that no
    type holds both of.
    """
    pyarrow = require("pyarrow", "pyarrow", "edge-imdb score")
    fields: Fields = {}
    for source in sources:
        own = _fields(source, pyarrow)
        unified(fields, own, source.name, json_alone={each.format for each in sources} <= {"json", "jsonl"})
        names = [one.name for one in own]
        if column not in names and source.rows:
            raise missing_column(source.name, column, names, "--column")
    if column not in fields:
        return pyarrow.schema([one for one, _ in fields.values()])
    text, origin = fields[column]
    types = pyarrow.types
    if not any(test(text.type) for test in (types.is_string, types.is_large_string, types.is_null)):
        raise InputError(f"Column {column!r} of {origin} holds {text.type}, not text: name the right one.")
    return pyarrow.schema([one for one, _ in fields.values()])


def _fields(source: Source, pyarrow: Any) -> list[Any]:
    if source.format == "parquet":
        with _errors(source), _parquet(source) as parquet:
            own = [one.remove_metadata() for one in parquet.schema_arrow]
    else:
        assert source.columns is not None
        own = [json_field(name, kind) for name, kind in source.columns.items()]
    names = {one.name for one in own}
    return own + [pyarrow.field(name, pyarrow.string()) for name in source.partitions if name not in names]


class Reader:
    """Rows of all sources by their number. ``read(start, stop)`` is called with rising numbers."""

    def __init__(self, sources: Sequence[Source], schema: Any, column: str) -> None:
        self._sources, self._schema, self._column = sources, schema, column
        self._open: tuple[int, _Cursor] | None = None

    def read(self, start: int, stop: int) -> Block:
        """Rows ``start`` to ``stop`` of all sources together. Raises InputError if a file was changed or cut."""
        blocks, first = [], 0
        for index, source in enumerate(self._sources):
            low, high = max(start - first, 0), min(stop - first, source.rows)
            if low < high:
                blocks.append(self._cursor(index).read(low, high))
            first += source.rows
        if len(blocks) == 1:
            return blocks[0]
        import pyarrow

        return Block(
            pyarrow.concat_tables([block.table for block in blocks]),
            *([each for block in blocks for each in getattr(block, name)] for name in ("texts", "errors", "places")),
        )

    def _cursor(self, index: int) -> _Cursor:
        if self._open is None or self._open[0] != index:
            self.close()
            source = self._sources[index]
            kind = _ParquetCursor if source.format == "parquet" else _RowsCursor
            self._open = index, kind(source, self._schema, self._column)
        return self._open[1]

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


class _Cursor:
    def __init__(self, source: Source, schema: Any, column: str) -> None:
        self.source, self.schema, self.column = source, schema, column

    def read(self, low: int, high: int) -> Block:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def check(self, rows: int, wanted: int) -> None:
        """Raise InputError if the file has changed since its rows were counted."""
        if rows != wanted or self.source.file.stamp() != self.source.stamp:
            raise InputError(
                f"{self.source.name} was changed while it was read: leave it unchanged until the job is done."
            )


class _ParquetCursor(_Cursor):
    def __init__(self, source: Source, schema: Any, column: str) -> None:
        super().__init__(source, schema, column)
        self._batches: Iterator[Any] = iter(())
        self._rest: Any = None
        self._at: int | None = None

    def _seek(self, row: int) -> None:
        self.close()
        with _errors(self.source):
            self._context = _parquet(self.source)
            parquet = self._context.__enter__()
            groups: list[int] = []
            first = skip = 0
            for number in range(parquet.metadata.num_row_groups):
                rows = parquet.metadata.row_group(number).num_rows
                if first + rows > row:
                    if not groups:
                        skip = row - first
                    groups.append(number)
                first += rows
            # Row group by row group, because a reader keeps what it has read until it ends; and column by column on
            # this thread, because the cores are busy with the model.
            self._batches = itertools.chain.from_iterable(
                parquet.iter_batches(_ROWS, row_groups=[group], use_threads=False) for group in groups
            )
            self._rest, self._at = None, row
            self._take(skip)

    def _take(self, rows: int) -> list[Any]:
        """The next ``rows`` rows as record batches."""
        taken: list[Any] = []
        while rows:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            self._rest = None
            if batch is None:
                break
            if batch.num_rows > rows:
                batch, self._rest = batch.slice(0, rows), batch.slice(rows)
            taken.append(batch)
            rows -= batch.num_rows
        return taken

    def read(self, low: int, high: int) -> Block:
        import pyarrow

        if self._at != low:
            self._seek(low)
        with _errors(self.source):
            table = pyarrow.Table.from_batches(self._take(high - low))
        self._at = high
        self.check(table.num_rows, high - low)
        columns = [self._column(table, one, pyarrow) for one in self.schema]
        # Only the texts become objects of Python, which can't hold every date and time.
        texts: list[Any] = columns[self.schema.get_field_index(self.column)].to_pylist()
        errors = [None if isinstance(text, str) else _no_text(text, self.column) for text in texts]
        places = [f"{self.source.name} row {number + 1}" for number in range(low, high)]
        return Block(pyarrow.table(columns, schema=self.schema), texts, errors, places)

    def _column(self, table: Any, one: Any, pyarrow: Any) -> Any:
        if one.name in table.column_names:
            try:
                return table.column(one.name).cast(one.type)
            except pyarrow.ArrowException as error:
                raise InputError(
                    f"Column {one.name!r} of {self.source.name} has a value that {one.type}, its type in the other "
                    f"files, can't hold ({error}): score the files separately."
                ) from None
        value = self.source.partitions.get(one.name)
        if value is None:
            return pyarrow.nulls(table.num_rows, one.type)
        return pyarrow.repeat(pyarrow.scalar(value, one.type), table.num_rows)

    def close(self) -> None:
        if self._at is not None:
            self._batches = iter(())
            self._context.__exit__(None, None, None)
            self._at = None


class _RowsCursor(_Cursor):
    def __init__(self, source: Source, schema: Any, column: str) -> None:
        super().__init__(source, schema, column)
        self._context: Any = None
        self._rows: Rows
        self._at = 0
        self._kinds = {
            one.name: "json" if one.metadata else str(one.type)
            for one in schema
            if source.columns is not None and one.name in source.columns
        }

    def read(self, low: int, high: int) -> Block:
        import pyarrow

        with _errors(self.source):
            if self._context is None:
                self._context = _rows(self.source)
                self._rows = self._context.__enter__()
            self._rows.skip(low - self._at)
            rows = list(itertools.islice(self._rows, high - low))
        self._at = high
        self.check(len(rows), high - low)
        texts: list[str | None] = []
        errors: list[str | None] = []
        columns: dict[str, list[Any]] = {one.name: [] for one in self.schema}
        for row in rows:
            values = {**self.source.partitions, **row.values}
            if row.raw is not None:
                # Nothing in the line could be parsed, so the text column gets the whole line.
                values.setdefault(self.column, row.raw)
            text = values.get(self.column)
            bad = None if row.error is None else f"The row {row.error}"
            if bad is None and not isinstance(text, str):
                bad = _no_text(text, self.column)
            texts.append(text if bad is None else None)
            errors.append(bad)
            for name, column in columns.items():
                column.append(_value(values.get(name), self._kinds.get(name, "")))
        places = [f"{self.source.name} {row.position}" for row in rows]
        arrays = [pyarrow.array(columns[one.name], one.type) for one in self.schema]
        return Block(pyarrow.table(arrays, schema=self.schema), texts, errors, places)

    def close(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None


def _no_text(value: Any, column: str) -> str:
    shown = "nothing" if value is None else repr(value)[:80]
    return f"Column {column!r} has {shown}: a text is needed."


def _value(value: Any, kind: str) -> Any:
    if kind == "json":
        return None if value is None else json.dumps(without_nan(value), ensure_ascii=True)
    if kind == "double" and value is not None:
        return float(value)
    if isinstance(value, str) and not value.isascii():
        # JSON may hold half of a surrogate pair, which no file in UTF-8 can.
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def _errors(source: Source) -> contextlib.AbstractContextManager[None]:
    return read_errors(source.name, source.format, source.compression)


@contextlib.contextmanager
def _parquet(source: Source) -> Iterator[Any]:
    with source.file.open() as file, open_parquet(file, source.name) as opened:
        yield opened


@contextlib.contextmanager
def _rows(source: Source) -> Iterator[Rows]:
    raw: IO[bytes] = source.file.open()
    try:
        yield Rows(decompressed(raw, source.compression), source.format, source.name, source.delimiter)
    finally:
        raw.close()
