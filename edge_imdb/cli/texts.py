"""The texts of ``predict``, ``fill`` and ``explain``: arguments, a file or standard input; and their JSON output."""

from __future__ import annotations

import contextlib
import itertools
import json
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import BlankError, InputError, UsageError
from .common import progress_bar, say

Result = TypeVar("Result")
STANDARD_INPUT = "-"
# Characters that JSON allows in a string and str.splitlines takes for a line end.
_LINE_ENDS = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"})
# The number of blank rows that are reported individually.
_NAMED = 5

text_arguments = click.argument("texts", metavar="[TEXT]...", nargs=-1)


def file_options(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options ``file``, ``column``, ``delimiter`` and ``skip_blank`` of a command that reads ``kind``."""
    options = [
        click.option(
            "--file",
            "file",
            type=click.Path(path_type=Path),
            help=f"File or pipe of {kind}: one per line, or .csv, .tsv, .json, .jsonl, .parquet; each also as .gz "
            "or .zst.",
        ),
        click.option("--column", default="text", show_default=True, help=f"Column of --file that holds the {kind}."),
        click.option(
            "--delimiter", help="Delimiter of the .csv or .tsv in --file.  [default: comma for .csv, tab for .tsv]"
        ),
        click.option(
            "--skip-blank", is_flag=True, help=f"Skip blank {kind} and nulls instead of stopping at the first one."
        ),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True)
class Row:
    """A text, its number from 1, and its position, such as ``"reviews.csv line 3"``.

    ``text`` is not a str if the column holds null or a number in this row.
    """

    number: int
    place: str
    text: Any
    column: str | None = None

    def of(self, function: Callable[[str], Result]) -> Result:
        """``function`` of the text. An InputError names the position, unless the command line has a single text."""
        if self.text is None or not isinstance(self.text, str):
            from ..data.tables import no_text

            message = no_text(self.place, self.text, self.column or "text")
            raise (
                BlankError(f"{message[:-1]}, or use --skip-blank to skip it.")
                if self.text is None
                else InputError(message)
            )
        try:
            return function(self.text)
        except BlankError:
            kind = BlankError if self.column is not None else _BlankArgument
            raise kind(
                f"{self.place} is blank: give a text with visible characters, or use --skip-blank to skip it."
            ) from None
        except InputError as error:
            raise error if self.place == "The text" else InputError(f"{self.place}: {error}") from None


class _BlankArgument(BlankError):
    """A blank text on the command line, which counts as wrong usage."""

    exit_code = 2


@dataclass
class Rows:
    """The texts of a command, read lazily and once. ``size`` (None for a pipe) and ``read`` are in bytes."""

    rows: Iterator[Row]
    size: int | None = None
    read: int = 0
    skip_blank: bool = False
    _skipped: int = field(default=0, init=False)

    def each(self, function: Callable[[str], Result], workers: int, label: str) -> Iterator[tuple[Row, Result | None]]:
        """Each row with ``function`` of its text, in order, as soon as it is done; None for a row that is skipped.

        A progress bar is shown if standard error is a terminal and standard output is not.
        """
        from ..data.inputs import ordered_map

        def one(row: Row) -> tuple[Row, Result | BlankError]:
            try:
                return row, row.of(function)
            except BlankError as error:
                if not self.skip_blank:
                    raise
                return row, error

        hidden = self.size is None or sys.stdout.isatty()
        shown = 0
        with (
            contextlib.closing(_generator(ordered_map(one, self.rows, workers))) as results,
            progress_bar(None, self.size or 0, label, hidden=hidden) as bar,
        ):
            for row, result in results:
                if isinstance(result, BlankError):
                    self._skip(row)
                    yield row, None
                else:
                    yield row, result
                if self.read > shown:
                    bar.update(self.read - shown)
                    shown = self.read
        if self._skipped > _NAMED:
            say(f"{self._skipped} blank rows were skipped in total.")

    def _skip(self, row: Row) -> None:
        self._skipped += 1
        if self._skipped <= _NAMED:
            say(f"{row.place} is blank: skipped.")


def _generator(items: Iterator[Result]) -> Generator[Result, None, None]:
    yield from items


def open_rows(
    texts: tuple[str, ...], file: Path | None, column: str, delimiter: str | None, skip_blank: bool, example: str
) -> Rows:
    """The rows of a command line. Without texts and --file they come from standard input, unless it is a terminal.

    Raises UsageError or, for what can be known of a file without waiting, the errors of ``iter_texts``.
    """
    if file is not None and texts:
        raise UsageError("Give texts or --file, not both.")
    if STANDARD_INPUT in texts and len(texts) > 1:
        raise UsageError("- reads texts from standard input: give either - or texts, not both.")
    usage = f"Give a text, as in {example}, or --file, or - for standard input."
    if file == Path(STANDARD_INPUT):
        file, texts = None, (STANDARD_INPUT,)
    if delimiter is not None and file is None:
        raise UsageError("--delimiter is for --file: leave it out.")
    if file is not None:
        return _file_rows(file, column, delimiter, skip_blank)
    if texts in ((), (STANDARD_INPUT,)):
        if sys.stdin is None or (not texts and sys.stdin.isatty()):
            raise UsageError(usage)
        return Rows(_standard_input(None if texts else usage), skip_blank=skip_blank)
    alone = len(texts) == 1
    numbered = [Row(i, "The text" if alone else f"text {i}", text) for i, text in enumerate(texts, 1)]
    rows = Rows(iter(numbered), skip_blank=skip_blank)
    if not skip_blank:
        from ..data.text import is_blank

        # All texts are known, so that a blank last text is reported before the first label is printed.
        for row in numbered:
            if is_blank(row.text):
                row.of(_refuse_blank)
    return rows


def _refuse_blank(text: str) -> None:
    raise BlankError(text)


def _file_rows(file: Path, column: str, delimiter: str | None, skip_blank: bool) -> Rows:
    from ..data.tables import iter_values

    rows = Rows(iter(()), skip_blank=skip_blank)

    def read(count: int) -> None:
        rows.read += count

    values = iter_values(file, column, delimiter, read)
    # Read the first row before a model is opened, so that an unusable file is refused at once.
    first = next(values)
    status = file.stat()
    rows.size = status.st_size if stat.S_ISREG(status.st_mode) else None
    rows.rows = (
        Row(number, place, value, column) for number, (place, value) in enumerate(itertools.chain([first], values), 1)
    )
    return rows


def _standard_input(usage: str | None) -> Iterator[Row]:
    """The lines of standard input. ``usage`` says what to do if it is a terminal and nobody asked for it."""
    from ..data.tables import iter_lines

    number = 0
    # Not sys.stdin, whose lock a thread that waits for a line would hold when Python ends.
    with open(0, "rb", closefd=False) as file:
        for number, (place, text) in enumerate(iter_lines(file, "standard input"), 1):
            yield Row(number, place, text, "text")
    if not number:
        raise (
            UsageError(usage)
            if usage
            else InputError("Standard input is empty: give it at least one text, one per line.")
        )


def as_json_line(record: dict[str, Any]) -> str:
    """A record on one line, also for readers that split lines as str.splitlines does."""
    return json.dumps(record, ensure_ascii=False).translate(_LINE_ENDS)
