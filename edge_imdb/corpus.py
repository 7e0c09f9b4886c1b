"""load_corpus: train, validation and test reviews of a run, the same whenever and wherever it is asked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError, SplitError
from .reading import TABLES, Reviews, read_reviews
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
