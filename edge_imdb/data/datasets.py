"""read_reviews, read_texts: labelled reviews, or only texts, from files, folders in the Hub's layout and the Hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, HubError, InputError, SplitError, first_line
from .tables import TABLES, column_of, is_table, iter_rows, iter_texts, require
from .text import is_blank

# The default data set.
DATA = "stanfordnlp/imdb"
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass
class Reviews:
    """Texts, and their labels as indices into ``names``. *Shape:* both lists ``(rows,)``."""

    texts: list[str]
    labels: list[int]
    names: list[str]

    def take(self, indices: Sequence[int]) -> Reviews:
        return Reviews([self.texts[i] for i in indices], [self.labels[i] for i in indices], self.names)


def sources_of(data: str | Sequence[str]) -> list[str]:
    """The option ``data``, which is one name or several, as a list."""
    return [data] if isinstance(data, str) else list(data)


def read_reviews(
    data: str,
    split: str,
    text_column: str = "text",
    label_column: str = "label",
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
) -> Reviews:
    """Read the labelled reviews of one split.

    ``data`` is a file that ``tables.iter_rows`` reads, which is its own and only split; or a folder in the Hub's layout
    or a Hub id, both read with ``datasets``. Labels may be words or whole numbers, which CSV can't tell apart: if
    all of them are whole numbers, they count as numbers. ``names`` gives the labels in their order, so that a second
    file uses the numbers of the first; without it, they are the data's own names in sorted order, numbers by their
    size. A name that the data set declares also counts as one of ``names`` if one begins the other, as ``neg`` begins
    ``negative``. ``delimiter`` separates the fields of CSV.

    Raises InputError (file), DataError (content) or HubError (no such data set, no network).
    """
    path = Path(data)
    if is_table(path):
        return _read_table(path, text_column, label_column, names, delimiter)
    _refuse_file(path)
    return _read_dataset(data, split, text_column, label_column, names)


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} has an unknown extension: use {', '.join(TABLES)}, each also as .gz or .zst.")


def read_texts(data: str, split: str, text_column: str = "text", delimiter: str | None = None) -> list[str]:
    """Read the texts of one split, labelled or not; ``data`` and the errors are those of ``read_reviews``."""
    path = Path(data)
    if is_table(path):
        texts = []
        for place, text in iter_texts(path, text_column, delimiter):
            if is_blank(text):
                raise DataError(f"{place} has no text: remove the row or fill it in.")
            texts.append(text)
        return texts
    _refuse_file(path)
    return _dataset_texts(data, split, load_split(data, split), text_column)


def _read_table(
    path: Path, text_column: str, label_column: str, names: Sequence[str] | None, delimiter: str | None
) -> Reviews:
    texts: list[str] = []
    raw: list[Any] = []
    for place, row in iter_rows(path, delimiter):
        text, label = column_of(row, text_column, place), column_of(row, label_column, place)
        if not isinstance(text, str) or is_blank(text):
            raise DataError(f"{place} has no text: remove the row or fill it in.")
        if label is None or isinstance(label, float) or not str(label).strip():
            raise DataError(f"{place} has the label {label!r}: use a word or a whole number.")
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
                f"Split {split!r} of {data} has the label {label!r} in row {number}: use a word or a whole number."
            )
    return _with_indices(f"Split {split!r} of {data}", texts, raw, own, names)


def _dataset_texts(data: str, split: str, table: Any, column: str) -> list[str]:
    texts = _dataset_column(data, split, table, column)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or is_blank(text):
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
    # Without a network it would log every retry; the error at the end is enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return datasets.load_dataset(data, split=split)
    except ValueError as error:
        if "split" in str(error).lower():
            raise SplitError(f"{data} has no split {split!r}: name one that it has ({first_line(error)}).") from None
        raise DataError(f"{data} can't be read as a data set: {first_line(error)}.") from None
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if Path(data).exists():
            raise DataError(f"{data} can't be read as a data set: {first_line(error.__cause__ or error)}.") from None
        raise HubError(
            f"The data set {data} can't be fetched from the Hugging Face Hub ({type(error).__name__}): check its name "
            "and the network, or give a local folder or file with --data (and a local checkpoint with --base)."
        ) from None


def known_as(word: str, names: Sequence[str] | None) -> str:
    """The label among ``names`` that a data set calls ``word``: itself, or the one that begins it, as neg negative."""
    found = [name for name in names or () if word.startswith(name) or name.startswith(word)]
    return found[0] if len(found) == 1 and word not in (names or ()) else word


def _with_indices(
    source: str, texts: list[str], raw: list[Any], own: list[str] | None, names: Sequence[str] | None
) -> Reviews:
    """Turn labels into indices. ``own`` are the names that the data declares; ``names`` are those of the caller."""
    if not texts:
        raise DataError(f"{source} is empty: give at least one labelled review.")
    if own is None and all(isinstance(label, int) or _WHOLE.fullmatch(label) for label in raw):
        raw = [int(label) for label in raw]
    if own is not None:
        if min(raw) < 0:
            raise SplitError(f"{source} has no labels (label {min(raw)}): use a labelled split, such as train or test.")
        words = [known_as(own[label], names) for label in raw]
    else:
        words = [str(label) for label in raw]
        if names is not None and all(isinstance(label, int) for label in raw) and not set(words) <= set(names):
            # The data has numbers and the model has named labels, so the numbers are indices.
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
        raise DataError(f"{source} has the unknown label {unknown_words[0]!r}: use {known}.")
    return Reviews(texts, [index[word] for word in words], list(names))
