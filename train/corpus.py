"""load_corpus and load_texts: the reviews of a run by split, always the same for the same options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, SplitError, UsageError
from ..evaluate.datasets import Reviews, read_reviews, read_texts
from ..tables import TABLES, is_table, iter_texts
from ..text import clean
from .splits import hold_out, sample

# With fewer reviews than this, a validation figure says little: with 100 of them, an accuracy of 90 % means 82 to 95 %.
ENOUGH = 100


@dataclass
class Corpus:
    """The reviews of a run. ``dropped`` counts the train reviews left out because they are also in the test split."""

    train: Reviews
    validation: Reviews
    test: Reviews | None
    dropped: int
    left_out: int


def load_corpus(options: Mapping[str, Any]) -> Corpus:
    """Read and split the reviews as ``options``, named as in SentimentOptions, say.

    Validation is held out of train by text and seed; the test split is what ``test_data`` or the data set has.
    Raises InputError, DataError or HubError.
    """
    columns = (options["text_column"], options["label_column"])
    data, test_data, limit, seed = options["data"], options["test_data"], options["limit"], options["seed"]
    delimiter = options.get("delimiter")
    reviews = read_reviews(data, "train", *columns, delimiter=delimiter)
    test = None
    if test_data:
        test = read_reviews(test_data, "test", *columns, names=reviews.names, delimiter=delimiter)
    elif not is_table(Path(data)):
        try:
            test = read_reviews(data, "test", *columns, names=reviews.names)
        except SplitError:
            # A data set without a labelled test split can still be trained on.
            test = None
    if len(set(reviews.labels)) < 2:
        only = reviews.names[reviews.labels[0]]
        raise DataError(f"Every review of {data} has the label {only!r}: give reviews with two or more labels.")
    everything = len(reviews.texts)
    if test is not None:
        seen = {clean(text) for text in test.texts}
        reviews = reviews.take([i for i, text in enumerate(reviews.texts) if clean(text) not in seen])
    dropped = everything - len(reviews.texts)
    if not reviews.texts:
        raise DataError(f"Every review of {data} is also in the test reviews: give other reviews to train on.")
    if limit is not None:
        reviews = reviews.take(sample(reviews.texts, limit, seed))
        test = test and test.take(sample(test.texts, limit, seed))
    share = _held_share(len(reviews.texts), options["validation"])
    train, held = hold_out(reviews.texts, reviews.labels, share, seed)
    unwanted = _left_out(options.get("leave_out"), columns[0])
    before = len(train)
    train = [i for i in train if clean(reviews.texts[i]) not in unwanted]
    if len({reviews.labels[i] for i in train}) < 2:
        raise DataError("Only one label is left to train on: give more reviews, or a higher --limit.")
    return Corpus(reviews.take(train), reviews.take(held), test, dropped, before - len(train))


@dataclass
class Texts:
    """The texts of a run without labels. ``dropped`` counts those left out because they are also in the test split."""

    train: list[str]
    validation: list[str]
    test: list[str] | None
    dropped: int
    left_out: int


def load_texts(options: Mapping[str, Any]) -> Texts:
    """Read and split the texts as ``options``, named as in FillMaskOptions, say.

    Validation is held out of the split train by text and seed; ``unsupervised`` texts are only trained on, without
    those that are also in test or validation. Raises InputError, DataError or HubError.
    """
    data, test_data, column, limit, seed = (
        options[name] for name in ("data", "test_data", "text_column", "limit", "seed")
    )
    single = is_table(Path(data))
    delimiter = options.get("delimiter")
    texts = read_texts(data, "train", column, delimiter)
    if options["unsupervised"] and single:
        raise UsageError(f"--unsupervised needs a data set with a split of that name, and {data} is a single file.")
    unsupervised = read_texts(data, "unsupervised", column) if options["unsupervised"] else []
    test = None
    if test_data:
        test = read_texts(test_data, "test", column, delimiter)
    elif not single:
        try:
            test = read_texts(data, "test", column)
        except SplitError:
            test = None
    everything = len(texts) + len(unsupervised)
    seen = {clean(text) for text in test or []}
    texts = [text for text in texts if clean(text) not in seen]
    unsupervised = [text for text in unsupervised if clean(text) not in seen]
    dropped = everything - len(texts) - len(unsupervised)
    if not texts:
        raise DataError(f"Every review of {data} is also in the test reviews: give other reviews to train on.")
    if limit is not None:
        texts = [texts[i] for i in sample(texts, limit, seed)]
        unsupervised = [unsupervised[i] for i in sample(unsupervised, limit, seed)]
        test = test and [test[i] for i in sample(test, limit, seed)]
    train, held = hold_out(texts, [0] * len(texts), _held_share(len(texts), options["validation"]), seed)
    validation = [texts[i] for i in held]
    # Left out of training only, so that validation stays the same set.
    unwanted = _left_out(options.get("leave_out"), column)
    mine = [text for text in (texts[i] for i in train) if clean(text) not in unwanted]
    extra = [text for text in unsupervised if clean(text) not in unwanted]
    left_out = len(train) - len(mine) + len(unsupervised) - len(extra)
    kept = {clean(text) for text in validation}
    extra = [text for text in extra if clean(text) not in kept]
    if not mine and not extra:
        raise DataError("Every review to train on is named by --leave-out: give other reviews to train on.")
    return Texts(mine + extra, validation, test, dropped, left_out)


def about_splits(train: int, validation: int, test: int | None, dropped: int, left_out: int) -> list[str]:
    """Lines about the sizes of the splits, with a warning that can't be missed if validation is too small."""
    lines = []
    if test is not None:
        lines.append(f"dropped {dropped} train reviews that are also in the test split")
    if left_out:
        lines.append(f"left out {left_out} train reviews, as --leave-out says")
    lines.append(f"reviews: {train} train, {validation} validation, {'no' if test is None else test} test")
    if validation < ENOUGH:
        lines.append(
            f"WARNING: only {validation} reviews are held out for validation. Its figures, the choice of a checkpoint "
            f"and the confidence of the scores mean little below {ENOUGH}: give more reviews, or treat this run as a "
            "trial."
        )
    return lines


def _held_share(rows: int, share: float) -> float:
    """The share of ``rows`` to hold out: ``share``, but at least ENOUGH reviews, or a fifth of a small data set."""
    return max(share, min(0.2, ENOUGH / rows))


def _left_out(path: str | None, column: str) -> set[str]:
    """The cleaned texts of the file ``path``, which must not be trained on; none if ``path`` is None."""
    if path is None:
        return set()
    if not is_table(Path(path)):
        raise UsageError(f"--leave-out is {path}: give a file of texts ({', '.join(TABLES)}).")
    return {clean(text) for _, text in iter_texts(Path(path), column)}
