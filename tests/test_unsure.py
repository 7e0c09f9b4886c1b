"""min_score: what is answered when no label is likely enough."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_imdb import Sentiment
from edge_imdb.cli.main import cli
from edge_imdb.errors import UsageError

SURE, HALF = "great film, wonderful and moving", "the film"


@pytest.fixture(scope="module")
def between() -> float:
    """A least score that one of two texts reaches."""
    low, high = sorted(entry["score"] for entry in Sentiment()([SURE, HALF]))
    assert high - low > 0.01
    return (low + high) / 2


def test_a_lower_score_gives_unsure_with_that_score(between: float) -> None:
    usual = Sentiment()([SURE, HALF])
    model = Sentiment(min_score=between)
    found = model([SURE, HALF])
    assert [entry["score"] for entry in found] == [entry["score"] for entry in usual]
    assert sorted(entry["label"] for entry in found) == sorted(
        ["unsure", max(usual, key=lambda e: e["score"])["label"]]
    )
    assert list(model.stream([SURE, HALF])) == found and [model({"text": t}) for t in (SURE, HALF)] == found
    assert [model.explain(text)["label"] for text in (SURE, HALF)] == [entry["label"] for entry in found]


def test_every_label_and_every_probability_is_told_all_the_same() -> None:
    model = Sentiment(min_score=1.0)
    assert model(HALF, top_k=None) == Sentiment()(HALF, top_k=None)
    assert (model.probabilities(HALF) == Sentiment().probabilities(HALF)).all()
    assert model([" "], errors="null") == [{"label": None, "score": None}]


def test_it_goes_with_a_pickled_model() -> None:
    assert pickle.loads(pickle.dumps(Sentiment(min_score=1.0)))(HALF)[0]["label"] == "unsure"


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "0.8", True, None])
def test_a_min_score_that_is_no_probability_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"min_score is .*: it must be a number from 0 to 1"):
        Sentiment(min_score=value)  # type: ignore[arg-type]


def test_predict_prints_unsure() -> None:
    done = CliRunner().invoke(cli, ["predict", "--min-score", "1", SURE])
    assert done.exit_code == 0 and done.output.startswith("unsure\t0.")
    both = CliRunner().invoke(cli, ["predict", "--min-score", "0.8", "--top-k", "2", SURE])
    assert both.exit_code != 0 and "give only one of them" in str(both.exception)


def test_score_writes_unsure_and_counts_it(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / "reviews.jsonl").write_text(json.dumps({"text": SURE}) + "\n")
    done = CliRunner().invoke(
        cli,
        ["score", str(tmp_path / "reviews.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--min-score", "1"],
    )
    assert done.exit_code == 0 and "1 unsure" in done.output
    assert json.loads((tmp_path / "out.jsonl").read_text())["label"] == "unsure"
