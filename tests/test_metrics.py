from __future__ import annotations

import numpy as np
import pytest

from edge_imdb.data import metrics


def draw(rows: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, classes)) * 3, generator.integers(classes, size=rows)


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (50, 2), (500, 5)])
def test_figures_equal_scikit_learns(rows: int, classes: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    logits, labels = draw(rows, classes, rows)
    probabilities = metrics.softmax(logits)
    predicted = probabilities.argmax(axis=1)
    figures = metrics.classification_metrics(probabilities, labels)
    assert figures["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, predicted))
    assert figures["f1"] == pytest.approx(sklearn.f1_score(labels, predicted, average="macro"))
    expected = sklearn.log_loss(labels, probabilities, labels=range(classes))
    assert figures["log_loss"] == pytest.approx(expected)


def test_softmax_is_stable_and_sums_to_one() -> None:
    probabilities = metrics.softmax(np.array([[1e4, 0.0], [-1e4, 1e4]], dtype=np.float32))
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_calibration_error_of_a_known_case() -> None:
    # Ten rows at 0.8, of which six are right: the gap is 0.2; ten at 0.6, all right: 0.4.
    probabilities = np.array([[0.8, 0.2]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 10)
    assert metrics.calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.2 + 0.5 * 0.4)


def test_calibration_error_counts_a_score_of_one() -> None:
    assert metrics.calibration_error(np.array([[1.0, 0.0]]), np.array([1])) == 1.0


def test_fitted_temperature_is_the_one_the_logits_were_scaled_by() -> None:
    generator = np.random.default_rng(0)
    true = generator.normal(size=(20_000, 3)) * 2
    labels = np.array([generator.choice(3, p=row) for row in metrics.softmax(true)])
    assert metrics.fit_temperature(true * 2.5, labels) == pytest.approx(2.5, rel=0.05)


def test_fitted_temperature_stays_in_bounds_where_every_row_is_right() -> None:
    logits = np.array([[5.0, -5.0], [-5.0, 5.0]] * 10)
    assert 0.05 <= metrics.fit_temperature(logits, np.array([0, 1] * 10)) <= 20


def test_coverage_curve_tells_how_many_reach_a_score_and_how_many_of_them_are_right() -> None:
    probabilities = np.array([[0.97, 0.03], [0.08, 0.92], [0.75, 0.25], [0.45, 0.55]])
    curve = {row["min_score"]: row for row in metrics.coverage_curve(probabilities, np.array([0, 0, 0, 1]))}
    assert curve[0.5] == {"min_score": 0.5, "coverage": 1.0, "accuracy": 0.75}
    assert curve[0.6]["coverage"] == 0.75 and curve[0.6]["accuracy"] == pytest.approx(2 / 3)
    assert curve[0.95] == {"min_score": 0.95, "coverage": 0.25, "accuracy": 1.0}
    assert curve[0.99] == {"min_score": 0.99, "coverage": 0.0, "accuracy": None}
