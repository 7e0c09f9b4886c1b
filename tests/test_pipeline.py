"""Train, export, predict and optimum on a tiny real checkpoint."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import make_reviews

from edge_imdb import Sentiment


def test_run_folder_is_ready_for_the_hub(tiny_run: Path) -> None:
    names = {path.name for path in tiny_run.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.json", "log.jsonl", "curves.png"} <= names
    card = (tiny_run / "README.md").read_text()
    assert card.startswith("---\n") and "pipeline_tag: text-classification" in card
    assert str(tiny_run.parent) not in card
    assert not tiny_run.with_name("sentiment.partial").exists()


def test_training_learns_and_reports_both_splits(tiny_run: Path) -> None:
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert metrics["validation"]["accuracy"] > 0.9
    assert metrics["test"]["accuracy"] > 0.9
    assert metrics["cost"]["energy_kwh"] > 0
    records = [json.loads(line) for line in (tiny_run / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "eval_accuracy" in r] == sorted(
        r["step"] for r in records if "eval_loss" in r
    )
    assert sum("eval_accuracy" in record for record in records) == 12


def test_bundle_has_the_hubs_layout(tiny_bundle: Path) -> None:
    names = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    expected = {"config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"}
    assert expected | {"onnx/model_edge.pb", "edge.json", "README.md"} <= names
    manifest = json.loads((tiny_bundle / "edge.json").read_text())
    assert set(manifest["files"]) == names - {"edge.json"}
    assert manifest["quantization"]["reduce_range"] is True


def test_optimum_loads_the_fp32_graph_and_agrees(tiny_bundle: Path) -> None:
    import torch
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    ours = Sentiment(tiny_bundle, precision="fp32")
    theirs = ORTModelForSequenceClassification.from_pretrained(tiny_bundle, subfolder="onnx", file_name="model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(tiny_bundle)
    for text, _ in make_reviews(20, seed=5):
        batch = tokenizer(text, return_tensors="pt")
        assert batch["input_ids"][0].tolist() == ours.encode(text)
        with torch.no_grad():
            np.testing.assert_allclose(theirs(**batch).logits[0].numpy(), ours.logits(text), atol=1e-5)


def test_optimum_takes_padded_batches_of_any_size(tiny_bundle: Path) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    ours = Sentiment(tiny_bundle, precision="fp32")
    theirs = ORTModelForSequenceClassification.from_pretrained(tiny_bundle, subfolder="onnx", file_name="model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(tiny_bundle)
    texts = [text for text, _ in make_reviews(7, seed=6)]
    logits = theirs(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(logits, [ours.logits(text) for text in texts], atol=1e-5)


def test_results_are_those_of_a_transformers_pipeline(tiny_bundle: Path, tiny_run: Path) -> None:
    from transformers import pipeline

    theirs = pipeline("text-classification", model=str(tiny_run), device="cpu")
    ours = Sentiment(tiny_bundle, precision="fp32")
    texts = [text for text, _ in make_reviews(4, seed=7)]
    for arguments in ({}, {"top_k": 1}, {"top_k": None}, {"top_k": 2}):
        for inputs in (texts[0], texts, texts[:1], {"text": texts[0]}, [{"text": text} for text in texts]):
            expected, got = theirs(inputs, **arguments), ours(inputs, **arguments)
            assert _labels(got) == _labels(expected), (arguments, inputs)


def _labels(result: object) -> object:
    """The shape and the labels of a result; calibration changes the scores alone."""
    if isinstance(result, list):
        return [_labels(entry) for entry in result]
    assert isinstance(result, dict)
    return (sorted(result), result["label"])


def test_scores_are_calibrated_by_the_bundles_temperature(tiny_bundle: Path) -> None:
    model = Sentiment(tiny_bundle)
    logits = model.logits("the film was great").astype(float) / model.bundle.temperature
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(model.probabilities("the film was great"), expected, atol=1e-12)


def test_a_score_does_not_depend_on_the_neighbours(tiny_bundle: Path) -> None:
    model = Sentiment(tiny_bundle)
    texts = [text for text, _ in make_reviews(32, seed=8)]
    assert model(texts) == [model(text)[0] for text in texts]


def test_gate_refuses_and_leaves_nothing(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_imdb.edge_graph import builder
    from edge_imdb.errors import GateError
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run

    def crude(matrix: np.ndarray, bits: int = 8) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(matrix.shape, np.int8), np.ones((len(matrix), 1), np.float32)

    monkeypatch.setattr(builder, "quantize_rows", crude)
    with pytest.raises(GateError, match=r"int8 loses \d+\.\d+ points"):
        export_run("sentiment", tiny_run, tmp_path / "models" / "sentiment", ExportOptions(quantize=True))
    assert list((tmp_path / "models").iterdir()) == []


def test_fp32_gate_refuses_a_graph_of_other_weights(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_imdb.errors import GateError
    from edge_imdb.export import pipeline
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run

    monkeypatch.setattr(pipeline, "TOLERANCE", 1e-12)
    with pytest.raises(GateError, match="fp32 graph's logits differ"):
        export_run("sentiment", tiny_run, tmp_path / "models" / "sentiment", ExportOptions(quantize=True))
    assert list((tmp_path / "models").iterdir()) == []


def test_no_session_is_open_when_the_folder_is_renamed(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to rename a folder while a session maps a file in it."""
    from edge_imdb.export import pipeline
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.runtime import session

    seen, original = [], pipeline.staging

    @contextlib.contextmanager
    def staging(target: Path) -> Iterator[Path]:
        with original(target) as folder:
            yield folder
            for executor in list(session._executors):
                seen.extend(graph for graph in executor._sessions if graph.bundle.path == folder)

    opened = []
    signature = session.OnnxRuntime.signature
    monkeypatch.setattr(
        session.OnnxRuntime, "signature", lambda self, graph: opened.append(graph) or signature(self, graph)
    )
    monkeypatch.setattr(pipeline, "staging", staging)
    options = ExportOptions(quantize=True, no_fp32=True, max_drop=100, max_loss_rise=100)
    pipeline.export_run("sentiment", tiny_run, tmp_path / "bundle", options)
    assert len(opened) > 1 and not seen
