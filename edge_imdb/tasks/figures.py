"""evaluate_sentiment and evaluate_fill_mask: how well, and how fast, a bundle does on a set of reviews."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..data.datasets import Reviews
from ..data.inputs import ordered_map
from ..data.masking import EVALUATION_LENGTH, IGNORED, Vocabulary, evaluation_batches, join_chunks, sentence_chunks
from ..data.metrics import classification_metrics, coverage_curve
from ..errors import DataError
from .fill_mask.pipeline import FillMask
from .sentiment.pipeline import Sentiment


def evaluate_sentiment(
    model: Sentiment,
    reviews: Reviews,
    texts: Iterable[str] | None = None,
    workers: int = 1,
    groups: Sequence[str] = (),
) -> dict[str, Any]:
    """Accuracy, macro F1, log loss (nats), calibration error, coverage and reviews per second, from text to label.

    A caller that shows progress passes the same texts as ``texts``, an iterable of its own. ``workers`` reviews run at
    the same time. ``groups``, *shape:* ``(reviews,)``, names the group of each review; where there are several, the
    figures of each are told apart too, as ``groups``.
    """
    start = time.perf_counter()
    rows = list(ordered_map(model.probabilities, reviews.texts if texts is None else texts, workers))
    seconds = time.perf_counter() - start
    probabilities, labels, names = np.array(rows), np.array(reviews.labels), np.array(groups)
    figures: dict[str, Any] = {
        "reviews": len(rows),
        **classification_metrics(probabilities, labels),
        "coverage": coverage_curve(probabilities, labels),
        "reviews_per_second": len(rows) / seconds,
    }
    if len(set(groups)) > 1:
        figures["groups"] = {
            name: {
                "reviews": int((names == name).sum()),
                **classification_metrics(probabilities[names == name], labels[names == name]),
            }
            for name in dict.fromkeys(groups)
        }
    return figures


def evaluate_fill_mask(
    model: FillMask,
    texts: Sequence[str],
    progress: Callable[[range], Iterable[int]] = lambda rows: rows,
    sentence_starts: bool = False,
) -> dict[str, Any]:
    """Perplexity, top-1 and top-5 accuracy on fixed masks, and chunks per second, one chunk at a time.

    ``texts`` are joined and cut into chunks of 256 tokens, and 15 % of their words are masked with a fixed seed, the
    same for every model. With ``sentence_starts`` each chunk begins with ``[CLS]`` and the start of a sentence instead
    of anywhere. Perplexity is the exponential of the mean cross-entropy over the masked tokens. A caller that shows
    progress passes ``progress``, which gets the range of chunks and yields its numbers. Raises DataError if no word was
    masked.
    """
    vocabulary = Vocabulary.of(model.tokenizer)
    cut = sentence_chunks if sentence_starts else join_chunks
    chunks = cut(model.tokenizer, texts, min(EVALUATION_LENGTH, model.bundle.truncation.max_length))
    loss = first = five = 0.0
    tokens = 0
    start = time.perf_counter()
    for row in progress(range(len(chunks))):
        for ids, labels in evaluation_batches(chunks, vocabulary, [row], 1):
            wanted = labels[labels != IGNORED]
            if not len(wanted):
                continue
            # A review may contain a [MASK] of its own, whose word nobody knows.
            logits = model.logits(ids[0])[labels[ids == vocabulary.mask_id] != IGNORED]
            at = logits[np.arange(len(wanted)), wanted][:, None]
            loss += float((_log_sum_exp(logits) - at[:, 0]).sum())
            better = (logits > at).sum(axis=1)
            first += int((better < 1).sum())
            five += int((better < 5).sum())
            tokens += len(wanted)
    seconds = time.perf_counter() - start
    if not tokens:
        raise DataError("No word was masked, because the texts are too short: give more of them.")
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
