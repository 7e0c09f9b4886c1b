"""find_inputs, survey and Reader: rows of any number of files of any size, in constant memory, by their number.

Parquet is read with pyarrow. CSV, JSON and text are split into rows by the parsers that ``tables`` uses: pyarrow's own
stop at the first bad row, or leave it out without saying where it was, but here it must become a row with an error.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ..data.tables import require
from ..errors import EdgeImdbError, InputError, UsageError, first_line
from .storage import File, glob

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
NAMES = ", ".join(FORMATS)
# How a column of JSON is held: a type of Arrow's, or the JSON text of each value where the rows don't agree.
JSON_KINDS = ("null", "bool", "int64", "double", "string", "json")
# A field of this many characters is not a review: a quote is missing, and without a limit it would swallow the file.
_FIELD_LIMIT = 1 << 26
_ROWS = 1024
_CHUNK = 1 << 20
_EXACT = 1 << 53


@dataclass
class Source:
    """One input file. ``columns`` maps each name to a kind of ``JSON_KINDS``; None for Parquet, which says itself."""

    file: File
    format: str
    compression: str | None
    bytes: int = 0
    sha256: str = ""
    rows: int = 0
    columns: dict[str, str] | None = None
    stamp: object = None

    @property
    def name(self) -> str:
        return self.file.shown or self.file.name


@dataclass
class Block:
    """Some rows in a row. *Shape:* every list ``(rows,)``, ``table`` too; ``errors`` None for a row that could be read.

    ``texts`` is None for a row with an error. ``places`` name each row as a person would, e.g. ``reviews.csv line 3``.
    """

    table: Any
    texts: list[str | None]
    errors: list[str | None]
    places: list[str] = field(repr=False)


def find_inputs(inputs: Sequence[str | File], input_format: str | None = None) -> list[Source]:
    """The files that ``inputs`` name, in their order. A folder gives every file of a known kind below it, by name.

    Raises InputError if one is missing or of no known kind, or if a folder has none.
    """
    if not inputs:
        raise UsageError("Give at least one file or folder to score, or - for standard input.")
    sources: list[Source] = []
    for name in inputs:
        found, folder = ([name], False) if isinstance(name, File) else glob(name)
        known = [source for file in found if (source := _source(file, input_format, folder)) is not None]
        if not known:
            raise InputError(f"{name} has no file to score: it needs one of {NAMES}, each also as .gz or .zst.")
        sources += known
    seen: set[File] = set()
    for source in sources:
        if source.file in seen:
            raise InputError(f"{source.name} is given twice: name each file once.")
        seen.add(source.file)
    return sources


def _source(file: File, input_format: str | None, folder: bool) -> Source | None:
    base = file.name.rsplit("/", 1)[-1].lower()
    if folder and base.startswith((".", "_")):
        return None
    compression = next((kind for suffix, kind in COMPRESSIONS.items() if base.endswith(suffix)), None)
    if compression:
        base = base.rsplit(".", 1)[0]
    kind = input_format or FORMATS.get("." + base.rsplit(".", 1)[-1] if "." in base else "")
    if kind is None:
        if folder:
            return None
        raise InputError(f"{file.name} has an unknown extension: use {NAMES}, or give --input-format.")
    if kind == "parquet" and compression:
        raise InputError(f"{file.name} is a compressed Parquet file: decompress it first.")
    return Source(file, kind, compression)


def survey(source: Source, known: dict[str, Any] | None = None) -> None:
    """Fill in size, hash, number of rows and columns. Raises InputError if the file can't be read to its end.

    ``known`` is what an earlier run found out; if size and hash are the same the rows aren't counted again.
    """
    with _named(source):
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
        elif known is not None and (known["sha256"], known["format"]) == (source.sha256, source.format):
            source.rows, source.columns = known["rows"], dict(known["columns"])
        else:
            with contextlib.closing(_Rows(source)) as rows:
                source.rows, source.columns = rows.count()


def schema_of(sources: Sequence[Source], column: str) -> Any:
    """The Arrow schema of all inputs together, by the columns' names in the order in which they come.

    Raises InputError if the text column is missing or holds no text, or if a column has different types in two files.
    """
    pyarrow = require("pyarrow", "pyarrow", "edge-imdb score")
    fields: dict[str, Any] = {}
    origin: dict[str, str] = {}
    json_alone = {source.format for source in sources} <= {"json", "jsonl"}
    for source in sources:
        own = _fields(source, pyarrow)
        for one in own:
            there = fields.get(one.name)
            if there is None or pyarrow.types.is_null(there.type):
                fields[one.name], origin[one.name] = one, source.name
            elif not pyarrow.types.is_null(one.type) and (there.type, there.metadata) != (one.type, one.metadata):
                if json_alone:
                    fields[one.name] = _merge(there, one, pyarrow)
                    continue
                raise InputError(
                    f"Column {one.name!r} is {there.type} in {origin[one.name]} and {one.type} in {source.name}: "
                    "score them separately, or save both with one type."
                )
        names = [one.name for one in own]
        if column not in names and source.rows:
            has = ", ".join(repr(name) for name in names) or "none"
            raise InputError(f"{source.name} has no column {column!r}: it has {has}; name the right one with --column.")
    kind = fields[column].type if column in fields else pyarrow.string()
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    text = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view, pyarrow.types.is_null)
    if not any(test(kind) for test in text):
        shown = "values of several kinds" if fields[column].metadata else kind
        if not (fields[column].metadata and kind == pyarrow.string()):
            raise InputError(f"Column {column!r} of {origin[column]} holds {shown}, not text: name the right one.")
    return pyarrow.schema(list(fields.values()))


def _fields(source: Source, pyarrow: Any) -> list[Any]:
    if source.format == "parquet":
        with _named(source), _parquet(source) as parquet:
            return [one.remove_metadata() for one in parquet.schema_arrow]
    assert source.columns is not None
    return [_field(name, kind, pyarrow) for name, kind in source.columns.items()]


def _field(name: str, kind: str, pyarrow: Any) -> Any:
    if kind == "json":
        return pyarrow.field(name, pyarrow.string(), metadata={"edge_imdb": "json"})
    types = {"null": pyarrow.null(), "bool": pyarrow.bool_(), "int64": pyarrow.int64(), "double": pyarrow.float64()}
    return pyarrow.field(name, types.get(kind, pyarrow.string()))


def _merge(one: Any, other: Any, pyarrow: Any) -> Any:
    """The field that holds two of JSON."""
    kinds = ["json" if each.metadata else str(each.type) for each in (one, other)]
    return _field(one.name, _common(*kinds), pyarrow)


def _common(one: str, other: str) -> str:
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    return "double" if {one, other} == {"int64", "double"} else "json"


class Reader:
    """Rows of all sources by their number, each asked for once and in rising order: ``read(start, stop)``."""

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

    def changed(self) -> InputError:
        return InputError(
            f"{self.source.name} was changed while it was read: leave it unchanged until the job is done."
        )

    def check(self, rows: int, wanted: int) -> None:
        """Raise InputError if the file isn't the one whose rows were counted."""
        if rows != wanted or self.source.file.stamp() != self.source.stamp:
            raise self.changed()


