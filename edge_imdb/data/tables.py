"""iter_rows, iter_texts, iter_lines: rows and texts of CSV, TSV, JSON, JSON Lines, Parquet and text, read once.

Any of them may be compressed with gzip or zstd (``reviews.csv.gz``). All may come through a pipe; all but Parquet row
by row, as they arrive.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import importlib
import io
import itertools
import json
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from ..errors import InputError, MissingDependencyError, UsageError, first_line

TABLES = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".json": "JSON",
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".parquet": "Parquet",
}
# A file without an extension is text too: a pipe, /dev/stdin, <(…).
TEXT = ("", ".txt", ".text", ".log")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
KINDS = f"{', '.join(TABLES)} or {', '.join(filter(None, TEXT))}, each also with {' or '.join(COMPRESSED)} behind it"
# What edge-imdb score puts before the names of its columns where the input has one of that name already.
PREFIX = "predicted_"
# Small enough that a progress bar moves.
_BLOCK = 1 << 14
_SPACE = re.compile(r"[ \t\r\n]*")
_DELIMITERS = {";": "';'", "\t": "a tab", "|": "'|'"}

Read = Callable[[int], None]


def require(module: str, package: str, purpose: str) -> Any:
    """Import ``module`` or say which package to install."""
    try:
        return importlib.import_module(module)
    except MissingDependencyError:
        raise
    except ImportError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependencyError(
            f"{purpose} needs {package}, which is not installed: pip install {package}"
        ) from error


def extensions(path: Path) -> tuple[str, str]:
    """The extension that names a file's kind, and that of its compression, both in small letters, perhaps empty."""
    last = path.suffix.lower()
    return (Path(path.stem).suffix.lower(), last) if last in COMPRESSED else (last, "")


def is_table(path: Path) -> bool:
    """Whether the name of a file says that it has columns."""
    return extensions(path)[0] in TABLES


def check_kind(path: Path) -> None:
    """Raise InputError if there is no such file, or if it is a folder or of an unknown kind."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give a file of texts.")
    if not path.exists():
        raise InputError(f"There is no file {path}: check the path.")
    kind = extensions(path)[0]
    if kind not in TABLES and kind not in TEXT:
        raise InputError(
            f"{path} is of a kind that edge-imdb can't read ({kind}): use {KINDS}; rename a text file, or pipe it in."
        )


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


class _Zstandard(io.RawIOBase):
    """What zstandard decompresses. Raises EOFError if the file is truncated, which its own reader does not."""

    def __init__(self, file: io.RawIOBase, package: Any) -> None:
        self._file, self._package = file, package
        self._frame = package.ZstdDecompressor().decompressobj()
        self._started, self._left, self._place = False, b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._place == len(self._left):
            # A file may have several frames, one after another.
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._started = self._package.ZstdDecompressor().decompressobj(), False
            data = data or self._file.read(_BLOCK)
            if not data:
                if self._started:
                    raise EOFError("it ends too soon")
                return 0
            self._started = True
            self._left, self._place = self._frame.decompress(data), 0
        part = self._left[self._place : self._place + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: Path, read: Read | None) -> IO[bytes]:
    """The bytes of a file, decompressed."""
    check_kind(path)
    try:
        raw: io.RawIOBase = path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check its permissions.") from None
    if read is not None:
        raw = _Counted(raw, read)
    compression = extensions(path)[1]
    if compression == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value, call-overload, no-any-return]
    if compression == ".zst":
        try:
            standard: Any = importlib.import_module("compression.zstd")
        except ImportError:
            return io.BufferedReader(_Zstandard(raw, require("zstandard", "zstandard", "Reading .zst")), _BLOCK)
        opened: IO[bytes] = standard.ZstdFile(raw)
        return opened
    return io.BufferedReader(raw, _BLOCK)


def _decompression_errors(path: Path) -> tuple[type[Exception], ...]:
    """What reading a compressed file that is damaged or of another kind may raise."""
    errors: list[type[Exception]] = [EOFError, gzip.BadGzipFile, zlib.error]
    if extensions(path)[1] == ".zst":
        for name in ("compression.zstd", "zstandard"):
            if (module := sys.modules.get(name)) is not None:
                errors.append(module.ZstdError)
    return tuple(errors)


def column_of(row: dict[str, Any], column: str, where: str) -> Any:
    if column not in row:
        names = ", ".join(repr(str(name)) for name in row) or "none"
        raise InputError(
            f"{where} has no column {column!r}: it has {names}; {_other_delimiter(list(row)) or 'name the right one.'}"
        )
    return row[column]


def _other_delimiter(names: list[str]) -> str:
    """What to do about a header that seems to be separated by something else; empty if it doesn't."""
    if len(names) == 1:
        for sign, shown in _DELIMITERS.items():
            if sign in str(names[0]):
                given = "'\\t'" if sign == "\t" else shown
                return f"its delimiter seems to be {shown}: give --delimiter {given}, or save the file with commas."
    return ""


