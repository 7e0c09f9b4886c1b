"""read_reviews and iter_texts: labelled reviews, or texts alone, from files, Hub-layout folders and the Hub."""

from __future__ import annotations

import csv
import importlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .errors import DataError, HubError, InputError, MissingDependencyError, SplitError
from .text import clean

TABLES = {".csv": "CSV", ".jsonl": "JSON Lines", ".ndjson": "JSON Lines", ".parquet": "Parquet"}


@dataclass
class Reviews:
    """Texts, and their labels as indices into ``names``. *Shape:* both lists ``(rows,)``."""

    texts: list[str]
    labels: list[int]
    names: list[str]

    def take(self, indices: Sequence[int]) -> Reviews:
        return Reviews([self.texts[i] for i in indices], [self.labels[i] for i in indices], self.names)


def require(module: str, package: str, purpose: str) -> Any:
    """Import ``module`` or say which package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependencyError(
            f"{purpose} needs {package}, which is not installed: pip install {package}"
        ) from error


def _open(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except FileNotFoundError:
        raise InputError(f"There is no file {path}: check the path.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder: give a file of texts.") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check its permissions.") from None


def _column(row: dict[str, Any], column: str, where: str) -> Any:
    if column not in row:
        names = ", ".join(repr(str(name)) for name in row) or "none"
        raise InputError(f"{where} has no column {column!r}: it has {names}; name the right one.")
    return row[column]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a table with the place it stands at, e.g. ``("reviews.csv line 3", {"text": ...})``."""
    kind = TABLES[path.suffix.lower()]
    if kind == "Parquet":
        yield from _parquet_rows(path)
        return
    with _open(path) as file:
        try:
            if kind == "CSV":
                # The default limit of 128 KiB a field is less than a review may have.
                csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
                reader = csv.DictReader(file, strict=True)
                try:
                    for row in reader:
                        if None in row or None in row.values():
                            raise InputError(
                                f"{path} line {reader.line_num} has another number of fields than the header: "
                                "put texts that hold commas between double quotes."
                            )
                        yield f"{path} line {reader.line_num}", row
                except csv.Error as error:
                    raise InputError(f"{path} line {reader.line_num} is not valid CSV ({error}): mend it.") from None
            else:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    try:
                        row = json.loads(line)
                    except (json.JSONDecodeError, RecursionError):
                        row = None
                    if not isinstance(row, dict):
                        raise InputError(
                            f'{path} line {number} is not a JSON object: write one such as {{"text": "…"}} a line.'
                        )
                    yield f"{path} line {number}", row
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8 (byte {error.object[error.start]:#04x}): save it as UTF-8 and try again."
            ) from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    parquet = require("pyarrow.parquet", "pyarrow", "Reading Parquet")
    if not path.exists():
        raise InputError(f"There is no file {path}: check the path.")
    try:
        # Not memory-mapped: a truncated file must end in an error and not in a signal.
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}).") from None


def iter_texts(path: Path, column: str = "text") -> Iterator[tuple[str, str]]:
    """Yield ``(place, text)`` for each row of a CSV, JSON Lines or Parquet file, else for each line of a text file.

    Raises InputError where the file is missing, empty, not UTF-8, or lacks the column.
    """
    count = 0
    if path.suffix.lower() in TABLES:
        for place, row in _rows(path):
            text = _column(row, column, place)
            if not isinstance(text, str):
                raise InputError(f"{place} has {text!r} in column {column!r}: a text is needed.")
            count += 1
            yield place, text
    else:
        with _open(path) as file:
            for place, text in iter_lines(file, str(path)):
                count += 1
                yield place, text
    if not count:
        raise InputError(f"{path} is empty: give a file with at least one review.")


