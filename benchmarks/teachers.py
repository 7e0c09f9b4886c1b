"""The teachers of the embedded sentiment model: a bundle that reads with all its work, and a linear model.

    python benchmarks/teachers.py --leave-out originals.jsonl --output scored-linear.parquet --bundle OLD_BUNDLE

The linear model weighs words, bigrams and trigrams of the whole review. It makes other mistakes than a transformer
does, so the mean of the two is right more often than either. This fits it on the train reviews of --data, labels the
split ``unsupervised`` with it as ``edge-imdb score`` would, for ``edge-imdb train sentiment --scored``, and measures
the teachers and their mean on the held-out validation reviews. Nothing here reads test.

Source: Wang and Manning 2012, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification", section 2.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from command import run_as_command
from machine import describe
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from edge_imdb import Sentiment
from edge_imdb.data.corpus import load_corpus
from edge_imdb.data.datasets import read_texts
from edge_imdb.data.metrics import classification_metrics
from edge_imdb.train.options import SentimentOptions, hyperparameters

# Words with what follows an apostrophe, and the two signs that carry an opinion.
WORDS = r"(?u)\b\w+(?:'\w+)?\b|[!?]"


class LogCountRatios(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Multiplies each column by the log of how much likelier it is in texts of the second label than of the first."""

    def fit(self, columns: Any, labels: Any) -> LogCountRatios:
        first, second = MultinomialNB().fit(columns > 0, labels).feature_log_prob_
        self.ratios_ = second - first
        return self

    def transform(self, columns: Any) -> Any:
        return columns.multiply(self.ratios_).tocsr()


class LinearModel:
    """A linear model of two labels, whose probabilities are calibrated by cross-validation on its own texts."""

    def __init__(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        self._words = TfidfVectorizer(ngram_range=(1, 3), min_df=2, sublinear_tf=True, token_pattern=WORDS)
        weigh = make_pipeline(LogCountRatios(), LogisticRegression(C=16, solver="liblinear"))
        self._model = CalibratedClassifierCV(weigh, ensemble=False)
        self._model.fit(self._words.fit_transform(texts), labels)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """*Shape:* ``(texts,)`` to ``(texts, 2)``."""
        found: NDArray[np.float64] = self._model.predict_proba(self._words.transform(texts))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="stanfordnlp/imdb", help="Hub id, folder or file of labelled reviews")
    parser.add_argument("--unlabelled", help="file of reviews to label  [default: the split unsupervised of --data]")
    parser.add_argument("--leave-out", help="file of texts to leave out of training")
    parser.add_argument("--output", type=Path, help="Parquet file to write the labelled reviews to")
    parser.add_argument("--bundle", help="the other teacher, to measure it and the mean too")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    corpus = load_corpus(hyperparameters(SentimentOptions(data=options.data, leave_out=options.leave_out)))
    if len(corpus.train.names) != 2:
        parser.error(f"{options.data} has {len(corpus.train.names)} labels: the linear model needs two")
    linear = LinearModel(corpus.train.texts, corpus.train.labels)
    found = {"linear": linear.probabilities(corpus.validation.texts)}
    if options.bundle:
        teacher = Sentiment(options.bundle, threads=2, exact=True)
        found["bundle"] = np.array([teacher.probabilities(text) for text in corpus.validation.texts])
        found["mean"] = (found["linear"] + found["bundle"]) / 2
    labels = np.array(corpus.validation.labels)
    report = {
        "machine": describe(),
        "reviews": len(labels),
        "quality": {name: classification_metrics(values, labels) for name, values in found.items()},
    }
    print("\n".join(table(report)))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.output:
        texts = read_texts(options.unlabelled or options.data, "unsupervised")
        write(options.output, texts, linear.probabilities(texts), corpus.train.names)


def write(path: Path, texts: list[str], probabilities: NDArray[np.float64], names: list[str]) -> None:
    """The columns that ``edge-imdb score`` adds, as Parquet."""
    import pyarrow
    import pyarrow.parquet

    labels = [names[index] for index in probabilities.argmax(1)]
    columns = {"text": texts, "label": labels, "score": probabilities.max(1)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def table(report: dict[str, Any]) -> Iterator[str]:
    yield "| teacher | accuracy | log loss (nats) | calibration error |"
    yield "|---|---|---|---|"
    titles = {"linear": "linear model", "bundle": "bundle before this one, --exact", "mean": "mean of both"}
    for name, figures in report["quality"].items():
        yield (
            f"| {titles[name]} | {100 * figures['accuracy']:.2f} % | {figures['log_loss']:.4f} | "
            f"{100 * figures['calibration_error']:.2f} % |"
        )


if __name__ == "__main__":
    run_as_command(main)
