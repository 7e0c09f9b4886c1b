"""evaluate_sentiment and evaluate_fill_mask: what a bundle scores on the reviews of a split, and how fast."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .errors import DataError
from .fill_mask import FillMask
from .masking import EVALUATION_LENGTH, IGNORED, Vocabulary, evaluation_batches, join_chunks
from .metrics import classification_metrics
from .reading import Reviews
from .sentiment import Sentiment, ordered_map


def evaluate_sentiment(
    model: Sentiment, reviews: Reviews, texts: Iterable[str] | None = None, workers: int = 1
) -> dict[str, Any]:
    """Accuracy, macro F1, log loss (nats), calibration error and reviews a second, text in, label out.

    ``texts`` is walked in place of ``reviews.texts``, so that a caller can show its progress; ``workers`` reviews run
    at a time.
    """
    start = time.perf_counter()
    rows = list(ordered_map(model.probabilities, reviews.texts if texts is None else texts, workers))
    seconds = time.perf_counter() - start
    return {
        "reviews": len(rows),
        **classification_metrics(np.array(rows), np.array(reviews.labels)),
        "reviews_per_second": len(rows) / seconds,
    }


def evaluate_fill_mask(
    model: FillMask, texts: Sequence[str], progress: Callable[[range], Iterable[int]] = lambda rows: rows
) -> dict[str, Any]:
    """Perplexity, top-1 and top-5 accuracy on the fixed masks, and chunks a second, one by one.

    ``texts`` are joined and cut into chunks of 256 tokens, 15 % of whose whole words are masked with a fixed seed, the
    same for every model; perplexity is the exponential of the mean cross-entropy over the masked tokens. ``progress``
    gets the range of chunks and is walked in its place. Raises DataError where no word was masked.
    """
    vocabulary = Vocabulary.of(model.tokenizer)
    chunks = join_chunks(model.tokenizer, texts, min(EVALUATION_LENGTH, model.bundle.truncation.max_length))
    loss = first = five = 0.0
    tokens = 0
    start = time.perf_counter()
    for row in progress(range(len(chunks))):
        for ids, labels in evaluation_batches(chunks, vocabulary, [row], 1):
            wanted = labels[labels != IGNORED]
            if not len(wanted):
                continue
            # A review may hold a [MASK] of its own, which nothing is known of.
            logits = model.logits(ids[0])[labels[ids == vocabulary.mask_id] != IGNORED]
            at = logits[np.arange(len(wanted)), wanted][:, None]
            loss += float((_log_sum_exp(logits) - at[:, 0]).sum())
            better = (logits > at).sum(axis=1)
            first += int((better < 1).sum())
            five += int((better < 5).sum())
            tokens += len(wanted)
    seconds = time.perf_counter() - start
    if not tokens:
        raise DataError("The texts are so few that no word of them was masked: give more of them.")
    return {
        "chunks": len(chunks),
        "tokens": tokens,
        "perplexity": math.exp(loss / tokens),
        "log_loss": loss / tokens,
        "top1": first / tokens,
        "top5": five / tokens,
        "chunks_per_second": len(chunks) / seconds,
    }


def _log_sum_exp(logits: Any) -> Any:
    """*Shape:* ``(rows, classes)`` to ``(rows,)``, the sum in float64."""
    largest = logits.max(axis=1, keepdims=True)
    return largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=1, dtype=np.float64))
