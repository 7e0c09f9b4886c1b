"""Rows: the rows of a CSV, TSV, JSON, JSON Lines or text file, good and bad, in constant memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from .decoding import bad_byte, open_text, printable
from .json_rows import check_object, json_records, parse_object
from .separated import SeparatedRows, check_delimiter


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it begins, such as ``line 3``, its values by column, and what is wrong with it, if anything.

    ``error`` continues a sentence that begins with the row: ``is not valid CSV …``. A bad row has the values that could
    be read; ``raw`` is its text if none could.
    """

    position: str
    values: dict[str, Any]
    error: str | None = None
    raw: str | None = None


class Rows:
    """An iterator over the rows of ``file``, a buffered stream that is read once.

    ``kind`` is a value of ``INPUT_FORMATS`` other than ``parquet``. ``columns`` is the header of CSV and TSV, and
    ``["text"]`` for text; None for JSON. Blank lines of CSV and JSON Lines are not rows; a blank line of text is one.

    Raises InputError if the file as a whole can't be read: a wrong header, or an array of JSON that isn't valid.

    >>> import io
    >>> [row.values for row in Rows(io.BufferedReader(io.BytesIO(b"text,n\\ngreat,1\\n")), "csv", "reviews.csv")]
    [{'text': 'great', 'n': '1'}]
    """

    def __init__(self, file: IO[bytes], kind: str, name: str, delimiter: str | None = None) -> None:
        delimiter = check_delimiter(delimiter, kind, name)
        self.columns: list[str] | None = None
        self._kind = kind
        self._records: Iterator[Any]
        if kind in ("csv", "tsv"):
            self._separated = SeparatedRows(open_text(file), delimiter, name)
            self.columns = self._separated.columns
            self._records = iter(self._separated)
        elif kind == "text":
            self.columns = ["text"]
            self._records = enumerate(open_text(file), 1)
        else:
            self._records = json_records(file, kind, name)

    def __iter__(self) -> Iterator[Row]:
        return map(self._parsed, self._records)

    def skip(self, count: int | None = None) -> int:
        """Skip ``count`` rows, or all, parsing only as much as shows where they end; the number of rows skipped."""
        return sum(1 for _ in itertools.islice(self._records, count))

    def _parsed(self, record: Any) -> Row:
        if self._kind in ("csv", "tsv"):
            return self._parsed_fields(*record)
        if self._kind == "text":
            number, line = record
            text, error = _decoded(line.rstrip("\r\n"))
            return Row(f"line {number}", {"text": text}, error)
        unit, number, content = record
        values, error = parse_object(content) if unit == "line" else check_object(content)
        raw = None
        if error is not None and not values:
            raw = printable(content.rstrip("\r\n")) if unit == "line" else str(content)
        return Row(f"{unit} {number}", values, error, raw)

    def _parsed_fields(self, number: int, fields: list[str], error: str | None) -> Row:
        if not all(map(str.isascii, fields)):
            decoded = [_decoded(field) for field in fields]
            fields = [text for text, _ in decoded]
            error = error or next((wrong for _, wrong in decoded if wrong), None)
        return Row(f"line {number}", self._separated.values(fields), error)


def _decoded(text: str) -> tuple[str, str | None]:
    """A text without bytes that aren't UTF-8, and what is wrong with it."""
    byte = bad_byte(text)
    if byte is None:
        return text, None
    return printable(text), f"is not UTF-8 (byte {byte:#04x}): save it as UTF-8 and try again."
