"""edge-imdb evaluate: figures of each label, the confusion matrix, and --rows, every text with its loss."""

from __future__ import annotations

import csv
import doctest
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import make_reviews, write_csv

from edge_imdb.cli.main import cli
from edge_imdb.data import metrics
from edge_imdb.data.datasets import Reviews
from edge_imdb.errors import EdgeImdbError
from edge_imdb.tasks.sentiment import evaluation, figures
from edge_imdb.tasks.sentiment.evaluation import confusion_table, label_table

SHARES = ["precision", "recall", "f1", "support"]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Twelve reviews, of which the fourth has the wrong label."""
    rows = make_reviews(12, seed=3)
    text, label = rows[3]
    rows[3] = (text, "neg" if label == "pos" else "pos")
    return write_csv(tmp_path / "reviews.csv", rows)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])


@pytest.mark.parametrize("module", [evaluation, metrics, figures])
def test_examples_in_docstrings(module: Any) -> None:
    names = {"np": np, "Reviews": Reviews, **vars(module)}
    done = doctest.testmod(module, extraglobs=names)
    assert done.attempted and not done.failed


def test_the_figures_of_each_label_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    probabilities, labels = draw.dirichlet(np.ones(5), 200), draw.integers(0, 5, 200)
    predicted = probabilities.argmax(1)
    confusion = metrics.confusion_matrix(probabilities, labels)
    np.testing.assert_array_equal(confusion, sklearn.confusion_matrix(labels, predicted))
    found = metrics.label_figures(confusion, list("abcde"))
    expected = sklearn.precision_recall_fscore_support(labels, predicted)
    np.testing.assert_allclose([[found[name][key] for name in "abcde"] for key in SHARES], expected)


def test_a_label_without_texts_or_predictions_has_no_figure_instead_of_a_wrong_one() -> None:
    found = metrics.label_figures(np.array([[2, 0, 0], [1, 0, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert (found["b"]["precision"], found["b"]["recall"], found["b"]["f1"]) == (None, 0, 0)
    assert (found["c"]["precision"], found["c"]["recall"], found["c"]["f1"]) == (None, None, None)
    assert label_table(found)[-1].split() == ["c", "–", "–", "–", "0"]


def test_the_loss_of_a_certain_mistake_is_finite() -> None:
    found = metrics.losses(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0, 0]))
    assert 700 < found[0] < 800 and found[1] == 0 and not math.copysign(1, found[1]) < 0


def test_a_matrix_of_twenty_labels_fits_on_a_line_and_of_more_the_worst_confusions_are_named() -> None:
    names = [f"a label with a long name {number}" for number in range(20)]
    counts = (np.eye(20, dtype=int) * 700 + 3).tolist()
    lines = confusion_table(counts, names)
    assert len(lines) == 21 and max(map(len, lines)) <= 140
    assert lines[0].split()[2:] == [str(number) for number in range(1, 21)] and lines[9].startswith(" 9 a label")
    counts = np.eye(21, dtype=int)
    counts[4, 7], counts[5, 1] = 40, 30
    lines = confusion_table(counts.tolist(), [f"l{number}" for number in range(21)])
    assert "--json has the whole matrix" in lines[0]
    assert [line.split() for line in lines[1:]] == [
        ["40", "l4", "predicted", "as", "l7"],
        ["30", "l5", "predicted", "as", "l1"],
    ]


def test_evaluate_prints_the_figures_of_each_label_and_the_confusion_matrix(labelled: Path) -> None:
    shown = run("--data", labelled).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["label", "precision", "recall", "F1", "support"] in lines and ["label", "predicted", "neg", "pos"] in lines
    record = json.loads(run("--data", labelled, "--json").stdout)
    counts = record["confusion"]["counts"]
    assert record["confusion"]["labels"] == ["neg", "pos"] and sum(map(sum, counts)) == 12
    for index, name in enumerate(("neg", "pos")):
        found = record["labels"][name]
        assert found["support"] == sum(counts[index]) and found["recall"] == counts[index][index] / found["support"]
        assert [name, *map(str, counts[index])] in lines


def test_a_label_that_the_data_lacks_is_mentioned(tmp_path: Path) -> None:
    only = write_csv(tmp_path / "neg.csv", [row for row in make_reviews(8) if row[1] == "neg"])
    assert "No review has the label pos: the figures don't cover it." in run("--data", only).stdout


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet", "rows.csv.gz"])
def test_rows_has_every_text_the_highest_loss_first(labelled: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("what was there")
    done = run("--data", labelled, "--rows", path)
    assert done.exit_code == 0 and f"wrote {path}" in done.stderr
    rows = read_rows(path)
    assert list(rows[0]) == ["row", "text", "label", "prediction", "score", "loss"]
    texts = [text for text, _ in make_reviews(12, seed=3)]
    assert [texts[int(row["row"]) - 1] for row in rows] == [row["text"] for row in rows]
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True) and int(rows[0]["row"]) == 4
    wrong = rows[0]
    assert wrong["label"] != wrong["prediction"]
    # With two labels the label's probability is what the prediction leaves.
    assert math.exp(-float(wrong["loss"])) == pytest.approx(1 - float(wrong["score"]))


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return list(parquet.read_table(path).to_pylist())
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = data.decode().splitlines()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in lines]
    return list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","))


def test_the_numbers_of_rows_are_those_of_the_file_when_limit_takes_a_sample(labelled: Path, tmp_path: Path) -> None:
    run("--data", labelled, "--limit", 5, "--rows", tmp_path / "rows.csv")
    texts = [text for text, _ in make_reviews(12, seed=3)]
    rows = read_rows(tmp_path / "rows.csv")
    assert len(rows) == 5 and all(texts[int(row["row"]) - 1] == row["text"] for row in rows)


def test_rows_of_fill_mask_are_chunks_with_their_masks(tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    write_csv(texts, make_reviews(40))
    done = run("fill-mask", "--data", texts, "--rows", tmp_path / "rows.jsonl")
    assert done.exit_code == 0, done.output
    rows = read_rows(tmp_path / "rows.jsonl")
    losses = [row["loss"] for row in rows]
    assert losses == sorted(losses, reverse=True) and len(rows) > 1
    for row in rows:
        assert 0 < len(row["label"]) == len(row["prediction"]) and "[MASK]" in row["text"] and 0 < row["score"] < 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rows.xlsx", "give a file, .parquet, or .csv, .tsv, .jsonl"),
        ("rows", "give a file, .parquet, or .csv, .tsv, .jsonl"),
        ("missing/rows.csv", "There is no folder"),
        ("reviews.csv", "which is also the input: give another file"),
    ],
)
def test_rows_is_refused_before_anything_is_measured(labelled: Path, tmp_path: Path, name: str, words: str) -> None:
    before = labelled.read_bytes()
    done = run("--data", labelled, "--rows", tmp_path / name, "--model", tmp_path / "no-model")
    assert isinstance(done.exception, EdgeImdbError) and words in str(done.exception)
    assert labelled.read_bytes() == before
