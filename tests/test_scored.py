"""Training on texts that models labelled (edge-imdb train sentiment --scored): the mean of their scores is learnt."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_reviews, tiny_options, write_csv

pytest.importorskip("torch", reason="PyTorch is not installed")

from edge_imdb.cli.main import cli
from edge_imdb.data.scored import load_scored
from edge_imdb.data.text import clean
from edge_imdb.errors import EdgeImdbError

NAMES = ["neg", "pos"]
HEADER = ("text", "label", "score", "error")


def write_scored(path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = HEADER) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def test_a_text_has_the_mean_of_what_several_models_say(tmp_path: Path) -> None:
    one = write_scored(tmp_path / "one.csv", [("Fine.", "pos", 0.9, ""), ("Dull.", "neg", 0.8, "")])
    other = write_scored(tmp_path / "other.csv", [("Dull.", "pos", 0.6, ""), ("Fine.<br />", "pos", 0.7, "")])
    found = load_scored([one, other], NAMES, "text", set())
    assert found.texts == ["Fine.", "Dull."] and (found.skipped, found.withheld) == (0, 0)
    np.testing.assert_allclose(found.probabilities, [[0.2, 0.8], [0.6, 0.4]])


def test_the_other_labels_share_the_rest(tmp_path: Path) -> None:
    path = write_scored(tmp_path / "scored.csv", [("Fine.", "good", 0.7, "")])
    found = load_scored([path], ["bad", "fair", "good", "odd"], "text", set())
    np.testing.assert_allclose(found.probabilities, [[0.1, 0.1, 0.7, 0.1]])


def test_rows_without_a_label_and_texts_that_are_withheld_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [("", "", "", "it is blank"), ("Fine.", "pos", 0.9, ""), ("Of test.", "neg", 0.9, "")]
    found = load_scored([write_scored(tmp_path / "scored.csv", rows)], NAMES, "text", {clean("Of test.")})
    assert found.texts == ["Fine."] and (found.skipped, found.withheld) == (1, 1)


def test_added_columns_come_before_those_that_the_input_had(tmp_path: Path) -> None:
    header = ("text", "label", "predicted_label", "predicted_score")
    found = load_scored([write_scored(tmp_path / "s.csv", [("Fine.", -1, "pos", 1)], header)], NAMES, "text", set())
    np.testing.assert_array_equal(found.probabilities, [[0, 1]])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("Fine.", "unsure", 0.6, "")], "has the label 'unsure', but the labels to train are neg, pos"),
        ([("Fine.", "pos", 1.2, "")], "has the score '1.2': it must be from 0 to 1"),
        ([("Fine.", "pos", "nan", "")], "has the score 'nan': it must be from 0 to 1"),
        ([("Fine.", "pos", "sure", "")], "has the score 'sure': it must be from 0 to 1"),
        ([("Fine.", "", "", "no")], "has no labelled text to train on: give the output of edge-imdb score"),
    ],
)
def test_what_no_model_gave_is_refused(tmp_path: Path, rows: list[tuple[Any, ...]], words: str) -> None:
    with pytest.raises(EdgeImdbError, match=words):
        load_scored([write_scored(tmp_path / "scored.csv", rows)], NAMES, "text", set())


def test_what_is_not_the_output_of_score_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("Fine.\n")
    plain = write_csv(tmp_path / "plain.csv", [("Fine.", "pos")])
    for path, words in (
        (tmp_path / "empty", "has no scored texts: give the output of edge-imdb score"),
        (tmp_path / "notes.txt", "is not a table: give the output of edge-imdb score"),
        (tmp_path / "missing.csv", "There is no file or folder .*missing.csv: check the path"),
        (tmp_path / "missing", "There is no file or folder .*missing: check the path"),
        (plain, "has no column 'score'"),
    ):
        with pytest.raises(EdgeImdbError, match=words):
            load_scored([str(path)], NAMES, "text", set())


def test_the_loss_of_probabilities_is_their_cross_entropy(tiny_run: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, TrainingArguments

    from edge_imdb.train.sentiment import _Trainer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_run).eval()
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, label_smoothing_factor=0.1)
    trainer = _Trainer(model=model, args=arguments)
    ids = torch.arange(5, 45).view(4, 10)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.tensor([0, 1, 1, 0])
    exact = torch.nn.functional.one_hot(labels).float()
    # Certain labels cost what whole numbers do, and probabilities the mean of what the labels do.
    costs = [trainer.compute_loss(model, {**batch, "labels": each}).item() for each in (labels, 1 - labels)]
    assert trainer.compute_loss(model, {**batch, "labels": exact}).item() == pytest.approx(costs[0], abs=1e-6)
    mixed = trainer.compute_loss(model, {**batch, "labels": 0.7 * exact + 0.3 * (1 - exact)})
    assert mixed.item() == pytest.approx(0.7 * costs[0] + 0.3 * costs[1], abs=1e-6)


def test_a_model_learns_from_what_another_one_says_about_texts_without_labels(
    tiny_bert: Path, tiny_bundle: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    plain = tmp_path / "texts.txt"
    plain.write_text("".join(f"{text}\n" for text, _ in make_reviews(600, 7)) + "\n")
    done = CliRunner().invoke(
        cli, ["score", str(plain), "--output", str(tmp_path / "scored"), "--model", str(tiny_bundle), "--exact"]
    )
    assert done.exit_code == 3, done.output
    few = write_csv(tmp_path / "few.csv", make_reviews(24, 8))
    tests: dict[str, dict[str, float]] = {}
    lines: list[str] = []
    for name, more in (("alone", {}), ("scored", {"scored": str(tmp_path / "scored")})):
        options = tiny_options(tiny_bert, (few, reviews_csv[1]), tmp_path / name, token_dropping="0.8", **more)
        run = train_sentiment(options, lines.append)  # type: ignore[arg-type]
        metrics = json.loads((run / "metrics.json").read_text())
        tests[name] = metrics["test"]
    assert tests["scored"]["accuracy"] > 0.9 > tests["alone"]["accuracy"]
    assert tests["scored"]["log_loss"] < tests["alone"]["log_loss"] / 2
    assert any(line.startswith("scored: ") and "1 rows without a label" in line for line in lines)
    assert metrics["hyperparameters"]["scored"] == "scored" and metrics["data"]["scored"] > 500
    assert f"{metrics['data']['scored']} texts that other models labelled" in (run / "README.md").read_text()