class _ParquetCursor(_Cursor):
    def __init__(self, source: Source, schema: Any, column: str) -> None:
        super().__init__(source, schema, column)
        self._batches: Iterator[Any] = iter(())
        self._rest: Any = None
        self._at: int | None = None

    def _seek(self, row: int) -> None:
        self.close()
        with _named(self.source):
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
            # One row group after the other, since a reader keeps what it has read until it ends; and one column after
            # the other on this thread, since the cores are busy with the model.
            self._batches = itertools.chain.from_iterable(
                parquet.iter_batches(_ROWS, row_groups=[group], use_threads=False) for group in groups
            )
            self._rest, self._at = None, row
            self._take(skip)

    def _take(self, rows: int) -> list[Any]:
        """The next so many rows as record batches."""
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
        with _named(self.source):
            table = pyarrow.Table.from_batches(self._take(high - low))
            self._at = high
            self.check(table.num_rows, high - low)
            found = set(table.column_names)
            columns = []
            for one in self.schema:
                if one.name in found:
                    columns.append(table.column(one.name).cast(one.type))
                else:
                    columns.append(pyarrow.nulls(table.num_rows, one.type))
            texts: list[Any] = table.column(self.column).to_pylist()
        errors: list[str | None] = [None] * len(texts)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                texts[row], errors[row] = None, _no_text(text, self.column)
        places = [f"{self.source.name} row {number + 1}" for number in range(low, high)]
        return Block(pyarrow.table(columns, schema=self.schema), texts, errors, places)

    def close(self) -> None:
        if self._at is not None:
            self._batches = iter(())
            self._context.__exit__(None, None, None)
            self._at = None


