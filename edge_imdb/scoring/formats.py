"""encode, tally and join: parts as Parquet, CSV, TSV or JSON Lines, and a single file made of all parts."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from ..data.tables import csv_line
from ..data.tables.arrow_values import python_values, without_nan

OUTPUT_FORMATS = ("parquet", "csv", "tsv", "jsonl")
SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
# Bytes of columns in memory that make a row group when parts are joined.
_GROUP = 1 << 24


def encode(table: Any, kind: str) -> bytes:
    """The bytes of a part. Equal tables give equal bytes on every machine."""
    if kind == "parquet":
        from pyarrow import parquet

        sink = io.BytesIO()
        parquet.write_table(_combined(table), sink, compression="zstd")
        return sink.getvalue()
    raw = {one.name for one in table.schema if one.metadata and one.metadata.get(b"edge_imdb") == b"json"}
    names = table.column_names
    columns = [python_values(column) for column in table.columns]
    text = io.StringIO(newline="")
    if kind == "jsonl":
        columns = [_from_json(values) if name in raw else values for name, values in zip(names, columns, strict=True)]
        for row in zip(*columns, strict=True):
            # NaN and the infinities are no JSON.
            shown = without_nan(dict(zip(names, row, strict=True)))
            text.write(json.dumps(shown, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        text.write(csv_line(names, _DELIMITERS[kind]))
        for row in zip(*columns, strict=True):
            text.write(csv_line([_cell(value) for value in row], _DELIMITERS[kind]))
    return text.getvalue().encode("utf-8")


def _from_json(values: list[Any]) -> list[Any]:
    return [None if value is None else json.loads(value) for value in values]


def _combined(table: Any) -> Any:
    """``table`` with one chunk per column, because the chunks that reading made would change the bytes."""
    return table.combine_chunks()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(without_nan(value), ensure_ascii=False, allow_nan=False)
    # NaN is the only value that differs from itself.
    return None if value != value else value


def tally(data: bytes, kind: str, label: str | None, error: str) -> tuple[Counter[str], int]:
    """The number of rows with each label in a part, and the number of its rows with an error."""
    names = [error] if label is None else [label, error]
    if kind == "parquet":
        from pyarrow import parquet

        columns = parquet.read_table(io.BytesIO(data), columns=names).to_pydict()
        rows: Iterator[tuple[Any, ...]] = zip(*(columns[name] for name in names), strict=True)
    elif kind == "jsonl":
        rows = (tuple(json.loads(line)[name] for name in names) for line in io.BytesIO(data))
    else:
        # The default limit is 128 KiB per field, and a review may be longer.
        csv.field_size_limit(2**31 - 1)
        reader = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), delimiter=_DELIMITERS[kind])
        rows = (tuple(row[name] for name in names) for row in reader)
    labels: Counter[str] = Counter()
    errors = 0
    for row in rows:
        errors += bool(row[-1])
        if label is not None and row[0]:
            labels[row[0]] += 1
    return labels, errors


def join(parts: Sequence[str], get: Callable[[str], bytes], target: IO[bytes], kind: str, packed: str | None) -> None:
    """Write all parts to ``target`` as one file, with one part in memory at a time (Parquet: 16 MiB of columns)."""
    if kind == "parquet":
        _join_parquet(parts, get, target)
        return
    header = 0
    with _packed(target, packed) as file:
        for number, name in enumerate(parts):
            data = get(name)
            # Every part begins with a header, and the joined file has only the first.
            file.write(data[header:] if number else data)
            if not number and kind in _DELIMITERS:
                header = _header_length(data, _DELIMITERS[kind])


def _header_length(data: bytes, delimiter: str) -> int:
    names = next(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), delimiter=delimiter))
    return len(csv_line(names, delimiter).encode("utf-8"))


def _join_parquet(parts: Sequence[str], get: Callable[[str], bytes], target: IO[bytes]) -> None:
    import pyarrow
    from pyarrow import parquet

    held: list[Any] = []
    with contextlib.ExitStack() as stack:
        writer = None
        for number, name in enumerate(parts):
            held.append(parquet.read_table(io.BytesIO(get(name))))
            if writer is None:
                writer = stack.enter_context(parquet.ParquetWriter(target, held[0].schema, compression="zstd"))
            if sum(table.nbytes for table in held) >= _GROUP or number == len(parts) - 1:
                writer.write_table(_combined(pyarrow.concat_tables(held)))
                held.clear()


@contextlib.contextmanager
def _packed(target: IO[bytes], packed: str | None) -> Iterator[Any]:
    if packed == "gzip":
        import gzip

        # No name and no time in the header, so that equal parts give equal files.
        with gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0) as file:
            yield file
    elif packed == "zstd":
        import pyarrow

        with pyarrow.PythonFile(target, "w") as sink, pyarrow.CompressedOutputStream(sink, "zstd") as file:
            yield file
    else:
        yield target
