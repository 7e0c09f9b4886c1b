"""Does `explain` name the words that decide? Deletion curves: python benchmarks/explain.py --data stanfordnlp/imdb

From each review the words are deleted that a method says speak most for its label, 5 % to 50 % of them, and what is
left is read anew. The further the margin (calibrated log-odds of the label that the whole review got) falls, the better
the method (Samek et al. 2017, "Evaluating the Visualization of What a Deep Neural Network Has Learned", section 3). The
methods:

- explain: our attribution, one run.
- each word in turn: delete every word by itself and read what is left, as many runs as there are words.
- linear: the weights of scikit-learn's TF-IDF and logistic regression, trained on the train reviews: no run of ours.
- random: any words.

The reviews are held-out validation reviews with 20 to --longest words, drawn with a fixed seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from command import run_as_command
from machine import describe

from edge_imdb import Sentiment
from edge_imdb.data.corpus import Corpus, load_corpus
from edge_imdb.data.splits import sample
from edge_imdb.train.options import SentimentOptions

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
METHODS = ("explain", "each word in turn", "linear", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Hub id or folder of reviews, as the bundle was trained on")
    parser.add_argument("--reviews", type=int, default=100)
    parser.add_argument("--longest", type=int, default=150, help="words in a review at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    report = measure(load_corpus(vars(SentimentOptions(data=options.data))), options)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(corpus: Corpus, options: argparse.Namespace) -> dict[str, object]:
    model = Sentiment(exact=True)
    pool = [text for text in corpus.validation.texts if 20 <= len(text.split()) <= options.longest]
    texts = [pool[i] for i in sample(pool, options.reviews, options.seed)]
    linear = linear_weights(corpus)
    draw = np.random.default_rng(options.seed)
    falls: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS[:2]}
    runs = []
    for text in texts:
        start = time.perf_counter()
        found = model.explain(text)
        seconds["explain"].append(time.perf_counter() - start)
        toward = model.labels.index(found["label"])
        sign = 1 if found["label"] == found["toward"] else -1
        words = found["words"]
        whole = margin(model, text, toward)
        start = time.perf_counter()
        in_turn = [whole - margin(model, without(text, words, [index]), toward) for index in range(len(words))]
        seconds["each word in turn"].append(time.perf_counter() - start)
        runs.append(len(words))
        weights = {
            "explain": [sign * word["weight"] for word in words],
            "each word in turn": in_turn,
            "linear": [(1 if toward == 1 else -1) * linear.get(word["word"].lower(), 0.0) for word in words],
            "random": list(draw.random(len(words))),
        }
        for name in METHODS:
            order = np.argsort(-np.array(weights[name]), kind="stable")
            counts = [max(1, round(share * len(words))) for share in SHARES]
            falls[name].append([whole - margin(model, without(text, words, order[:n]), toward) for n in counts])
    return {
        "machine": describe(),
        "reviews": len(texts),
        "longest": options.longest,
        "seed": options.seed,
        "words_median": statistics.median(runs),
        "shares": SHARES,
        "falls": {name: np.mean(rows, axis=0).round(3).tolist() for name, rows in falls.items()},
        "standard_errors": {
            name: (np.std(rows, axis=0, ddof=1) / len(rows) ** 0.5).round(3).tolist() for name, rows in falls.items()
        },
        "median_ms": {name: round(1000 * statistics.median(values), 1) for name, values in seconds.items()},
    }


def margin(model: Sentiment, text: str, label: int) -> float:
    """Calibrated log-odds of ``label`` against the other one."""
    logits = model.logits(text) if text.strip() else np.zeros(2)
    return float(logits[label] - logits[1 - label]) / model.bundle.temperature


def without(text: str, words: list[dict[str, int]], left_out: object) -> str:
    """``text`` without some of its words."""
    characters = list(text)
    for index in left_out:  # type: ignore[attr-defined]
        word = words[index]
        characters[word["start"] : word["end"]] = [""] * (word["end"] - word["start"])
    return "".join(characters)


def linear_weights(corpus: Corpus) -> dict[str, float]:
    """For each word its weight towards the second label, in a linear model of the train reviews."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w[\w'’-]*\b", min_df=3, sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=300).fit(
        vectorizer.fit_transform(corpus.train.texts), corpus.train.labels
    )
    return dict(zip(vectorizer.get_feature_names_out(), model.coef_[0].tolist(), strict=True))


def table(report: dict[str, object]) -> str:
    lines = ["| deleted | " + " | ".join(METHODS) + " |", "|---" * (1 + len(METHODS)) + "|"]
    falls: dict[str, list[float]] = report["falls"]  # type: ignore[assignment]
    lines += [
        f"| {share:.0%} | " + " | ".join(f"{falls[name][i]:.2f}" for name in METHODS) + " |"
        for i, share in enumerate(SHARES)
    ]
    milliseconds: dict[str, float] = report["median_ms"]  # type: ignore[assignment]
    timed = ", ".join(f"{name} {value:.0f} ms" for name, value in milliseconds.items())
    below = f"{report['reviews']} reviews of {report['words_median']:.0f} words (median); {timed} (median)."
    return "\n".join([*lines, "", below])


if __name__ == "__main__":
    run_as_command(main)