class _RowsCursor(_Cursor):
    def __init__(self, source: Source, schema: Any, column: str) -> None:
        super().__init__(source, schema, column)
        self._rows: _Rows | None = None
        self._at = 0
        self._kinds = {
            one.name: "json" if one.metadata else str(one.type)
            for one in schema
            if source.columns is not None and one.name in source.columns
        }

    def read(self, low: int, high: int) -> Block:
        import pyarrow

        if self._rows is None:
            self._rows = _Rows(self.source)
        with _named(self.source):
            self._rows.skip(low - self._at)
            records = list(itertools.islice(self._rows, high - low))
            self._at = high
            self.check(len(records), high - low)
        texts: list[str | None] = []
        errors: list[str | None] = []
        places = []
        columns: dict[str, list[Any]] = {one.name: [] for one in self.schema}
        for number, row in records:
            bad = row if isinstance(row, str) else None
            values: dict[str, Any] = {} if isinstance(row, str) else row
            text = values.get(self.column)
            if bad is None and not isinstance(text, str):
                bad = _no_text(text, self.column)
            texts.append(text if bad is None else None)
            errors.append(bad)
            places.append(f"{self.source.name} {self._rows.unit} {number}")
            for name, column in columns.items():
                column.append(_value(values.get(name), self._kinds.get(name, "")))
        arrays = [pyarrow.array(columns[one.name], one.type) for one in self.schema]
        return Block(pyarrow.table(arrays, schema=self.schema), texts, errors, places)

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()


def _no_text(value: Any, column: str) -> str:
    shown = "nothing" if value is None else repr(value)[:80]
    return f"Column {column!r} has {shown}: a text is needed."