def iter_rows(
    path: Path, delimiter: str | None = None, read: Read | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a table with its place, e.g. ``("reviews.csv line 3", {"text": ...})``.

    The file is read once, row by row, so it may be a pipe. ``delimiter`` separates the fields: by default a comma in
    CSV and a tab in TSV. ``read`` is called with the number of bytes that were read, before decompression.

    Raises InputError if the file is missing or not what its extension says, UsageError for a wrong ``delimiter``,
    MissingDependencyError if its kind needs a package that isn't installed.
    """
    kind = TABLES[extensions(path)[0]]
    if delimiter is not None:
        delimiter = _checked_delimiter(path, kind, delimiter)
    if kind == "Parquet":
        check_kind(path)
        require("pyarrow.parquet", "pyarrow", "Reading Parquet")
    try:
        with _open(path, None if kind == "Parquet" else read) as file:
            if kind == "Parquet":
                yield from _parquet_rows(path, file, read)
                return
            if kind == "JSON":
                yield from _json_rows(path, file)
                return
            # Without translation of line ends, which are part of a field between quotes.
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            if kind in ("CSV", "TSV"):
                yield from _separated_rows(path, text, delimiter or {"CSV": ",", "TSV": "\t"}[kind])
            else:
                yield from _json_lines(path, text)
    except UnicodeDecodeError as error:
        _refuse_encoding(str(path), error)
    except _decompression_errors(path) as error:
        _refuse_compression(path, error)


def _refuse_encoding(name: str, error: UnicodeDecodeError) -> NoReturn:
    raise InputError(
        f"{name} is not UTF-8 (byte {error.object[error.start]:#04x}): save it as UTF-8 and try again."
    ) from None


def _refuse_compression(path: Path, error: Exception) -> NoReturn:
    kind = COMPRESSED.get(extensions(path)[1], "")
    raise InputError(f"{path} is damaged or not a {kind} file ({error}): make it again.") from None


def _checked_delimiter(path: Path, kind: str, delimiter: str) -> str:
    delimiter = "\t" if delimiter == "\\t" else delimiter
    if kind not in ("CSV", "TSV"):
        raise UsageError(f"A delimiter is for CSV and TSV, but {path} is {kind}: leave it out.")
    if len(delimiter) != 1 or delimiter in '"\r\n' or (not delimiter.isprintable() and delimiter != "\t"):
        raise UsageError(f"The delimiter is {delimiter!r}: give one character, such as ';' or '\\t' for a tab.")
    return delimiter


def _separated_rows(path: Path, file: IO[str], delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # The default limit is 128 KiB per field, and a review may be longer.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    head = file.readline()
    hint = _other_delimiter(head.rstrip("\r\n").split(delimiter))
    reader = csv.DictReader(itertools.chain([head], file) if head else file, strict=True, delimiter=delimiter)
    try:
        for row in reader:
            if None in row or None in row.values():
                hint = hint or (
                    f"put texts that hold {'tabs' if delimiter == chr(9) else repr(delimiter)} between double quotes."
                )
                raise InputError(
                    f"{path} line {reader.line_num} has a different number of fields than the header: {hint}"
                )
            yield f"{path} line {reader.line_num}", row
    except csv.Error as error:
        # Another delimiter behind a quote is one. The line is the csv module's: DictReader has that of the row before.
        raise InputError(
            f"{path} line {reader.reader.line_num} is not valid CSV ({error}): {hint or 'correct it.'}"
        ) from None


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(
                f'{path} line {number} is not a JSON object: write one such as {{"text": "…"}} on each line.'
            )
        yield f"{path} line {number}", row


def _json_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of an array, each as soon as it is there; JSON Lines if the file begins with anything else."""
    parts, start = _decoded(file), ""
    while not start.strip():
        part = next(parts, None)
        if part is None:
            return
        start += part
    if start.lstrip().startswith("["):
        yield from _json_array(path, start.lstrip()[1:], parts)
    else:
        yield from _json_lines(path, _lines(itertools.chain([start], parts)))


def _json_array(path: Path, text: str, parts: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What comes after the ``[`` of an array: ``text``, and then ``parts``."""
    decoder, number, place = json.JSONDecoder(), 0, 0
    while True:
        place = _SPACE.match(text, place).end()  # type: ignore[union-attr]
        mark = text[place : place + 1]
        if mark == "]":
            if text[place + 1 :].strip() or any(part.strip() for part in parts):
                raise InputError(f"{path} has text after its array: give one array of objects, or use .jsonl.")
            return
        if mark and number and mark != ",":
            raise InputError(f"{path} row {number + 1} isn't separated from the previous row by a comma: add it.")
        begin = _SPACE.match(text, place + bool(number)).end()  # type: ignore[union-attr]
        if text[begin : begin + 1] not in ("", "{"):
            raise InputError(
                f'{path} row {number + 1} is not a JSON object: give an array such as [{{"text": "…"}}, …].'
            )
        try:
            row, place = decoder.raw_decode(text, begin)
        except (json.JSONDecodeError, RecursionError):
            more = list(_until_brace(parts))
            if not more:
                raise InputError(
                    f"{path} row {number + 1} is not valid JSON, or the array has no end: "
                    'give one such as [{"text": "…"}].'
                ) from None
            text, place = text[place:] + "".join(more), 0
            continue
        number += 1
        yield f"{path} row {number}", row


def _until_brace(parts: Iterator[str]) -> Iterator[str]:
    """Parts up to the first in which an object or the array may end, so that a long object isn't parsed for each."""
    for part in parts:
        yield part
        if "}" in part or "]" in part:
            return


def _decoded(file: IO[bytes]) -> Iterator[str]:
    """A text piece by piece, as it arrives."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    while data := file.read1(_BLOCK):  # type: ignore[attr-defined]
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


def _lines(parts: Iterable[str]) -> Iterator[str]:
    rest: list[str] = []
    for part in parts:
        *ended, last = part.split("\n")
        for line in ended:
            yield "".join([*rest, line])
            rest = []
        rest.append(last)
    yield "".join(rest)


def _parquet_rows(path: Path, file: IO[bytes], read: Read | None) -> Iterator[tuple[str, dict[str, Any]]]:
    parquet = require("pyarrow.parquet", "pyarrow", "Reading Parquet")
    try:
        # Its table of contents stands at the end, so that what can't be read from there is copied first.
        with tempfile.TemporaryFile() as copy:
            if not file.seekable() or extensions(path)[1]:
                shutil.copyfileobj(file, copy)
                file = copy
            size = path.stat().st_size
            # Not memory-mapped, so that a truncated file ends in an error and not in a signal.
            with parquet.ParquetFile(file) as table:
                number, rows, told = 0, table.metadata.num_rows, 0
                for batch in table.iter_batches(1024):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path} row {number}", row
                        if read is not None:
                            read(size * number // rows - told)
                            told = size * number // rows
    except _decompression_errors(path) as error:
        _refuse_compression(path, error)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({first_line(error)}).") from None


def iter_texts(
    path: Path, column: str = "text", delimiter: str | None = None, read: Read | None = None
) -> Iterator[tuple[str, str]]:
    """Yield ``(place, text)`` for each row of a table (by its extension, see ``TABLES``), else for each line of text.

    The arguments and errors are those of ``iter_rows``; and InputError if the file is empty or lacks the column, or if
    a row has no text in it.
    """
    for place, text in iter_values(path, column, delimiter, read):
        if not isinstance(text, str):
            raise InputError(no_text(place, text, column))
        yield place, text


def no_text(place: str, value: object, column: str) -> str:
    return f"{place} has {'null' if value is None else repr(value)[:80]} in column {column!r}: a text is needed."


def iter_values(
    path: Path, column: str = "text", delimiter: str | None = None, read: Read | None = None
) -> Iterator[tuple[str, Any]]:
    """Like ``iter_texts``, but with the column's values as they are, null included."""
    count = 0
    if is_table(path):
        for place, row in iter_rows(path, delimiter, read):
            count += 1
            yield place, column_of(row, column, place)
    else:
        if delimiter is not None:
            check_kind(path)
            raise UsageError(f"A delimiter is for CSV and TSV, but {path} is text: leave it out.")
        try:
            with _open(path, read) as file:
                for line in iter_lines(file, str(path)):
                    count += 1
                    yield line
        except _decompression_errors(path) as error:
            _refuse_compression(path, error)
    if not count:
        raise InputError(f"{path} is empty: give a file with at least one review.")


def iter_lines(file: IO[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Yield ``(place, text)`` for each line of text. Raises InputError if it is not UTF-8."""
    try:
        for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), 1):
            yield f"{name} line {number}", line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        _refuse_encoding(name, error)
