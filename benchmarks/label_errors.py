"""How many wrong labels are among the first rows of `edge-imdb evaluate --rows`.

    python benchmarks/label_errors.py --data ../shared/imdb/plain_text --json benchmarks/results/label_errors.json

It takes held-out validation reviews, which the embedded model has not learnt from, and flips some of their labels. Then
it sorts the reviews by their loss, as --rows does, and counts how many flipped labels are among the first n rows. IMDb
has wrong labels of its own, which count as right here, so the figures are a lower bound. Nothing here reads test.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from command import run_as_command
from machine import describe

from edge_imdb import Sentiment
from edge_imdb.data.corpus import load_corpus
from edge_imdb.data.datasets import Reviews
from edge_imdb.data.splits import sample
from edge_imdb.tasks.sentiment.figures import probabilities_of, worst_first
from edge_imdb.train.options import SentimentOptions, hyperparameters

SHARES = (0.02, 0.05, 0.1)
# Rows that are read, as multiples of the number of flipped labels.
DEPTHS = (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="stanfordnlp/imdb", help="Hub id, folder or file of labelled reviews")
    parser.add_argument("--model", help="bundle to sort with  [default: the embedded one]")
    parser.add_argument("--limit", type=int, default=1500, help="use at most this many reviews")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    corpus = load_corpus(hyperparameters(SentimentOptions(data=options.data)))
    reviews = corpus.validation.take(sample(corpus.validation.texts, options.limit, seed=0))
    if len(reviews.names) != 2:
        parser.error(f"{options.data} has {len(reviews.names)} labels: this needs two")
    probabilities, _ = probabilities_of(Sentiment(options.model), reviews.texts)
    report = {
        "machine": describe(),
        "reviews": len(reviews.texts),
        "flipped": [measure(reviews, probabilities, share) for share in SHARES],
    }
    print("\n".join(table(report)))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(reviews: Reviews, probabilities: Any, share: float) -> dict[str, Any]:
    """The recall of flipped labels among the first rows, with ``share`` of the labels flipped, drawn by text."""
    count = round(share * len(reviews.texts))
    flipped = set(sample(reviews.texts, count, seed=1))
    labels = [1 - label if index in flipped else label for index, label in enumerate(reviews.labels)]
    rows = worst_first(probabilities, Reviews(reviews.texts, labels, reviews.names))["row"]
    wrong = np.array([row - 1 in flipped for row in rows])
    return {
        "share": share,
        "count": count,
        "recall": {str(depth): float(wrong[: depth * count].sum() / count) for depth in DEPTHS},
    }


def table(report: dict[str, Any]) -> Iterator[str]:
    yield f"| of {report['reviews']:,} reviews, labels flipped | read as many rows | twice as many | three times |"
    yield "|---|---|---|---|"
    for row in report["flipped"]:
        found = " | ".join(f"{100 * row['recall'][str(depth)]:.0f} %" for depth in DEPTHS)
        yield f"| {100 * row['share']:.0f} % ({row['count']}) | {found} |"


if __name__ == "__main__":
    run_as_command(main)
