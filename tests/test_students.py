"""Students: they learn the whole distributions of a teacher, with labels or without, and may have fewer layers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_reviews, tiny_options, write_csv

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from edge_imdb.data.scored import ScoredCorpus, load_scored, read_corpus
from edge_imdb.errors import DataError, EdgeImdbError, UsageError
from edge_imdb.train.options import SentimentOptions, hyperparameters
from edge_imdb.train.sentiment import _targets, soft_targets, train_sentiment

NAMES = ["bad", "fair", "good"]
FINE = {"bad": 0.1, "fair": 0.2, "good": 0.7}


def write_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def teach(count: int, seed: int = 0, sure: float = 0.9) -> list[dict[str, Any]]:
    """Reviews with the scores of a teacher that is right and this sure."""
    return [
        {"text": text, "label": label, "score": sure, "scores": {"neg": 1 - sure, "pos": sure}}
        if label == "pos"
        else {"text": text, "label": label, "score": sure, "scores": {"neg": sure, "pos": 1 - sure}}
        for text, label in make_reviews(count, seed)
    ]


# --- the forms of a distribution


def test_a_distribution_is_read_from_every_form_that_a_table_can_have(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {"text": "Fine.", "label": "good", "score": 0.7}
    pairs = [{"label": label, "score": share} for label, share in FINE.items()]
    paths = [
        write_json(tmp_path / "struct.jsonl", [{**row, "scores": FINE}]),
        write_json(tmp_path / "list.jsonl", [{**row, "scores": pairs}]),
        write_json(
            tmp_path / "prefixed.jsonl", [{**row, "label": 9, "predicted_label": "good", "predicted_scores": FINE}]
        ),
    ]
    with (tmp_path / "wide.csv").open("w", newline="") as file:
        csv.writer(file).writerows([
            ["text", "score_of_a_user", "label", "score", *(f"score_{name}" for name in NAMES)],
            ["Fine.", "8", "good", "0.7", *FINE.values()],
        ])  # fmt: skip
    with (tmp_path / "json.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label", "scores"], ["Fine.", "good", json.dumps(FINE)]])
    for name, kind in (
        ("struct", pyarrow.struct([(label, pyarrow.float64()) for label in NAMES])),
        ("map", pyarrow.map_(pyarrow.string(), pyarrow.float64())),
    ):
        scores = pyarrow.array([FINE if name == "struct" else list(FINE.items())], kind)
        table = pyarrow.table({"text": ["Fine."], "label": ["good"], "score": [0.7], "scores": scores})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        paths.append(tmp_path / f"{name}.parquet")
    for path in [*paths, tmp_path / "wide.csv", tmp_path / "json.csv"]:
        found = load_scored([str(path)], NAMES, "text", set())
        np.testing.assert_allclose(found.probabilities, [list(FINE.values())], err_msg=str(path))
    # Without names they are those of the teacher, in its order.
    other = write_json(tmp_path / "order.jsonl", [{**row, "scores": dict(reversed(FINE.items()))}])
    assert load_scored([str(other)], None, "text", set()).names == ["good", "fair", "bad"]


def test_labels_that_a_distribution_leaves_out_share_the_rest(tmp_path: Path) -> None:
    path = write_json(tmp_path / "s.jsonl", [{"text": "Fine.", "label": "good", "scores": {"good": 0.7}}])
    np.testing.assert_allclose(load_scored([str(path)], NAMES, "text", set()).probabilities, [[0.15, 0.15, 0.7]])


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"bad": 0.5, "fair": 0.5, "good": 0.5}, "add up to 1.5"),
        ({"bad": 0.1, "fair": 0.1, "good": 0.1}, "add up to 0.3"),
        ({"bad": -0.1, "fair": 0.4, "good": 0.7}, "has the score -0.1"),
        ({"bad": 0.5, "awful": 0.5}, "has the label 'awful'"),
        ([0.1, 0.2, 0.7], "doesn't map labels to probabilities"),
        ("good", "doesn't map labels to probabilities"),
    ],
)
def test_what_is_no_distribution_is_refused(scores: Any, words: str, tmp_path: Path) -> None:
    path = write_json(tmp_path / "s.jsonl", [{"text": "Fine.", "label": "good", "scores": scores}])
    with pytest.raises(EdgeImdbError, match=words):
        load_scored([str(path)], NAMES, "text", set())


# --- what is learnt


def test_a_text_with_a_label_and_a_score_is_read_once_with_a_mixture_of_both(tmp_path: Path) -> None:
    rows = teach(40)
    labelled = write_csv(tmp_path / "own.csv", [(row["text"], row["label"]) for row in rows[:30]])
    scored = write_json(tmp_path / "scored.jsonl", rows[10:])
    for share in (0.0, 0.25, 1.0):
        options = SentimentOptions(data=str(labelled), scored=str(scored), hard_share=share, validation=0.2)
        data = read_corpus(hyperparameters(options))
        found = load_scored([str(scored)], data.train.names, "text", data.withheld)
        targets, others = _targets(options, data, found)
        assert targets is not None and others is not None
        assert not set(data.train.texts) & set(others[0])
        assert set(others[0]) | set(data.train.texts) | set(data.validation.texts) == {row["text"] for row in rows}
        np.testing.assert_allclose(others[1].max(axis=1), 0.9)
        both = {row["text"] for row in rows[10:]}
        for text, target, label in zip(data.train.texts, targets, data.train.labels, strict=True):
            assert target[label] == pytest.approx(share + (1 - share) * 0.9 if text in both else 1.0)


def test_the_loss_at_a_temperature_is_that_of_hinton() -> None:
    from types import SimpleNamespace

    from edge_imdb.train.sentiment import _Trainer

    draw = torch.Generator().manual_seed(0)
    logits, shares = torch.randn(5, 3, generator=draw), torch.randn(5, 3, generator=draw).softmax(1)
    hard = torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 1, 0]), 3).double()
    for temperature, share in ((2.0, 0.3), (0.5, 0.0), (4.0, 1.0)):
        trainer = SimpleNamespace(args=SimpleNamespace(label_smoothing_factor=0.0), temperature=temperature)
        targets = soft_targets(shares.double().numpy(), hard.numpy(), share, temperature)
        labels = torch.from_numpy(targets).float()
        model = lambda logits=logits: SimpleNamespace(logits=logits)  # noqa: E731
        loss = _Trainer.compute_loss(trainer, model, {"labels": labels})  # type: ignore[arg-type]
        warm = (shares.log() / temperature).softmax(1)
        soft = -(warm * (logits / temperature).log_softmax(1)).sum(1) * temperature**2
        wanted = share * -(hard * logits.log_softmax(1)).sum(1) + (1 - share) * soft
        assert loss.item() == pytest.approx(wanted.mean().item(), rel=1e-5)


def test_without_labels_validation_is_held_out_of_the_scored_texts_and_measures_agreement(
    tiny_bert: Path, tmp_path: Path
) -> None:
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run

    scored = write_json(tmp_path / "scored.jsonl", [*teach(300), {"text": "", "label": None, "scores": None}])
    lines: list[str] = []
    options = tiny_options(
        tiny_bert, (scored, scored), tmp_path / "runs", data=None, test_data=None, scored=str(scored)
    )
    run = train_sentiment(options, lines.append)  # type: ignore[arg-type]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["reference"] == "teacher" and metrics["hyperparameters"]["data"] is None
    assert metrics["data"]["train"] + metrics["data"]["validation"] == 300 and metrics["data"]["validation"] >= 60
    assert metrics["validation"]["accuracy"] > 0.9
    # The student is as sure as its teacher, not surer: the entropy of 0.9 and 0.1 is 0.325.
    assert 0.32 < metrics["validation"]["log_loss"] < 0.45 and metrics["validation"]["calibration_error"] < 0.06
    said, card = "\n".join(lines), (run / "README.md").read_text()
    assert "validation: agreement with the teacher 9" in said or "agreement with the teacher 100" in said
    assert "1 rows without a label are left out" in said and "accuracy" not in said and "hardly better" not in said
    assert "| agreement with the teacher |" in card and "texts that a teacher labelled" in card
    assert "| accuracy |" not in card

    lines.clear()
    gate = ExportOptions(quantize=True, max_drop=100, max_loss_rise=10)
    bundle = export_run("sentiment", run, tmp_path / "bundle", gate, lines.append)
    assert "agreement with the teacher" in "\n".join(lines) and "accuracy" not in "\n".join(lines)
    assert "as the teacher says among them" in (bundle / "README.md").read_text()


def test_the_split_of_scored_texts_keeps_out_what_is_in_test_or_left_out(tmp_path: Path) -> None:
    rows = teach(60)
    scored = write_json(tmp_path / "scored.jsonl", rows)
    test = write_csv(tmp_path / "test.csv", [(row["text"], row["label"]) for row in rows[:5]])
    leave = write_json(tmp_path / "leave.jsonl", rows[5:30])
    options = SentimentOptions(scored=str(scored), test_data=str(test), leave_out=str(leave))
    data = read_corpus(hyperparameters(options))
    assert isinstance(data, ScoredCorpus) and data.dropped == 5 and data.test is not None
    assert len(data.test.texts) == 5 and len(data.train.texts) + data.left_out + len(data.validation.texts) == 55
    assert 0 < data.left_out <= 25 and not {row["text"] for row in rows[:30]} & set(data.train.texts)
    assert data.train_shares.shape == (len(data.train.texts), 2)
    assert read_corpus(hyperparameters(options)).validation.texts == data.validation.texts
    one = write_json(tmp_path / "one.jsonl", [{"text": row["text"], "label": "pos", "score": 0.9} for row in rows])
    with pytest.raises(DataError, match=r"Every text of .*one\.jsonl has the label 'pos'"):
        read_corpus(hyperparameters(SentimentOptions(scored=str(one))))
    with pytest.raises(UsageError, match="--weights is for several --data"):
        read_corpus(hyperparameters(SentimentOptions(scored=str(scored), weights="1")))


# --- fewer layers


def test_a_student_starts_from_evenly_spaced_layers(tiny_run: Path, tiny_bert: Path) -> None:
    from edge_imdb.train.base import evenly_spaced, load_classifier, with_layers

    assert [evenly_spaced(12, n) for n in (1, 2, 3, 6, 12)] == [
        [0], [0, 11], [0, 6, 11], [0, 2, 4, 7, 9, 11], list(range(12))
    ]  # fmt: skip
    whole = load_classifier(str(tiny_run), ["neg", "pos"], 64, 0.0, 0.0, 0.0)
    second = with_layers(whole, [1])
    layer = "distilbert.transformer.layer."
    for name, value in second.state_dict().items():
        assert (whole.state_dict()[name.replace(f"{layer}0.", f"{layer}1.")] == value).all()
    assert second.config.n_layers == 1 and whole.config.n_layers == 2
    cut = load_classifier(str(tiny_bert), ["neg", "pos"], 64, 0.0, 0.0, 0.0, layers=1)
    assert len(cut.distilbert.transformer.layer) == 1
    with pytest.raises(UsageError, match=r"--layers is 3: .* has 2 layers, so it must be from 1 to 2"):
        load_classifier(str(tiny_run), ["neg", "pos"], 64, 0.0, 0.0, 0.0, layers=3)


def test_a_student_with_fewer_layers_is_trained_and_too_many_are_refused_before_the_data_are_read(
    tiny_bert: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "none.csv"
    with pytest.raises(UsageError, match="--layers is 9"):
        train_sentiment(tiny_options(tiny_bert, (nowhere, nowhere), tmp_path, layers=9))  # type: ignore[arg-type]
    scored = write_json(tmp_path / "scored.jsonl", teach(60))
    more = {"data": None, "test_data": None, "scored": str(scored), "layers": 1, "epochs": 1.0}
    run = train_sentiment(
        tiny_options(tiny_bert, (nowhere, nowhere), tmp_path, distillation_temperature=2.0, **more)  # type: ignore[arg-type]
    )
    assert json.loads((run / "config.json").read_text())["n_layers"] == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"layers": 0}, "--layers is 0"),
        ({"distillation_temperature": 2.0}, "--distillation-temperature is for --scored"),
        ({"distillation_temperature": 0.0, "scored": "s"}, "--distillation-temperature is 0.0: it must be over 0"),
        ({"hard_share": 1.5}, "--hard-share is 1.5: it must be from 0 to 1"),
        ({"architecture": "best"}, "--architecture is 'best': use auto, distilbert, keep"),
    ],
)
def test_options_out_of_range_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SentimentOptions(**more).check()
