"""evaluate: the figures that ``edge-imdb evaluate sentiment`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...data.datasets import read_reviews
from ...data.metrics import confusion_matrix, label_figures
from ...data.splits import sample
from ..evaluation import DataOptions, Evaluation, Progress
from .figures import classification_figures, probabilities_of, worst_first
from .pipeline import Sentiment

# A confusion matrix of more labels doesn't fit on a screen: then only the most frequent confusions are printed.
_MATRIX = 20
_CONFUSIONS = 10
# Widest label name, and widest matrix that has the names of the labels above its columns, in characters.
_NAME = 24
_WIDTH = 100


def evaluate(sentiment: Sentiment, chosen: DataOptions, workers: int, progress: Progress) -> Evaluation:
    """Figures of the labels, the confusion matrix and the coverage, on labelled reviews. Raises InputError."""
    reviews = read_reviews(
        chosen.data,
        chosen.split,
        chosen.text_column,
        chosen.label_column,
        names=sentiment.labels,
        delimiter=chosen.delimiter,
    )
    kept = range(len(reviews.texts))
    if chosen.limit is not None:
        kept = sample(reviews.texts, chosen.limit, seed=0)  # type: ignore[assignment]
        reviews = reviews.take(kept)
    with progress(reviews.texts) as bar:
        probabilities, seconds = probabilities_of(sentiment, bar, workers)
    figures = classification_figures(probabilities, reviews.labels, seconds)
    confusion = confusion_matrix(probabilities, np.array(reviews.labels))
    labels = label_figures(confusion, reviews.names)
    coverage = figures["coverage"]
    lines = [
        f"bundle              {sentiment.bundle.path.name} ({sentiment.reason}), {sentiment.precision}",
        f"reviews             {figures['reviews']}",
        f"accuracy            {100 * figures['accuracy']:.2f} %",
        f"F1 (macro)          {100 * figures['f1']:.2f} %",
        f"log loss            {figures['log_loss']:.4f} nats",
        f"calibration error   {100 * figures['calibration_error']:.2f} %",
        f"reviews per second  {figures['reviews_per_second']:.1f}",
        "score at least      " + "  ".join(f"{row['min_score']:7.2f}" for row in coverage),
        "  share of reviews  " + "  ".join(_percent(row["coverage"], 5) for row in coverage),
        "  accuracy on them  " + "  ".join(_percent(row["accuracy"], 5) for row in coverage),
        "",
        *label_table(labels),
        "",
        *confusion_table(confusion.tolist(), reviews.names),
    ]
    missing = [name for name, figure in labels.items() if not figure["support"]]
    if missing:
        lines += ["", f"No review has the label {', '.join(missing)}: the figures don't cover it."]
    record = {
        "precision": sentiment.precision,
        "provider": sentiment.provider,
        **figures,
        "labels": labels,
        "confusion": {"labels": reviews.names, "counts": confusion.tolist()},
    }
    return Evaluation(record, lines, worst_first(probabilities, reviews, [index + 1 for index in kept]))


def _percent(share: float | None, width: int) -> str:
    """A share in percent, right-aligned to ``width`` and its unit; a dash where there is none."""
    return f"{'–':>{width + 2}}" if share is None else f"{100 * share:{width}.1f} %"


def label_table(labels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of a table with precision, recall, F1 and support of each label, from ``label_figures``.

    >>> half = {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1, "predicted": 2}
    >>> print("\\n".join(label_table({"neg": half})))
    label  precision   recall       F1  support
    neg       50.0 %  100.0 %   66.7 %        1
    """
    width = max(len("label"), *(len(_short(name)) for name in labels))
    lines = [f"{'label':{width}}  precision   recall       F1  support"]
    for name, figures in labels.items():
        precision, recall, f1 = (_percent(figures[key], 5) for key in ("precision", "recall", "f1"))
        lines.append(f"{_short(name):{width}}  {precision:>9}  {recall:>7}  {f1:>7}  {figures['support']:7}")
    return lines


def confusion_table(counts: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    """The lines of a confusion matrix; of more than 20 labels only the most frequent confusions.

    ``counts``, *shape:* ``(labels, labels)``, has the rows of each label, and in each row the count of each prediction.

    >>> print("\\n".join(confusion_table([[5, 1], [0, 6]], ["neg", "pos"])))
    label   predicted neg  pos
    neg                 5    1
    pos                 0    6
    """
    if len(names) > _MATRIX:
        pairs = [
            (count, names[i], names[j])
            for i, row in enumerate(counts)
            for j, count in enumerate(row)
            if i != j and count
        ]
        pairs.sort(key=lambda pair: -pair[0])
        title = f"most frequent confusions of {len(names)} labels (--json has the whole matrix)"
        return [
            title,
            *(
                f"{count:7}  {_short(label)} predicted as {_short(other)}"
                for count, label, other in pairs[:_CONFUSIONS]
            ),
        ]
    shown = [_short(name) for name in names]
    digits = max(len(str(count)) for row in counts for count in row)
    rows, columns = shown, shown
    if len(names) * (max(digits, *map(len, shown)) + 2) + max(map(len, shown)) > _WIDTH:
        # The names are too wide for the columns, so the labels are numbered.
        columns = [str(number) for number in range(1, len(names) + 1)]
        rows = [f"{number:>{len(str(len(names)))}} {name}" for number, name in zip(columns, shown, strict=True)]
    first = max(len("label"), *map(len, rows))
    width = max(digits, *map(len, columns))
    lead = len("predicted ")
    heading = "  ".join(f"{name:>{width}}" for name in columns)
    lines = [f"{'label':{first}}   predicted {heading}"]
    for name, row in zip(rows, counts, strict=True):
        lines.append(f"{name:{first}}   {'':{lead}}" + "  ".join(f"{count:{width}}" for count in row))
    return lines


def _short(name: str) -> str:
    """A label's name on one line, of at most 24 characters."""
    name = "".join(character if character.isprintable() else " " for character in name)
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
