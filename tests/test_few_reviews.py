"""Training on few reviews: enough held out or a warning, the right checkpoint, honest scores, and int8 that learns."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import make_reviews, tiny_options, write_csv

from edge_imdb import Sentiment
from edge_imdb.data.corpus import ENOUGH, about_splits, load_corpus
from edge_imdb.data.metrics import fit_temperature, log_loss, softmax
from edge_imdb.errors import GateError
from edge_imdb.runtime.bundle import EMBEDDED
from edge_imdb.train.options import hyperparameters


@pytest.mark.parametrize(("rows", "held"), [(40, 8), (400, 80), (480, 96), (1000, 100), (4000, 200)])
def test_enough_is_held_out(rows: int, held: int, tiny_bert: Path, tmp_path: Path) -> None:
    """5 % by default, but at least 100 reviews, or a fifth of a small data set."""
    file = write_csv(tmp_path / "train.csv", make_reviews(rows))
    options = tiny_options(tiny_bert, (file, file), tmp_path)
    corpus = load_corpus({**hyperparameters(options), "test_data": None, "validation": 0.05})
    assert len(corpus.validation.texts) == held


def test_a_small_validation_set_is_warned_of() -> None:
    assert not [line for line in about_splits(900, ENOUGH, None, 0, 0) if "WARNING" in line]
    (warning,) = [line for line in about_splits(32, 8, None, 0, 0) if "WARNING" in line]
    assert "only 8 reviews" in warning and "give more reviews" in warning


def test_a_training_on_few_reviews_warns(tiny_bert: Path, tmp_path: Path) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    files = write_csv(tmp_path / "train.csv", make_reviews(40)), write_csv(tmp_path / "test.csv", make_reviews(8, 3))
    said: list[str] = []
    train_sentiment(tiny_options(tiny_bert, files, tmp_path, epochs=1.0), said.append)
    assert any(line.startswith("WARNING: only 8 reviews are held out") for line in said)


def test_a_run_that_has_learnt_nothing_ends_with_a_warning(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    said: list[str] = []
    options = tiny_options(tiny_bert, reviews_csv, tmp_path, epochs=0.1, learning_rate=1e-7)
    train_sentiment(options, said.append)  # type: ignore[arg-type]
    assert any(line.startswith("WARNING: the model is hardly better than a guess") for line in said)
    # After the figures, where it is the last thing that is read.
    place = next(number for number, line in enumerate(said) if line.startswith("WARNING: the model"))
    assert any(line.startswith("validation: accuracy") for line in said[:place])


def test_the_checkpoint_with_the_least_log_loss_is_kept(tiny_run: Path) -> None:
    """Not the most accurate: on a small validation set many tie, and the first of them may have learnt nothing."""
    log = [json.loads(line) for line in (tiny_run / "log.jsonl").read_text().splitlines()]
    losses = {record["step"]: record["eval_calibrated_log_loss"] for record in log if "eval_accuracy" in record}
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert len(losses) > 1 and metrics["best_step"] == min(losses, key=lambda step: losses[step])


def test_the_temperature_of_a_few_reviews_stays_away_from_its_bounds() -> None:
    """If every review is right, the log loss alone would have scores of 0 and 1."""
    logits, labels = np.array([[2.0, -2.0], [-2.0, 2.0]] * 4), np.array([0, 1] * 4)
    temperature = fit_temperature(logits, labels)
    assert 0.3 < temperature < 1.5
    assert 0.9 < softmax(logits, temperature).max() < 0.999999


def test_the_prior_of_the_temperature_doesnt_show_on_a_thousand_reviews() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 1000)
    logits = draw.normal(size=(1000, 2)) + 2.5 * np.eye(2)[labels]
    logits *= 2
    temperature = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(-2, 2, 2001))
    best = grid[np.argmin([log_loss(softmax(logits, float(value)), labels) for value in grid])]
    assert abs(temperature / best - 1) < 0.01


def test_the_gate_refuses_int8_that_is_as_accurate_but_less_sure(tiny_run: Path) -> None:
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.sentiment import SentimentExporter

    task = SentimentExporter(tiny_run, {})
    fp32 = {"accuracy": 0.925, "log_loss": 0.199, "reviews": 1244}
    task.check_gate(fp32, {**fp32, "log_loss": 0.219}, ExportOptions())
    with pytest.raises(GateError, match="raises the log loss"):
        task.check_gate(fp32, {**fp32, "log_loss": 0.2191}, ExportOptions())
    # On 250 reviews chance alone moves the mean twice as far.
    few = {**fp32, "reviews": 250}
    task.check_gate(few, {**few, "log_loss": 0.239}, ExportOptions())
    with pytest.raises(GateError, match=r"over 0\.04"):
        task.check_gate(few, {**few, "log_loss": 0.2391}, ExportOptions())
    with pytest.raises(GateError, match=r"raises the log loss .* by 0\.1350 nats, from 0\.1990 to 0\.3340"):
        task.check_gate(fp32, {**fp32, "log_loss": 0.334}, ExportOptions())


def test_the_gate_allows_one_review_of_a_small_validation_set_and_not_two(tiny_run: Path) -> None:
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.sentiment import SentimentExporter

    task = SentimentExporter(tiny_run, {})
    fp32 = {"accuracy": 79 / 80, "log_loss": 0.1, "reviews": 80}
    task.check_gate(fp32, {**fp32, "accuracy": 78 / 80}, ExportOptions())
    with pytest.raises(GateError, match=r"int8 loses 2\.50 points"):
        task.check_gate(fp32, {**fp32, "accuracy": 77 / 80}, ExportOptions())


LATE = ["The parcel came {} days late.", "I waited {} weeks for the shipment.", "The courier left it at number {}."]
BROKEN = ["The handle broke after {} uses.", "It stopped working in {} hours.", "The screen had {} scratches."]
OPENINGS = ["Hello,", "To be honest:", "I am writing because of this.", "Well.", "My family is unhappy."]


def complaints(count: int, seed: int) -> list[tuple[str, str]]:
    """Rows with labels of one's own, which the embedded model has never seen."""
    draw, rows = random.Random(seed), {}
    while len(rows) < count:
        label = ("delivery", "product")[len(rows) % 2]
        text = draw.choice(LATE if label == "delivery" else BROKEN).format(draw.randint(2, 9999))
        rows[f"{draw.choice(OPENINGS)} {text}"] = label
    return list(rows.items())


@pytest.mark.slow
def test_400_rows_of_ones_own_are_learnt_from_the_embedded_bundle_and_by_int8_too(tmp_path: Path) -> None:
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run
    from edge_imdb.train.options import SentimentOptions
    from edge_imdb.train.sentiment import train_sentiment

    data = write_csv(tmp_path / "train.csv", complaints(400, 0))
    options = SentimentOptions(base=str(EMBEDDED / "sentiment"), data=str(data), output=str(tmp_path), precision="fp32")
    bundle = export_run("sentiment", train_sentiment(options), tmp_path / "bundle", ExportOptions(quantize=True))
    unseen = complaints(60, 1)
    labels = [found["label"] for found in Sentiment(bundle, precision="int8")([text for text, _ in unseen])]
    right = sum(label == wanted for label, (_, wanted) in zip(labels, unseen, strict=True))
    assert right >= 57, right
