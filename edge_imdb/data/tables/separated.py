"""SeparatedRows and csv_line: CSV and TSV, read so that a stray quote costs one row, and written.

A quote that is never closed opens a field that goes on over all following rows. So a record of several lines that
can't be parsed is taken apart again: its first line is a bad row, and reading goes on at its second line. The lines
up to the one where parsing failed are accepted as rows only if they have the header's number of fields and no quote
inside an unquoted field; otherwise they are bad rows too. A record that can be parsed is never taken apart,
unless it has the wrong number of fields while every line inside it has the right one.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ...errors import InputError, UsageError
from .decoding import bad_byte
from .kinds import FORMAT_NAMES

DELIMITERS = {"csv": ",", "tsv": "\t"}
# A record of this many characters on several lines isn't a review: the quote that opens it isn't closed.
_LIMIT = 1 << 24
_OTHERS = {";": "';'", "\t": "a tab", "|": "'|'"}


class Record(NamedTuple):
    """The fields of a row, the number of the line where it begins, and what is wrong with it."""

    line: int
    fields: list[str]
    error: str | None


class _TooLongError(Exception):
    """Many lines were read without the end of a quoted field."""


class _Lines:
    """Numbered lines that can be given back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._back = iter(lines), deque[str]()
        self.number = 0
        self.held: list[str] = []
        self._size = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.number += 1
        self.held.append(line)
        self._size += len(line)
        if self._size > _LIMIT and len(self.held) > 1:
            raise _TooLongError
        return line

    def give_back(self, lines: Sequence[str]) -> None:
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)

    def begin(self) -> None:
        self.held, self._size = [], 0


class SeparatedRows:
    """An iterator over the records behind the header; ``columns`` is the header, or empty if there is none."""

    def __init__(self, lines: Iterable[str], delimiter: str, name: str) -> None:
        # The default limit is 128 KiB per field, and a review may be longer.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        self._lines, self._delimiter = _Lines(lines), delimiter
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)
        field = rf'(?:"(?:[^"]|"")*+"|[^"{re.escape(delimiter)}]*+)'
        self._clean = re.compile(rf"{field}(?:{re.escape(delimiter)}{field})*+[\r\n]*")
        # The lines in which a quote that isn't closed may have been read wrongly, and the line of that quote.
        self._doubt, self._cause = 0, 0
        self.columns: list[str] = []
        head = next(self._lines, "")
        self.hint = other_delimiter(head.rstrip("\r\n").split(delimiter))
        self._lines.give_back([head] if head else [])
        first = next(self._records(), None)
        if first is None:
            return
        if first.error is not None:
            raise InputError(f"{name} line {first.line} {first.error}")
        if bad_byte("".join(first.fields)) is not None:
            raise InputError(f"{name} is not UTF-8: save it as UTF-8 and try again.")
        self.columns = column_names(first.fields, name)

    def __iter__(self) -> Iterator[Record]:
        return self._records()

    def _records(self) -> Iterator[Record]:
        lines = self._lines
        while True:
            lines.begin()
            try:
                line = next(lines)
            except StopIteration:
                return
            start = lines.number
            if '"' not in line:
                body = line.rstrip("\r\n")
                if body:
                    yield self._checked(start, body.split(self._delimiter))
                continue
            lines.give_back([line])
            lines.begin()
            yield self._quoted(start)

    def _quoted(self, start: int) -> Record:
        lines = self._lines
        fields: list[str] = []
        error: str | None = None
        try:
            fields = next(self._reader)
        except csv.Error as caught:
            error = f"is not valid CSV ({caught}): {self.hint or 'correct it.'}"
        except _TooLongError:
            error = ""
        held = lines.held
        if error is None and (len(held) == 1 or not self._torn(fields, held)):
            if start <= self._doubt and not self._clean.fullmatch("".join(held)):
                return Record(
                    start, fields, f"comes after the quote in line {self._cause}, which isn't closed: correct that row."
                )
            return self._checked(start, fields)
        first = next(csv.reader(held[:1], delimiter=self._delimiter))
        first[-1] = first[-1].rstrip("\r\n")
        if len(held) == 1:
            return Record(start, first, error)
        if start > self._doubt:
            self._cause = start
        self._doubt = max(self._doubt, lines.number)
        lines.give_back(held[1:])
        if self.hint:
            return Record(start, first, f"is not valid CSV: {self.hint}")
        return Record(
            start,
            first,
            "is not valid CSV (it opens a quote that isn't closed): close it, or double a quote that is part of a "
            "text between quotes.",
        )

    def _torn(self, fields: list[str], held: list[str]) -> bool:
        """Whether a record of several lines that could be parsed is several rows nevertheless."""
        width = len(self.columns)
        inner = held[1:-1]
        return bool(inner) and width > 1 and len(fields) != width and all(self._alone(line, width) for line in inner)

    def _alone(self, line: str, width: int) -> bool:
        if not self._clean.fullmatch(line):
            return False
        return len(next(csv.reader([line], delimiter=self._delimiter), [])) == width

    def _checked(self, line: int, fields: list[str]) -> Record:
        error = None
        if self.columns and len(fields) != len(self.columns):
            shown = "tabs" if self._delimiter == "\t" else repr(self._delimiter)
            advice = self.hint or f"put texts that hold {shown} between double quotes."
            error = (
                f"has a different number of fields than the header ({len(fields)}, not {len(self.columns)}): {advice}"
            )
        return Record(line, fields, error)

    def values(self, fields: list[str]) -> dict[str, str]:
        """The fields by their columns. Of too many, the last column gets the rest; of too few, columns are missing."""
        columns = self.columns
        if len(fields) > len(columns):
            fields = [*fields[: len(columns) - 1], self._delimiter.join(fields[len(columns) - 1 :])]
        return dict(zip(columns, fields, strict=False))


