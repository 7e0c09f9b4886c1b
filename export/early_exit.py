"""choose_early_exit: the length at which to stop reading a long review, and the score that it takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..data.datasets import Reviews
from ..data.metrics import fit_temperature, softmax
from ..runtime.behaviour import EarlyExit
from ..tasks.sentiment.pipeline import Sentiment

LENGTHS = (64, 96, 128, 192, 256)
# Share of the validation reviews that may lose their right label. It is divided among the lengths, because the best of
# several lengths is partly just the luckiest.
MAX_LOST = 0.001

Floats = NDArray[np.float64]


def choose_early_exit(model: Sentiment, reviews: Reviews) -> EarlyExit | None:
    """The early exit that reads the fewest tokens of ``reviews``; None if no early exit saves tokens.

    A review is lost if reading all of it gives the right label and the early exit gives a wrong label. The share of
    lost reviews is at most MAX_LOST divided by the number of lengths, at the threshold and at every higher threshold.
    Reviews that only the early exit labels right don't compensate for lost reviews, because they are luck.
    """
    labels = np.array(reviews.labels)
    whole_length = model.bundle.truncation.max_length
    lengths = np.array([len(model.encode(text)) for text in reviews.texts])
    whole = np.array([model.logits(text).argmax() for text in reviews.texts]) == labels
    best, fewest = None, float(lengths.mean())
    for length in (n for n in LENGTHS if n < whole_length):
        # The length includes the special tokens, so only longer reviews are read twice.
        long = lengths > length
        if not long.any():
            continue
        logits = np.array([model.logits(text, max_length=length) for text in reviews.texts])
        temperature = fit_temperature(logits[long], labels[long])
        scores = softmax(logits, temperature)
        sure = scores.max(axis=1)
        lost = long & whole & (scores.argmax(axis=1) != labels)
        threshold = lowest_threshold(sure[long], lost[long], int(MAX_LOST * len(labels) / len(LENGTHS)))
        if threshold is None:
            continue
        read = np.where(long, length + np.where(sure >= threshold, 0, lengths), lengths)
        if read.mean() < fewest:
            best, fewest = EarlyExit(length, temperature, threshold), float(read.mean())
    return best


def lowest_threshold(sure: Floats, lost: NDArray[np.bool_], allowed: int) -> float | None:
    """The lowest threshold at which at most ``allowed`` reviews are lost; None if there is no such threshold.

    *Shape:* ``(reviews,)`` for both: the score of the early exit, and whether the review is lost.
    """
    order = np.argsort(-sure, kind="stable")
    kept = np.cumsum(lost[order]) <= allowed
    # Reviews with equal scores count together.
    last = np.append(sure[order][1:] != sure[order][:-1], True)
    good = np.flatnonzero(kept & last)
    return float(sure[order][good[-1]]) if len(good) else None
