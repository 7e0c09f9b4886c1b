"""The figures of a classifier, and the temperature that calibrates it: with NumPy only, used everywhere.

softmax, accuracy, macro_f1, log_loss, calibration_error, coverage_curve, fit_temperature, classification_metrics;
confusion_matrix, label_figures, losses.

``Labels`` are indices, *shape:* ``(rows,)``, or the probability of each class according to a teacher, *shape:*
``(rows, classes)``; the figures then say how well a model agrees with the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[Any]


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """Probabilities of ``logits / temperature``. *Shape:* ``(..., classes)`` to the same."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    probabilities: Floats = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def most_likely(labels: Labels) -> Ints:
    """The index of each row's label, or of the teacher's most likely one. *Shape:* ``(rows,)``."""
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


def accuracy(probabilities: Floats, labels: Labels) -> float:
    """Share of rows whose largest entry is at the label.

    >>> accuracy(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    0.5
    """
    return float((probabilities.argmax(axis=1) == most_likely(labels)).mean())


def macro_f1(probabilities: Floats, labels: Labels) -> float:
    """F1 averaged over the classes that occur in labels or predictions, as scikit-learn's ``macro``."""
    predicted, labels = probabilities.argmax(axis=1), most_likely(labels)
    scores = []
    for label in np.union1d(predicted, labels):
        hits = ((predicted == label) & (labels == label)).sum()
        scores.append(2 * hits / ((predicted == label).sum() + (labels == label).sum()))
    return float(np.mean(scores))


def log_loss(probabilities: Floats, labels: Labels) -> float:
    """Mean negative log-likelihood of the labels, or cross-entropy with a teacher's probabilities, in nats."""
    if labels.ndim == 2:
        logarithms = np.log(np.clip(probabilities, np.finfo(np.float64).tiny, 1.0))
        return float(-(labels * logarithms).sum(axis=1).mean())
    picked = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(picked, np.finfo(np.float64).tiny, 1.0)).mean())


def calibration_error(probabilities: Floats, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error over ``bins`` equal-width bins of the top score.

    With a teacher's probabilities, the top score is compared with the probability that the teacher gives that label.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    correct = predicted == labels if labels.ndim == 1 else labels[np.arange(len(labels)), predicted]
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(correct[which == b].mean() - confidence[which == b].mean()) * (which == b).mean() for b in set(which)]
    return float(np.sum(gaps))


COVERAGE_AT = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def coverage_curve(probabilities: Floats, labels: Labels) -> list[dict[str, float | None]]:
    """For each of COVERAGE_AT as the least score: the share of rows that reach it, and the accuracy on those.

    Accuracy is None where no row reaches the score. Source: Geifman and El-Yaniv 2017, "Selective Classification for
    Deep Neural Networks", section 2.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == most_likely(labels)
    curve: list[dict[str, float | None]] = []
    for least in COVERAGE_AT:
        sure = confidence >= least
        right = float(correct[sure].mean()) if sure.any() else None
        curve.append({"min_score": least, "coverage": float(sure.mean()), "accuracy": right})
    return curve


def fit_temperature(logits: NDArray[np.floating], labels: Labels, low: float = 0.1, high: float = 10.0) -> float:
    """The temperature between ``low`` and ``high`` that fits the labels best, by golden section on its logarithm.

    It minimises the summed log loss plus the square of the temperature's logarithm. That weak prior is worth a few
    reviews: on a thousand it changes nothing that shows, but if every one of a few reviews is right by any margin, the
    log loss alone has no minimum, and would make every score 0 or 1. Source: Guo et al. 2017, section 4.2.
    """
    ratio = (np.sqrt(5) - 1) / 2
    a, b = np.log(low), np.log(high)

    def loss(logarithm: float) -> float:
        return log_loss(softmax(logits, float(np.exp(logarithm))), labels) * len(labels) + logarithm**2

    c, d = b - ratio * (b - a), a + ratio * (b - a)
    at_c, at_d = loss(c), loss(d)
    while b - a > 1e-6:
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - ratio * (b - a)
            at_c = loss(c)
        else:
            a, c, at_c = c, d, at_d
            d = a + ratio * (b - a)
            at_d = loss(d)
    return float(np.exp((a + b) / 2))


def classification_metrics(probabilities: Floats, labels: Labels) -> dict[str, float]:
    """The figures that training, export and ``evaluate`` report: accuracy, macro F1, log loss, calibration error."""
    return {
        "accuracy": accuracy(probabilities, labels),
        "f1": macro_f1(probabilities, labels),
        "log_loss": log_loss(probabilities, labels),
        "calibration_error": calibration_error(probabilities, labels),
    }


def losses(probabilities: Floats, labels: Ints) -> Floats:
    """The loss of each row: the negative log of its label's probability, in nats.

    *Shape:* ``(rows, classes)`` and ``(rows,)`` to ``(rows,)``.

    >>> losses(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 1])).round(2).tolist()
    [0.0, 0.69]
    """
    picked = probabilities[np.arange(len(labels)), labels]
    # abs turns -0.0 into 0.0.
    found: Floats = np.abs(np.log(np.clip(picked, np.finfo(np.float64).tiny, 1.0)))
    return found


def confusion_matrix(probabilities: Floats, labels: Ints) -> Ints:
    """How many rows of each label (row of the matrix) got each prediction (column).

    *Shape:* ``(rows, classes)`` and ``(rows,)`` to ``(classes, classes)``.

    >>> confusion_matrix(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([0, 1, 1])).tolist()
    [[1, 0], [1, 1]]
    """
    classes = probabilities.shape[1]
    counts: Ints = np.bincount(labels * classes + probabilities.argmax(axis=1), minlength=classes * classes)
    return counts.reshape(classes, classes)


def label_figures(confusion: Ints, names: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Precision, recall, F1, support and the number of predictions of each label, from a confusion matrix.

    Precision is None for a label that was never predicted, recall is None for a label without rows, and F1 is None for
    a label with neither. *Shape:* ``(classes, classes)`` and ``(classes,)``.

    >>> label_figures(np.array([[1, 0], [1, 1]]), ["neg", "pos"])["neg"]
    {'precision': 0.5, 'recall': 1.0, 'f1': 0.6666666666666666, 'support': 1, 'predicted': 2}
    """
    figures: dict[str, dict[str, float | int | None]] = {}
    for index, name in enumerate(names):
        hits, support, predicted = (
            int(n) for n in (confusion[index, index], confusion[index].sum(), confusion[:, index].sum())
        )
        figures[name] = {
            "precision": hits / predicted if predicted else None,
            "recall": hits / support if support else None,
            "f1": 2 * hits / (predicted + support) if predicted + support else None,
            "support": support,
            "predicted": predicted,
        }
    return figures
