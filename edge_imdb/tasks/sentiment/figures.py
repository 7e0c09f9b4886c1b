"""evaluate_sentiment: the quality and the speed of a sentiment bundle on labelled reviews."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...data.datasets import Reviews
from ...data.inputs import ordered_map
from ...data.metrics import Floats, classification_metrics, coverage_curve, losses
from .pipeline import Sentiment


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

    >>> from edge_imdb import Sentiment
    >>> figures = evaluate_sentiment(Sentiment(), Reviews(["great film", "awful film"], [1, 0], ["neg", "pos"]))
    >>> figures["reviews"], figures["accuracy"]
    (2, 1.0)
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
