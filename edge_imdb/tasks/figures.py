"""evaluate_sentiment and evaluate_fill_mask: the quality and the speed of a bundle on a set of reviews."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..data.datasets import Reviews
from ..data.inputs import ordered_map
from ..data.masking import EVALUATION_LENGTH, IGNORED, Vocabulary, evaluation_batches, join_chunks, sentence_chunks
from ..data.metrics import Floats, classification_metrics, coverage_curve, losses
from ..errors import DataError
from .fill_mask.pipeline import FillMask
from .sentiment.pipeline import Sentiment


def probabilities_of(model: Sentiment, texts: Iterable[str], workers: int = 1) -> tuple[Floats, float]:
    """The probabilities of each text, ``(texts, labels)``, and the seconds that they took.

    ``workers`` texts run at the same time. A caller that shows progress passes an iterable that reports it.
    """
    start = time.perf_counter()
    rows = list(ordered_map(model.probabilities, texts, workers))
    seconds = time.perf_counter() - start
    return np.array(rows), seconds


def classification_figures(
    probabilities: Floats, labels: Sequence[int], seconds: float, groups: Sequence[str] = ()
) -> dict[str, Any]:
    """Accuracy, macro F1, log loss (nats), calibration error, coverage, and reviews per second.

    ``groups``, *shape:* ``(reviews,)``, names the group of each review. If there are several groups, their figures are
    also reported per group, as ``groups``.
    """
    truth, names = np.array(labels), np.array(groups)
    figures: dict[str, Any] = {
        "reviews": len(probabilities),
        **classification_metrics(probabilities, truth),
        "coverage": coverage_curve(probabilities, truth),
        "reviews_per_second": len(probabilities) / seconds,
    }
    if len(set(groups)) > 1:
        figures["groups"] = {
            name: {
                "reviews": int((names == name).sum()),
                **classification_metrics(probabilities[names == name], truth[names == name]),
            }
            for name in dict.fromkeys(groups)
        }
    return figures


def evaluate_sentiment(
    model: Sentiment,
    reviews: Reviews,
    texts: Iterable[str] | None = None,
    workers: int = 1,
    groups: Sequence[str] = (),
) -> dict[str, Any]:
    """``classification_figures`` of a model on labelled reviews, from text to label.

    A caller that shows progress passes the same texts as ``texts``, an iterable of its own. ``workers`` reviews run at
    the same time.
    """
    probabilities, seconds = probabilities_of(model, reviews.texts if texts is None else texts, workers)
    return classification_figures(probabilities, reviews.labels, seconds, groups)


def worst_first(probabilities: Floats, reviews: Reviews, numbers: Sequence[int] | None = None) -> dict[str, list[Any]]:
    """A table of the reviews, sorted by falling loss, so that wrong labels and hard texts come first.

    The columns are ``row`` (the review's number in the data, from 1), ``text``, ``label``, ``prediction``, ``score``
    (probability of the prediction) and ``loss`` (negative log of the label's probability, in nats). ``numbers`` are
    the row numbers, by default those of ``reviews`` itself. Reviews of the same loss keep their order.

    Source: Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", ranks texts by the
    probability of the given label too.

    >>> table = worst_first(np.array([[0.9, 0.1], [0.8, 0.2]]), Reviews(["Dull.", "Awful."], [0, 1], ["neg", "pos"]))
    >>> table["text"], table["label"], table["prediction"]
    (['Awful.', 'Dull.'], ['pos', 'neg'], ['neg', 'neg'])
    """
    truth = np.array(reviews.labels)
    loss, best = losses(probabilities, truth), probabilities.argmax(axis=1)
    order = np.argsort(-loss, kind="stable")
    rows = range(1, len(truth) + 1) if numbers is None else numbers
    return {
        "row": [rows[i] for i in order],
        "text": [reviews.texts[i] for i in order],
        "label": [reviews.names[truth[i]] for i in order],
        "prediction": [reviews.names[best[i]] for i in order],
        "score": [float(probabilities[i, best[i]]) for i in order],
        "loss": [float(loss[i]) for i in order],
    }


def evaluate_fill_mask(
    model: FillMask,
    texts: Sequence[str],
    progress: Callable[[range], Iterable[int]] = lambda rows: rows,
    sentence_starts: bool = False,
    rows: dict[str, list[Any]] | None = None,
) -> dict[str, Any]:
    """Perplexity, top-1 and top-5 accuracy on fixed masks, and chunks per second, one chunk at a time.

    ``texts`` are joined and cut into chunks of 256 tokens, and 15 % of their words are masked with a fixed seed, the
    same for every model. With ``sentence_starts`` each chunk begins with ``[CLS]`` and the start of a sentence instead
    of anywhere. Perplexity is the exponential of the mean cross-entropy over the masked tokens. A caller that shows
    progress passes ``progress``, which gets the range of chunks and yields its numbers. Raises DataError if no word was
    masked.

    ``rows`` is filled with a table of the chunks, sorted by falling loss: ``row`` (the chunk's number, from 1),
    ``text`` (with its masks), ``label`` (the masked tokens, a list), ``prediction`` (the best token for each mask),
    ``score`` (mean probability of the predictions) and ``loss`` (mean cross-entropy of the masked tokens, in nats).
    """
    vocabulary = Vocabulary.of(model.tokenizer)
    cut = sentence_chunks if sentence_starts else join_chunks
    chunks = cut(model.tokenizer, texts, min(EVALUATION_LENGTH, model.bundle.truncation.max_length))
    loss = first = five = 0.0
    tokens = 0
    measured: list[tuple[Any, ...]] = []
    start = time.perf_counter()
    for row in progress(range(len(chunks))):
        for ids, labels in evaluation_batches(chunks, vocabulary, [row], 1):
            wanted = labels[labels != IGNORED]
            if not len(wanted):
                continue
            # A review may contain a [MASK] of its own, whose word nobody knows.
            logits = model.logits(ids[0])[labels[ids == vocabulary.mask_id] != IGNORED]
            at = logits[np.arange(len(wanted)), wanted][:, None]
            total = _log_sum_exp(logits)
            summed = float((total - at[:, 0]).sum())
            loss += summed
            if rows is not None:
                best, name = logits.argmax(axis=1), model.tokenizer.id_to_token
                score = float(np.exp(logits.max(axis=1) - total).mean())
                shown = model.tokenizer.decode([int(i) for i in ids[0]], skip_special_tokens=False)
                predicted = [name(int(i)) for i in best]
                measured.append(
                    (row + 1, shown, [name(int(i)) for i in wanted], predicted, score, summed / len(wanted))
                )
            better = (logits > at).sum(axis=1)
            first += int((better < 1).sum())
            five += int((better < 5).sum())
            tokens += len(wanted)
    seconds = time.perf_counter() - start
    if rows is not None:
        measured.sort(key=lambda row: (-row[-1], row[0]))
        names = ("row", "text", "label", "prediction", "score", "loss")
        rows.update({name: [row[at] for row in measured] for at, name in enumerate(names)})
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
