"""load_corpus and load_texts: the reviews of a run by split, the same at every asking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError, SplitError, UsageError
from .reading import TABLES, Reviews, read_reviews, read_texts
from .splits import hold_out, sample
from .text import clean


@dataclass
class Corpus:
    """The reviews of a run; ``dropped`` train reviews stood in the test split too, and are left out."""

    train: Reviews
    validation: Reviews
    test: Reviews | None
    dropped: int


def load_corpus(options: Mapping[str, Any]) -> Corpus:
    """Read and split the reviews as ``options`` say, by the names of SentimentOptions.

    Validation is held out of train by text and seed; the test split is what ``test_data`` or the data set has.
    Raises InputError, DataError or HubError.
    """
    columns = (options["text_column"], options["label_column"])
    data, test_data, limit, seed = options["data"], options["test_data"], options["limit"], options["seed"]
    reviews = read_reviews(data, "train", *columns)
    test = None
    if test_data:
        test = read_reviews(test_data, "test", *columns, names=reviews.names)
    elif Path(data).suffix.lower() not in TABLES:
        try:
            test = read_reviews(data, "test", *columns, names=reviews.names)
        except SplitError:
            # A data set without a test split, or with an unlabelled one, is trained on all the same.
            test = None
    if len(set(reviews.labels)) < 2:
        only = reviews.names[reviews.labels[0]]
        raise DataError(f"Every review of {data} has the label {only!r}: give reviews of two labels or more.")
    everything = len(reviews.texts)
    if test is not None:
        seen = {clean(text) for text in test.texts}
        reviews = reviews.take([i for i, text in enumerate(reviews.texts) if clean(text) not in seen])
    dropped = everything - len(reviews.texts)
    if not reviews.texts:
        raise DataError(f"Every review of {data} stands in the test reviews too: give other reviews to train on.")
    if limit is not None:
        reviews = reviews.take(sample(reviews.texts, limit, seed))
        test = test and test.take(sample(test.texts, limit, seed))
    train, held = hold_out(reviews.texts, reviews.labels, options["validation"], seed)
    if len({reviews.labels[i] for i in train}) < 2:
        raise DataError("Only one label is left to train on: give more reviews, or a higher --limit.")
    return Corpus(reviews.take(train), reviews.take(held), test, dropped)


@dataclass
class Texts:
    """The texts of a run without labels; ``dropped`` ones to train on stood in the test split too, and are left out."""

    train: list[str]
    validation: list[str]
    test: list[str] | None
    dropped: int


def load_texts(options: Mapping[str, Any]) -> Texts:
    """Read and split the texts as ``options`` say, by the names of FillMaskOptions.

    Validation is held out of the split train by text and seed; ``unsupervised`` texts are only trained on, those left
    out that stand in test or validation too. Raises InputError, DataError or HubError.
    """
    data, test_data, column, limit, seed = (
        options[name] for name in ("data", "test_data", "text_column", "limit", "seed")
    )
    single = Path(data).suffix.lower() in TABLES
    texts = read_texts(data, "train", column)
    if options["unsupervised"] and single:
        raise UsageError(f"--unsupervised needs a data set with a split of that name, and {data} is a single file.")
    unsupervised = read_texts(data, "unsupervised", column) if options["unsupervised"] else []
    test = None
    if test_data:
        test = read_texts(test_data, "test", column)
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
        raise DataError(f"Every review of {data} stands in the test reviews too: give other reviews to train on.")
    if limit is not None:
        texts = [texts[i] for i in sample(texts, limit, seed)]
        unsupervised = [unsupervised[i] for i in sample(unsupervised, limit, seed)]
        test = test and [test[i] for i in sample(test, limit, seed)]
    train, held = hold_out(texts, [0] * len(texts), options["validation"], seed)
    validation = [texts[i] for i in held]
    kept = {clean(text) for text in validation}
    extra = [text for text in unsupervised if clean(text) not in kept]
    return Texts([texts[i] for i in train] + extra, validation, test, dropped)
