"""Token dropping: what is trained is what the edge graph computes, and --exact undoes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import edit_manifest, make_reviews, tiny_options, write_csv

from edge_imdb import Sentiment
from edge_imdb.edge_graph.schedule import AT_LEAST, Schedule
from edge_imdb.edge_graph.write import write_edge
from edge_imdb.errors import BundleError, UsageError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SHORT = "a great film"
# A text of AT_LEAST tokens has none to spare, so these have more.
LONG = " ".join(text for text, _ in make_reviews(6))
HALF = Schedule((0.5,))


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def texts(lengths: tuple[int, ...] = (3, 20, AT_LEAST, AT_LEAST + 1, 94, 128)) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(5, 60, size=(1, length)) for length in lengths]


def model_of(run: Path, schedule: Schedule) -> object:
    from transformers import DistilBertForSequenceClassification

    from edge_imdb.train.dropping import TokenDroppingClassifier

    return TokenDroppingClassifier.of(DistilBertForSequenceClassification.from_pretrained(run), schedule).eval()


@pytest.fixture(scope="module")
def dropping_run(long_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was trained to keep half of the tokens of reviews, most of which have over AT_LEAST."""
    from edge_imdb.train.sentiment import train_sentiment

    folder = tmp_path_factory.mktemp("reviews")
    # Every other review has the same label.
    rows = [(make_reviews(964), "train.csv"), (make_reviews(120, 1), "test.csv")]
    longer = [
        write_csv(folder / name, [(f"{a} {b}", label) for (a, label), (b, _) in zip(found, found[2:], strict=False)])
        for found, name in rows
    ]
    options = tiny_options(
        long_bert, (longer[0], longer[1]), tmp_path_factory.mktemp("runs"), max_length=128, token_dropping="0.5"
    )
    return train_sentiment(options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def dropping_bundle(dropping_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run

    options = ExportOptions(quantize=True, max_drop=10, max_loss_rise=0.3)
    return export_run("sentiment", dropping_run, tmp_path_factory.mktemp("models") / "sentiment", options)


# --- the classifier that is trained


def test_a_schedule_that_keeps_all_computes_what_transformers_does(dropping_run: Path) -> None:
    from transformers import DistilBertForSequenceClassification

    standard = DistilBertForSequenceClassification.from_pretrained(dropping_run).eval()
    keeping = model_of(dropping_run, Schedule((1.0,)))
    for ids in map(torch.from_numpy, texts()):
        with torch.no_grad():
            torch.testing.assert_close(keeping(ids).logits, standard(ids).logits, atol=1e-5, rtol=0)


def test_a_text_drops_the_same_tokens_in_a_padded_batch_as_alone(dropping_run: Path) -> None:
    model = model_of(dropping_run, HALF)
    rows = [ids[0] for ids in texts()]
    batch, mask = np.zeros((2, len(rows), max(map(len, rows))), dtype=np.int64)
    for number, row in enumerate(rows):
        batch[number, : len(row)], mask[number, : len(row)] = row, 1
    with torch.no_grad():
        together = model(torch.from_numpy(batch), torch.from_numpy(mask)).logits
        alone = torch.cat([model(torch.from_numpy(row[None])).logits for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_its_weights_are_saved_as_transformers_own_model(dropping_run: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(dropping_run)
    assert type(model).__name__ == "DistilBertForSequenceClassification"
    assert model.config.architectures == ["DistilBertForSequenceClassification"]
    assert json.loads((dropping_run / "metrics.json").read_text())["token_dropping"] == [0.5]


# --- the edge graph


def test_the_edge_graph_drops_the_tokens_that_were_dropped_in_training(dropping_run: Path, tmp_path: Path) -> None:
    write_edge(dropping_run, tmp_path / "edge.onnx", "sentiment", bits=None, schedule=HALF)
    edge, model, whole = (
        open_graph(tmp_path / "edge.onnx"),
        model_of(dropping_run, HALF),
        model_of(dropping_run, Schedule((1.0,))),
    )
    differ = []
    for ids in texts():
        with torch.no_grad():
            expected, all_kept = (m(torch.from_numpy(ids)).logits.numpy() for m in (model, whole))
        np.testing.assert_allclose(edge.run(None, {"input_ids": ids})[0], expected, atol=2e-5)
        differ.append(bool(np.abs(expected - all_kept).max() > 1e-4))
    assert differ == [ids.size > AT_LEAST for ids in texts()]


@pytest.mark.parametrize("calibration", [[], [[2, *range(5, 45), 3], [2, 9, 3]] * 8])
def test_ones_for_its_shares_give_the_bits_of_a_graph_that_drops_nothing(
    dropping_run: Path, tmp_path: Path, calibration: list[list[int]]
) -> None:
    write_edge(dropping_run, tmp_path / "half.onnx", "sentiment", calibration=calibration, schedule=HALF)
    write_edge(dropping_run, tmp_path / "all.onnx", "sentiment", calibration=calibration)
    half, whole = open_graph(tmp_path / "half.onnx"), open_graph(tmp_path / "all.onnx")
    for ids in texts():
        kept = half.run(None, {"input_ids": ids, "kept_shares": np.ones(1, dtype=np.float32)})[0]
        np.testing.assert_array_equal(kept, whole.run(None, {"input_ids": ids})[0])


def test_the_mask_of_a_fill_mask_model_is_never_dropped(fill_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is for classifiers, and the task is fill-mask"):
        write_edge(fill_run, tmp_path / "edge.onnx", "fill-mask", mask_id=4, schedule=HALF)


# --- the bundle


def test_export_measures_the_graph_with_and_without_dropping(dropping_bundle: Path) -> None:
    manifest = json.loads((dropping_bundle / "edge.json").read_text())
    assert manifest["token_dropping"] == {"kept": [0.5]}
    figures = manifest["metrics"]
    assert figures["validation_int8"] != figures["validation_int8_token_dropping"]
    card = (dropping_bundle / "README.md").read_text()
    assert "it keeps 50% of them" in card
    assert f"| int8, token dropping | | | {figures['validation_int8_token_dropping']['accuracy']:.4f} |" in card


def test_export_takes_another_schedule_and_fits_the_temperature_to_it(
    dropping_run: Path, dropping_bundle: Path, tmp_path: Path
) -> None:
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run

    options = ExportOptions(quantize=True, max_drop=10, max_loss_rise=0.3, token_dropping="0.9")
    bundle = export_run("sentiment", dropping_run, tmp_path / "sentiment", options)
    manifest, other = (json.loads((folder / "edge.json").read_text()) for folder in (bundle, dropping_bundle))
    assert manifest["token_dropping"] == {"kept": [0.9]}
    assert manifest["calibration"]["temperature"] != other["calibration"]["temperature"]
    card = (bundle / "README.md").read_text()
    assert "trained with another schedule of token dropping" in card and "it keeps 90% of them" in card
    # The weights are the same.
    exact = [Sentiment(folder, exact=True).logits(LONG) for folder in (bundle, dropping_bundle)]
    np.testing.assert_array_equal(*exact)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_dropping": "0.9,0.5"}, "a model of 2 layers needs 1"),
        ({"token_dropping": "half"}, "is not a list of shares"),
        ({"token_dropping": "0.5", "quantize": False}, "is for the int8 graph: give --quantize too"),
    ],
    ids=str,
)
def test_a_wrong_schedule_for_export_is_refused(
    dropping_run: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run

    with pytest.raises(UsageError, match=message):
        export_run("sentiment", dropping_run, tmp_path / "x", ExportOptions(**{"quantize": True, **options}))  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_a_schedule_for_the_export_of_fill_mask_is_refused(fill_run: Path, tmp_path: Path) -> None:
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run

    with pytest.raises(UsageError, match="--token-dropping is for sentiment, and this is fill-mask"):
        export_run("fill-mask", fill_run, tmp_path / "x", ExportOptions(quantize=True, token_dropping="0.5"))


def test_exact_keeps_all_tokens_and_a_short_text_loses_none(dropping_bundle: Path) -> None:
    usual, exact = Sentiment(dropping_bundle), Sentiment(dropping_bundle, exact=True)
    assert usual.bundle.token_dropping == (0.5,)
    np.testing.assert_array_equal(usual.probabilities(SHORT), exact.probabilities(SHORT))
    assert np.abs(usual.logits(LONG) - exact.logits(LONG)).max() > 1e-4


def test_an_explanation_asks_about_every_token_and_so_has_the_score_of_exact(dropping_bundle: Path) -> None:
    found = Sentiment(dropping_bundle, exact=True).explain(LONG)
    assert found["score"] == Sentiment(dropping_bundle, exact=True)(LONG)[0]["score"]
    weighed = [word for word in found["words"] if word["weight"]]
    assert len(weighed) > 40


def test_batches_give_the_bits_of_single_texts(dropping_bundle: Path) -> None:
    graph, model = open_graph(dropping_bundle / "onnx" / "model_quantized.onnx"), Sentiment(dropping_bundle)
    ids = np.array([model.encode(LONG)])
    logits = graph.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
    np.testing.assert_array_equal(logits, model.logits(LONG))


def test_a_manifest_that_speaks_of_dropping_where_the_graph_has_none_is_refused(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    edit_manifest(folder, token_dropping={"kept": [0.5]})
    with pytest.raises(BundleError, match="doesn't drop tokens as its manifest says"):
        Sentiment(folder, exact=True)


@pytest.mark.parametrize("kept", [[0], [1.5], ["half"], [True], "0.5", None])
def test_a_wrong_schedule_in_a_manifest_is_refused(tiny_bundle: Path, tmp_path: Path, kept: object) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    edit_manifest(folder, token_dropping={"kept": kept})
    with pytest.raises(BundleError, match=r"edge\.json is not valid"):
        Sentiment(folder)


# --- schedules as people give them


def test_a_schedule_is_written_as_it_is_read() -> None:
    assert str(Schedule.parse("0.75,0.5,0.3")) == "0.75,0.5,0.3"


@pytest.mark.parametrize(
    ("text", "message"),
    [("half", "is not a list of shares"), ("0.5,0.6", "at most the one before"), ("0", "over 0"), ("1.2", "at most 1")],
)
def test_a_schedule_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Schedule.parse(text)


def test_a_schedule_for_another_number_of_layers_is_refused_before_training(tiny_bert: Path, tmp_path: Path) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    # Before the data as well, which aren't there.
    nowhere = (tmp_path / "none.csv", tmp_path / "none.csv")
    for text, message in (("0.5,0.3", "a model of 2 layers needs 1"), ("half", "is not a list of shares")):
        options = tiny_options(tiny_bert, nowhere, tmp_path / "runs", token_dropping=text)
        with pytest.raises(UsageError, match=message):
            train_sentiment(options)  # type: ignore[arg-type]