def iter_lines(file: TextIO, name: str) -> Iterator[tuple[str, str]]:
    """Yield ``(place, text)`` for each line of an open text file. Raises InputError where it is not UTF-8."""
    try:
        for number, line in enumerate(file, 1):
            yield f"{name} line {number}", line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 (byte {error.object[error.start]:#04x}): save it as UTF-8 and try again."
        ) from None


def read_reviews(
    data: str,
    split: str,
    text_column: str = "text",
    label_column: str = "label",
    names: Sequence[str] | None = None,
) -> Reviews:
    """Read the labelled reviews of one split.

    ``data`` is a CSV, JSON Lines or Parquet file, which is its own and only split; or a folder in the Hub's layout or
    a Hub id, both read with ``datasets``. Labels may be words or whole numbers. ``names`` gives the labels in their
    order, so that a second file uses the numbers of the first; without it, the data's own names in sorted order.

    Raises InputError (file), DataError (content) or HubError (no such data set, no network).
    """
    path = Path(data)
    if path.suffix.lower() in TABLES:
        return _read_table(path, text_column, label_column, names)
    if path.is_file():
        raise InputError(f"{data} is of no known kind: use .csv, .jsonl or .parquet.")
    return _read_dataset(data, split, text_column, label_column, names)


def read_texts(data: str, split: str, text_column: str = "text") -> list[str]:
    """Read the texts of one split, labelled or not; ``data`` and the errors are those of ``read_reviews``."""
    path = Path(data)
    if path.suffix.lower() in TABLES:
        texts = []
        for place, text in iter_texts(path, text_column):
            if not clean(text):
                raise DataError(f"{place} has no text: remove the row or fill it in.")
            texts.append(text)
        return texts
    if path.is_file():
        raise InputError(f"{data} is of no known kind: use .csv, .jsonl or .parquet.")
    return _dataset_texts(data, split, load_split(data, split), text_column)


def _read_table(path: Path, text_column: str, label_column: str, names: Sequence[str] | None) -> Reviews:
    texts: list[str] = []
    raw: list[Any] = []
    for place, row in _rows(path):
        text, label = _column(row, text_column, place), _column(row, label_column, place)
        if not isinstance(text, str) or not clean(text):
            raise DataError(f"{place} has no text: remove the row or fill it in.")
        if label is None or isinstance(label, float) or not str(label).strip():
            raise DataError(f"{place} has {label!r} for a label: use a word or a whole number.")
        texts.append(text)
        raw.append(label if isinstance(label, int) and not isinstance(label, bool) else str(label).strip())
    return _with_indices(str(path), texts, raw, None, names)


def _read_dataset(data: str, split: str, text_column: str, label_column: str, names: Sequence[str] | None) -> Reviews:
    table = load_split(data, split)
    texts = _dataset_texts(data, split, table, text_column)
    raw = _dataset_column(data, split, table, label_column)
    feature = table.features[label_column]
    own = list(feature.names) if hasattr(feature, "names") else None
    for number, label in enumerate(raw, 1):
        if not isinstance(label, (int, str)):
            raise DataError(
                f"Split {split!r} of {data} has {label!r} for a label in row {number}: use a word or a number."
            )
    return _with_indices(f"Split {split!r} of {data}", texts, raw, own, names)


def _dataset_texts(data: str, split: str, table: Any, column: str) -> list[str]:
    texts = _dataset_column(data, split, table, column)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text or text.isspace():
            raise DataError(f"Split {split!r} of {data} has no text in row {number}: remove the row or fill it in.")
    return texts


def _dataset_column(data: str, split: str, table: Any, column: str) -> list[Any]:
    if column not in table.column_names:
        found = ", ".join(repr(name) for name in table.column_names)
        raise DataError(f"Split {split!r} of {data} has no column {column!r}: it has {found}; name the right one.")
    return list(table[column])


def load_split(data: str, split: str) -> Any:
    """The ``datasets.Dataset`` of one split of a folder or a Hub id. Raises DataError or HubError."""
    datasets = require("datasets", "datasets", f"Reading {data}")
    if not Path(data).exists() and (data.startswith((".", "/", "~")) or data.count("/") > 1):
        raise InputError(f"There is no file or folder {data}: check the path.")
    datasets.disable_progress_bars()
    # Its retries without a network: the error at the end says it all.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return datasets.load_dataset(data, split=split)
    except ValueError as error:
        if "split" in str(error).lower():
            raise SplitError(f"{data} has no split {split!r}: name one that it has ({_first_line(error)}).") from None
        raise DataError(f"{data} can't be read as a data set: {_first_line(error)}") from None
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if Path(data).exists():
            raise DataError(f"{data} can't be read as a data set: {_first_line(error.__cause__ or error)}") from None
        raise HubError(
            f"The data set {data} can't be had from the Hugging Face Hub ({type(error).__name__}): check its name and "
            "the network, or give a local folder or file with --data (and a local checkpoint with --base)."
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _with_indices(
    source: str, texts: list[str], raw: list[Any], own: list[str] | None, names: Sequence[str] | None
) -> Reviews:
    """Turn labels into indices. ``own`` are names the data declares; ``names`` those that the caller asks for."""
    if not texts:
        raise DataError(f"{source} is empty: give at least one labelled review.")
    if own is not None:
        if min(raw) < 0:
            raise SplitError(f"{source} has no labels (label {min(raw)}): use a labelled split, such as train or test.")
        words = [own[label] for label in raw]
    else:
        words = [str(label) for label in raw]
        if names is not None and all(isinstance(label, int) for label in raw) and not set(words) <= set(names):
            # Numbers against a model with named labels: they are indices.
            unknown = sorted({label for label in raw if not 0 <= label < len(names)})
            if unknown:
                raise DataError(f"{source} has the label {unknown[0]}: the model knows 0 to {len(names) - 1}.")
            words = [names[label] for label in raw]
    if names is None:
        if own is not None:
            names = own
        elif all(isinstance(label, int) for label in raw):
            names = [str(number) for number in sorted(set(raw))]
        else:
            names = sorted(set(words))
    index = {name: i for i, name in enumerate(names)}
    unknown_words = sorted(set(words) - set(index))
    if unknown_words:
        known = ", ".join(repr(name) for name in names)
        raise DataError(f"{source} has the label {unknown_words[0]!r}, which is unknown here: use {known}.")
    return Reviews(texts, [index[word] for word in words], list(names))
