"""read_reviews, read_texts: labelled reviews, or only texts, from files, folders in the Hub's layout and the Hub."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, HubError, InputError, SplitError, first_line
from .labels import label_indices
from .tables import TABLES, hidden, is_table, iter_rows, iter_texts, require
from .text import is_blank

# The default data set.
DATA = "stanfordnlp/imdb"


@dataclass
class Reviews:
    """Texts, and their labels as indices into ``names``. *Shape:* both lists ``(rows,)``."""

    texts: list[str]
    labels: list[int]
    names: list[str]

    def take(self, indices: Sequence[int]) -> Reviews:
        return Reviews([self.texts[i] for i in indices], [self.labels[i] for i in indices], self.names)


def sources_of(data: str | Sequence[str]) -> list[str]:
    """The option ``data``, which is one name or several, as a list.

    >>> sources_of("reviews.csv")
    ['reviews.csv']
    """
    return [data] if isinstance(data, str) else list(data)


def is_single_file(data: str) -> bool:
    """Whether ``data`` names a file with columns, which has only one split.

    >>> is_single_file("reviews.csv"), is_single_file("stanfordnlp/imdb")
    (True, False)
    """
    # Spark writes folders whose name ends with .csv or .parquet.
    return is_table(Path(data)) and not Path(data).is_dir()


def read_reviews(
    data: str,
    split: str,
    text_column: str = "text",
    label_column: str = "label",
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
) -> Reviews:
    """Read the labelled reviews of one split.

    ``data`` is a file that ``tables.iter_rows`` reads, which is its own and only split; or a folder in the Hub's
    layout, whose files are read in the same way; or a Hub id, read with ``datasets``. ``names`` gives the labels in
    their order, so that a second file uses the numbers of the first; without it, they are the names that the data
    declares, or its own labels in sorted order, numbers by their size. ``delimiter`` separates the fields of CSV.

    A label is a word, a whole number, or true or false; CSV can't tell these apart, so all labels of a file are numbers
    if all look like numbers: 1.0 is 1. A word that isn't in ``names`` counts as the name that it begins, or that begins
    it, as ``neg`` begins ``negative``. Numbers and booleans that aren't in ``names`` are indices into it.

    Raises InputError (file), DataError (content) or HubError (no such data set, no network).

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "reviews.csv")
    >>> _ = path.write_text("text,label\\ngreat,positive\\nawful,negative\\n")
    >>> read_reviews(str(path), "train", names=["neg", "pos"]).labels
    [1, 0]
    """
    path = Path(data)
    if is_single_file(data):
        return _read_tables([path], str(path), text_column, label_column, names, delimiter)
    _refuse_file(path)
    where = f"Split {split!r} of {data}"
    if path.is_dir() and (folder := _folder_split(data, split)) is not None:
        files, features = folder
        return _read_tables(files, where, text_column, label_column, names, delimiter, features)
    return _read_dataset(data, split, where, text_column, label_column, names)


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} has an unknown extension: use {', '.join(TABLES)}, each also as .gz or .zst.")


def read_texts(data: str, split: str, text_column: str = "text", delimiter: str | None = None) -> list[str]:
    """Read the texts of one split, labelled or not; ``data`` and the errors are those of ``read_reviews``.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "reviews.jsonl")
    >>> _ = path.write_text('{"text": "great"}')
    >>> read_texts(str(path), "train")
    ['great']
    """
    path = Path(data)
    files = [path]
    if not is_single_file(data):
        _refuse_file(path)
        folder = _folder_split(data, split) if path.is_dir() else None
        if folder is None:
            table = load_split(data, split)
            return _dataset_texts(f"Split {split!r} of {data}", table, text_column)
        files = folder[0]
    texts = []
    for file in files:
        for place, text in iter_texts(file, text_column, delimiter):
            if is_blank(text):
                raise DataError(f"{place} has no text: remove the row or fill it in.")
            texts.append(text)
    return texts


def _folder_split(data: str, split: str) -> tuple[list[Path], Any] | None:
    """The files of a split of a folder in the Hub's layout, and the features that its card declares.

    Only which files belong to a split is asked of ``datasets``: its own readers guess types, so that a text "null" is
    missing and a label 1 is 1.0 if another one is. None if a file is of a kind that ``tables`` doesn't read. Raises
    DataError, or SplitError if there is no such split.
    """
    datasets = require("datasets", "datasets", f"Reading {data}")
    with _load_errors(datasets, data, split):
        builder = datasets.load_dataset_builder(data)
    root = os.path.realpath(data)
    files: dict[str, list[Path]] = {}
    for name, paths in (builder.config.data_files or {}).items():
        kept = [Path(path) for path in paths if not _is_hidden(str(path), root)]
        files[str(name)] = list(dict.fromkeys(kept))
    if not files or not all(is_table(path) and path.is_file() for paths in files.values() for path in paths):
        return None
    if split not in files:
        raise SplitError(f"{data} has no split {split!r}: name one that it has ({', '.join(files)}).")
    return files[split], builder.info.features or {}


def _is_hidden(path: str, root: str) -> bool:
    below = Path(os.path.relpath(os.path.realpath(path), root))
    return ".." not in below.parts and any(map(hidden, below.parts))


def _read_tables(
    files: Sequence[Path],
    source: str,
    text_column: str,
    label_column: str,
    names: Sequence[str] | None,
    delimiter: str | None,
    features: Any = None,
) -> Reviews:
    texts: list[str] = []
    raw: list[Any] = []
    places: list[str] = []
    own: list[str] | None = None
    for path in files:
        own = own or _declared(features, label_column) or _declared(_parquet_features(path), label_column)
        for place, row in iter_rows(path, delimiter, columns=(text_column, label_column)):
            text, label = row[text_column], row[label_column]
            if not isinstance(text, str) or is_blank(text):
                raise DataError(f"{place} has no text: remove the row or fill it in.")
            texts.append(text)
            raw.append(label)
            places.append(place)
    return Reviews(texts, *label_indices(source, raw, places, own, names))


def _declared(features: Any, column: str) -> list[str] | None:
    """The names of the labels in a column that a data set declares to have classes."""
    feature = (features or {}).get(column)
    found = feature.get("names") if isinstance(feature, dict) else getattr(feature, "names", None)
    return [str(name) for name in found] if found else None


def _parquet_features(path: Path) -> Any:
    """The features that ``datasets`` wrote into the metadata of a Parquet file."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    parquet = require("pyarrow.parquet", "pyarrow", "Reading Parquet")
    try:
        metadata = parquet.read_schema(path).metadata or {}
        return json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (OSError, ValueError, KeyError, TypeError):
        # A file that can't be read is refused where its rows are read.
        return None