def _value(value: Any, kind: str) -> Any:
    if kind == "json":
        return None if value is None else json.dumps(value, ensure_ascii=True)
    if kind == "double" and value is not None:
        return float(value)
    if isinstance(value, str) and not value.isascii():
        # JSON may hold half of a surrogate pair, which no file in UTF-8 can.
        return value if _encodable(value) else value.encode("utf-8", "replace").decode("utf-8")
    return value


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def _named(source: Source) -> Iterator[None]:
    """Turn what libraries raise into an InputError with the file's name."""
    try:
        yield
    except EdgeImdbError:
        raise
    except (EOFError, OSError, ValueError, UnicodeError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(
                f"{source.name} can't be read ({error.strerror}): check the path and permissions."
            ) from None
        what = {"parquet": "a readable Parquet file", "json": "a JSON array of objects"}.get(source.format)
        if source.compression and not isinstance(error, json.JSONDecodeError):
            what = f"readable {source.compression}"
        reason = first_line(error)
        raise InputError(
            f"{source.name} is not {what or 'readable'} to its end ({reason}): it may be truncated; copy it again."
        ) from None


@contextlib.contextmanager
def _parquet(source: Source) -> Iterator[Any]:
    parquet = require("pyarrow.parquet", "pyarrow", "edge-imdb score")
    # Not memory-mapped: a truncated file must end in an error and not in a signal.
    with source.file.open() as file, parquet.ParquetFile(file) as opened:
        yield opened


class _Rows:
    """``(number, row)`` of a CSV, TSV, JSON or text file: a dict, or a str that says what is wrong with the row.

    Blank lines of CSV and JSON Lines are not rows, as in ``tables``; a blank line of a text file is one.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.unit = "entry" if source.format == "json" else "line"
        self._raw: IO[bytes] = source.file.open()
        self._file = _unpacked(self._raw, source.compression)
        self.header: list[str] = []
        self._records = self._split()

    def _split(self) -> Iterator[tuple[int, Any]]:
        if self.source.format in ("csv", "tsv"):
            return self._csv("\t" if self.source.format == "tsv" else ",")
        if self.source.format == "json":
            return _array(self._file)
        lines = self._lines()
        if self.source.format == "jsonl":
            return ((number, line) for number, line in lines if line.strip())
        return lines

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        mark = len(codecs.BOM_UTF8)
        for number, line in enumerate(self._file, 1):
            yield number, line[mark:] if number == 1 and line.startswith(codecs.BOM_UTF8) else line

    def _csv(self, delimiter: str) -> Iterator[tuple[int, Any]]:
        csv.field_size_limit(_FIELD_LIMIT)
        # What isn't UTF-8 is found in the row where it stands.
        text = io.TextIOWrapper(self._file, encoding="utf-8-sig", errors="surrogateescape", newline="")  # type: ignore[type-var]
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if not self.header:
                    raise InputError(f"{self.source.name} line 1 is not valid CSV ({error}): correct it.") from None
                yield reader.line_num, f"It is not valid CSV ({error})."
                continue
            if not row:
                continue
            if self.header:
                yield reader.line_num, row
                continue
            self.header = row
            double = sorted({name for name in row if row.count(name) > 1})
            if double:
                raise InputError(f"{self.source.name} has two columns named {double[0]!r}: give each its own name.")
            if not all(map(_encodable, row)):
                raise InputError(f"{self.source.name} is not UTF-8: save it as UTF-8 and try again.")

    def _parsed(self, raw: Any) -> dict[str, Any] | str:
        if isinstance(raw, str):
            return raw
        if isinstance(raw, list) and self.source.format != "json":
            if len(raw) != len(self.header):
                return (
                    f"It has {len(raw)} fields where the header has {len(self.header)}: put texts that hold the "
                    "delimiter between double quotes."
                )
            bad = next((value for value in raw if not value.isascii() and not _encodable(value)), None)
            if bad is not None:
                byte = next(ord(sign) - 0xDC00 for sign in bad if 0xDC80 <= ord(sign) <= 0xDCFF)
                return f"It is not UTF-8 (byte {byte:#04x})."
            return dict(zip(self.header, raw, strict=True))
        if not isinstance(raw, bytes):
            return raw if isinstance(raw, dict) else "It is not a JSON object."
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"It is not UTF-8 (byte {raw[error.start]:#04x})."
        if self.source.format == "text":
            return {"text": line.rstrip("\r\n")}
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            torn = "" if line.endswith("\n") else ", and the file ends within it"
            return f"It is not a JSON object{torn}."
        return value if isinstance(value, dict) else "It is not a JSON object."

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        for number, raw in self._records:
            yield number, self._parsed(raw)

    def skip(self, rows: int) -> None:
        """Skip rows, parsing only as much of them as shows where they end."""
        if rows:
            next(itertools.islice(self._records, rows - 1, rows), None)

    def count(self) -> tuple[int, dict[str, str]]:
        """The number of rows, and the kind of each column."""
        rows = 0
        if self.source.format in ("csv", "tsv", "text"):
            rows = sum(1 for _ in self._records)
            return rows, dict.fromkeys(self.header if self.source.format != "text" else ["text"], "string")
        kinds: dict[str, str] = {}
        for _, row in self:
            rows += 1
            if isinstance(row, dict):
                for name, value in row.items():
                    kinds[name] = _common(kinds.get(name, "null"), _kind(value))
        return rows, kinds

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.close()
        self._raw.close()


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        # What a double holds too, if it turns out that others of the column are not whole numbers.
        return "int64" if -_EXACT <= value <= _EXACT else "json"
    return {float: "double", str: "string"}.get(type(value), "json")


def _unpacked(raw: IO[bytes], compression: str | None) -> IO[bytes]:
    if compression == "gzip":
        import gzip

        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if compression == "zstd":
        pyarrow = require("pyarrow", "pyarrow", "edge-imdb score")
        return io.BufferedReader(_Zstd(pyarrow.CompressedInputStream(raw, "zstd")), _CHUNK)
    return raw


class _Zstd(io.RawIOBase):
    """pyarrow's decompression as a file of Python's, which can be read line by line."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _array(file: Iterable[bytes] | IO[bytes]) -> Iterator[tuple[int, Any]]:
    """The entries of a JSON array, of which no more than one is held at a time."""
    decoder, decode = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8-sig")()
    buffer, at, number, ended = "", 0, 0, False

    def fill() -> bool:
        nonlocal buffer, at, ended
        if ended:
            return False
        chunk = file.read(_CHUNK)  # type: ignore[union-attr]
        ended = not chunk
        buffer, at = buffer[at:] + decode.decode(chunk, ended), 0
        return True

    def sign() -> str:
        """The next character that is not white space; '' at the end."""
        nonlocal at
        while True:
            while at < len(buffer) and buffer[at] in " \t\r\n":
                at += 1
            if at < len(buffer):
                return buffer[at]
            if not fill():
                return ""

    if sign() != "[":
        raise ValueError("it doesn't begin with [")
    at += 1
    if sign() == "]":
        at += 1
    else:
        while True:
            sign()
            while True:
                try:
                    value, end = decoder.raw_decode(buffer, at)
                    # A number may go on in the next chunk.
                    if end < len(buffer) or ended:
                        break
                except json.JSONDecodeError:
                    if ended or len(buffer) - at > _FIELD_LIMIT:
                        raise
                fill()
            at = end
            number += 1
            yield number, value if isinstance(value, dict) else "It is not a JSON object."
            follows = sign()
            at += 1
            if follows == "]":
                break
            if follows != ",":
                raise ValueError(f"entry {number} is followed by neither , nor ]")
    if sign():
        raise ValueError("there is text after the array")
