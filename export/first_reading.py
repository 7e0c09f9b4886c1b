"""choose_first_reading: how much of a long review to read before deciding whether to read the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..bundle import FirstReading
from ..metrics import fit_temperature, softmax
from ..reading import Reviews
from ..sentiment import Sentiment

LENGTHS = (64, 96, 128, 192, 256)
# Share of the validation reviews that may lose their right label. The lengths share it, for the best of several is in
# part the luckiest.
MAX_LOST = 0.001

Floats = NDArray[np.float64]


def choose_first_reading(model: Sentiment, reviews: Reviews) -> FirstReading | None:
    """The length and the threshold that read fewest tokens of ``reviews``; None where none reads fewer than all.

    At the threshold, and at every higher one, at most MAX_LOST of the reviews, divided by the number of lengths tried,
    are told wrong that a whole reading tells right. Reviews that the first reading happens to set right don't count
    against those: they are luck.
    """
    labels = np.array(reviews.labels)
    whole_length = model.bundle.truncation.max_length
    lengths = np.array([len(model.encode(text)) for text in reviews.texts])
    whole = np.array([model.logits(text).argmax() for text in reviews.texts]) == labels
    best, fewest = None, float(lengths.mean())
    for length in (n for n in LENGTHS if n < whole_length):
        # A cut of this length keeps its special tokens, so only longer reviews are read twice.
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
            best, fewest = FirstReading(length, temperature, threshold), float(read.mean())
    return best


def lowest_threshold(sure: Floats, lost: NDArray[np.bool_], allowed: int) -> float | None:
    """The lowest score from which at most ``allowed`` reviews are lost; None where even the surest loses more.

    *Shape:* ``(reviews,)`` for both: how sure the first reading was, and whether it alone tells that review wrong.
    """
    order = np.argsort(-sure, kind="stable")
    kept = np.cumsum(lost[order]) <= allowed
    # A score that several reviews share is in for all of them or for none.
    last = np.append(sure[order][1:] != sure[order][:-1], True)
    good = np.flatnonzero(kept & last)
    return float(sure[order][good[-1]]) if len(good) else None