def _read_dataset(
    data: str, split: str, where: str, text_column: str, label_column: str, names: Sequence[str] | None
) -> Reviews:
    table = load_split(data, split)
    texts = _dataset_texts(where, table, text_column)
    raw = _dataset_column(where, table, label_column)
    places = [f"{where} row {number}" for number in range(1, len(raw) + 1)]
    declared = _declared(table.features, label_column)
    return Reviews(texts, *label_indices(where, raw, places, declared, names))


def _dataset_texts(where: str, table: Any, column: str) -> list[str]:
    texts = _dataset_column(where, table, column)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or is_blank(text):
            raise DataError(f"{where} has no text in row {number}: remove the row or fill it in.")
    return texts


def _dataset_column(where: str, table: Any, column: str) -> list[Any]:
    if column not in table.column_names:
        found = ", ".join(repr(name) for name in table.column_names)
        raise DataError(f"{where} has no column {column!r}: it has {found}; name the right one.")
    return list(table[column])


@contextlib.contextmanager
def _load_errors(datasets: Any, data: str, split: str) -> Iterator[None]:
    """Turn what ``datasets`` raises into SplitError, DataError or HubError."""
    datasets.disable_progress_bars()
    # Without a network it would log every retry; the error at the end is enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except ValueError as error:
        if "split" in str(error).lower() and "file format" not in str(error):
            raise SplitError(f"{data} has no split {split!r}: name one that it has ({first_line(error)}).") from None
        raise DataError(f"{data} can't be read as a data set: {first_line(error)}.") from None
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if Path(data).exists():
            raise DataError(f"{data} can't be read as a data set: {first_line(error.__cause__ or error)}.") from None
        raise HubError(
            f"The data set {data} can't be fetched from the Hugging Face Hub ({type(error).__name__}): check its name "
            "and the network, or give a local folder or file with --data (and a local checkpoint with --base)."
        ) from None


def load_split(data: str, split: str) -> Any:
    """The ``datasets.Dataset`` of one split of a folder or a Hub id. Raises InputError, DataError or HubError."""
    datasets = require("datasets", "datasets", f"Reading {data}")
    if not Path(data).exists() and (data.startswith((".", "/", "~")) or data.count("/") > 1):
        raise InputError(f"There is no file or folder {data}: check the path.")
    with _load_errors(datasets, data, split):
        return datasets.load_dataset(data, split=split)