def column_names(names: Sequence[str], where: str) -> list[str]:
    """``names``, which must differ. Several columns without a name are called by their number.

    Raises InputError for two columns of the same name.

    >>> column_names(["text", "", ""], "reviews.csv")
    ['text', 'column_2', 'column_3']
    """
    if names.count("") > 1:
        names = [name or f"column_{number}" for number, name in enumerate(names, 1)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{where} has two columns named {name!r}: give each its own name.")
        seen.add(name)
    return list(names)


def other_delimiter(names: Sequence[str]) -> str:
    """What to do about a header that seems to have another delimiter; empty if it doesn't.

    >>> other_delimiter(["text;label"])
    "its delimiter seems to be ';': give --delimiter ';', or save the file with commas."
    """
    if len(names) == 1:
        for sign, shown in _OTHERS.items():
            if sign in str(names[0]):
                given = "'\\t'" if sign == "\t" else shown
                return f"its delimiter seems to be {shown}: give --delimiter {given}, or save the file with commas."
    return ""


def check_delimiter(delimiter: str | None, kind: str, name: str) -> str:
    r"""The delimiter of a file of format ``kind``. Raises UsageError for a wrong one, or for another kind of file.

    >>> check_delimiter(None, "csv", "reviews.csv"), check_delimiter("\\t", "csv", "reviews.csv")
    (',', '\t')
    """
    if delimiter is None:
        return DELIMITERS.get(kind, "")
    delimiter = "\t" if delimiter == "\\t" else delimiter
    if kind not in DELIMITERS:
        raise UsageError(f"A delimiter is for CSV and TSV, but {name} is {FORMAT_NAMES[kind]}: leave it out.")
    if len(delimiter) != 1 or delimiter in '"\r\n' or (not delimiter.isprintable() and delimiter != "\t"):
        raise UsageError(f"The delimiter is {delimiter!r}: give one character, such as ';' or '\\t' for a tab.")
    return delimiter


def csv_line(values: Sequence[object], delimiter: str = ",") -> str:
    r"""A line of CSV. Unlike Python's csv before 3.11.9, it quotes a value with a CR, which ends a line for readers.

    >>> csv_line(["great\rfilm", 0.5, None])
    '"great\rfilm",0.5,\n'
    """
    shown = ["" if value is None else str(value) for value in values]
    quoted = [
        '"' + text.replace('"', '""') + '"' if any(map(text.__contains__, (delimiter, '"', "\r", "\n"))) else text
        for text in shown
    ]
    # An empty line would not be a row.
    return (delimiter.join(quoted) if quoted != [""] else '""') + "\n"
