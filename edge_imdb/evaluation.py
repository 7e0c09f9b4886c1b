"""evaluate_sentiment: what a bundle scores on labelled reviews, and how fast."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from .metrics import classification_metrics
from .reading import Reviews
from .sentiment import Sentiment


def evaluate_sentiment(model: Sentiment, reviews: Reviews, indices: Iterable[int] | None = None) -> dict[str, Any]:
    """Accuracy, macro F1, log loss (nats), calibration error and reviews a second, text in, label out, one by one.

    ``indices`` is walked in place of ``range(len(reviews.texts))``, so that a caller can show its progress.
    """
    order = range(len(reviews.texts)) if indices is None else indices
    start = time.perf_counter()
    rows, labels = [], []
    for index in order:
        rows.append(model.probabilities(reviews.texts[index]))
        labels.append(reviews.labels[index])
    seconds = time.perf_counter() - start
    return {
        "reviews": len(rows),
        **classification_metrics(np.array(rows), np.array(labels)),
        "reviews_per_second": len(rows) / seconds,
    }
