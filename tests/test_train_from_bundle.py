"""Training from an int8 bundle: its weights read back, for both tasks, and truncated copies of long reviews."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import edit_manifest, make_reviews, tiny_options, write_csv
from safetensors.numpy import load_file

from edge_imdb import FillMask, Sentiment
from edge_imdb.edge_graph.quantize import quantize_rows
from edge_imdb.errors import BaseModelError, BundleError, UsageError
from edge_imdb.runtime.bundle import open_bundle


def weights_of(bundle: Path, task: str) -> dict[str, np.ndarray]:
    from edge_imdb.edge_graph.read import weights_of

    return weights_of(open_bundle(bundle, task))


@pytest.mark.parametrize(("task", "run", "bundle"), [
    ("sentiment", "tiny_run", "tiny_bundle"), ("fill-mask", "fill_run", "fill_bundle"),
])  # fmt: skip
def test_weights_come_back_within_a_step(task: str, run: str, bundle: str, request: pytest.FixtureRequest) -> None:
    before = load_file(request.getfixturevalue(run) / "model.safetensors")
    folder = request.getfixturevalue(bundle)
    after = weights_of(folder, task)
    graph = onnx.load(folder / "onnx" / "model_edge.pb").graph
    outliers = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith(".outliers")}
    assert set(before) <= set(after)
    for name, value in before.items():
        if name.endswith("k_lin.bias"):
            assert not after[name].any()
            continue
        assert after[name].shape == value.shape
        allowed = 1e-6
        if value.ndim == 2 and "classifier" not in name and "vocab_transform" not in name:
            # Half a step of 7 bits of the quantized values; outlier channels were scaled up.
            layer = name.removeprefix("distilbert.transformer.layer.").split(".")[0]
            kind = "attended" if ".lin1" in name else "active" if ".lin2" in name else None
            divisor = outliers.get(f"{layer}.{kind}.outliers", np.ones(value.shape[1]))
            allowed = 0.501 / 63 * np.abs(value / divisor).max()
        np.testing.assert_allclose(after[name], value, atol=allowed, rtol=0)


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_that_nothing_moved_round_to_the_levels_they_came_from(bits: int) -> None:
    matrix = np.random.default_rng(1).normal(size=(48, 96)).astype(np.float32)
    levels, scale = quantize_rows(matrix, bits)
    np.testing.assert_allclose(scale[:, 0], np.abs(matrix).max(axis=1) / (2 ** (bits - 1) - 1), rtol=1e-6)
    again, same_scale = quantize_rows(levels * scale, bits)
    np.testing.assert_array_equal(again, levels)
    np.testing.assert_allclose(same_scale, scale, rtol=1e-6)


@pytest.mark.parametrize("bits", [7, 8])
def test_a_move_of_a_fraction_of_a_step_survives_quantization_again_and_again(bits: int) -> None:
    """As trainings that each start from the last one's int8: none is rounded back."""
    draw = np.random.RandomState(0)
    before = draw.normal(size=(200, 400)).astype(np.float32)
    for _ in range(6):
        levels, scale = quantize_rows(before, bits)
        before = levels * scale
        move = 0.1 * scale * np.sign(draw.normal(size=levels.shape)).astype(np.float32)
        # What sets the scale stays where it is.
        move[np.abs(before) == np.abs(before).max(axis=1, keepdims=True)] = 0
        levels, scale = quantize_rows(before + move, bits)
        moved = levels * scale - before
        # Rounded back, none of it would be left.
        assert abs((moved * move).sum() / (move * move).sum() - 1) < 0.25
        before = before + move


@pytest.mark.slow
def test_int8_learns_what_a_bundle_was_trained_on_a_little(
    tiny_bundle: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    """The labels swapped, and a training so short that most weights move by less than half a step."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run
    from edge_imdb.train.sentiment import train_sentiment

    swapped = {"neg": "pos", "pos": "neg"}
    files = [
        write_csv(tmp_path / f"{seed}.csv", [(text, swapped[label]) for text, label in make_reviews(count, seed)])
        for count, seed in ((160, 7), (40, 8))
    ]
    options = tiny_options(tiny_bundle, (files[0], files[1]), tmp_path, epochs=1.0, learning_rate=2e-4, warmup=0.0)
    run = train_sentiment(options)
    gate = ExportOptions(quantize=True, max_drop=100, max_loss_rise=10)
    after = Sentiment(export_run("sentiment", run, tmp_path / "bundle", gate), precision="int8", exact=True)
    before = Sentiment(tiny_bundle, precision="int8", exact=True)
    model = AutoModelForSequenceClassification.from_pretrained(run).eval()
    learnt, kept = [], []
    for text, _ in make_reviews(60, 9):
        with torch.no_grad():
            fp32 = model(torch.tensor([before.encode(text)])).logits[0].numpy()
        start = before.logits(text)
        learnt.append((fp32 - start)[1] - (fp32 - start)[0])
        kept.append((after.logits(text) - start)[1] - (after.logits(text) - start)[0])
    share = np.dot(learnt, kept) / np.dot(learnt, learnt)
    assert np.abs(learnt).mean() > 0.2, "fp32 has learnt something"
    assert 0.8 < share < 1.2, share


def test_outlier_channels_are_divided_out(tiny_run: Path, tmp_path: Path) -> None:
    """If the export scaled channels, the weights come back without that scale."""
    from edge_imdb.edge_graph.write import write_edge

    checkpoint = load_file(tiny_run / "model.safetensors")
    name = "distilbert.transformer.layer.0.ffn."
    checkpoint[f"{name}lin1.bias"][3] += 60
    checkpoint[f"{name}lin2.weight"][:, 3] /= 50
    from safetensors.numpy import save_file

    shutil.copy(tiny_run / "config.json", tmp_path)
    save_file(checkpoint, tmp_path / "model.safetensors")
    write_edge(tmp_path, tmp_path / "edge.onnx", "sentiment", calibration=[[2, 9, 11, 3]] * 4)
    from edge_imdb.edge_graph.read import weights_from

    constants = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "edge.onnx").graph.initializer}
    assert constants["0.active.outliers"].min() < 0.5
    back = weights_from(constants, json.loads((tmp_path / "config.json").read_text()))[f"{name}lin2.weight"]
    # A scaled channel is as exact as the others, and far more so by its own size.
    np.testing.assert_allclose(back, checkpoint[f"{name}lin2.weight"], atol=0.02 * np.abs(back).max(), rtol=0)
    np.testing.assert_allclose(back[:, 3], checkpoint[f"{name}lin2.weight"][:, 3], atol=0.002 * np.abs(back).max())


def test_a_classifier_from_a_bundle_says_what_the_bundle_says(tiny_bundle: Path) -> None:
    import torch

    from edge_imdb.train.base import load_classifier

    ours = Sentiment(tiny_bundle, exact=True, precision="int8")
    model = load_classifier(str(tiny_bundle), ours.labels, 64, 0.1, 0.0, 0.2).eval()
    for text, _ in make_reviews(20, 5):
        with torch.no_grad():
            logits = model(torch.tensor([ours.encode(text)])).logits[0].numpy()
        np.testing.assert_allclose(logits, ours.logits(text), atol=0.3)
        assert logits.argmax() == ours.logits(text).argmax()


def test_a_masked_lm_from_a_bundle_keeps_its_head(fill_bundle: Path) -> None:
    import torch

    from edge_imdb.train.base import load_masked_lm

    ours = FillMask(fill_bundle, precision="int8")
    model, new = load_masked_lm(str(fill_bundle), 64, 0.0, 0.0)
    assert not new
    ids = [2, 9, 4, 11, 3]
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0, 2].numpy()
    np.testing.assert_allclose(logits, ours._model.run(ids)[0], atol=0.5)


def test_training_goes_on_from_a_bundle(tiny_bundle: Path, reviews_csv: tuple[Path, Path], tmp_path: Path) -> None:
    """One step at a rate near 0 leaves a model as good as the bundle, so training started from its weights."""
    from edge_imdb.train.sentiment import train_sentiment

    options = tiny_options(tiny_bundle, reviews_csv, tmp_path, epochs=1.0, learning_rate=1e-9)
    run = train_sentiment(options)  # type: ignore[arg-type]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] >= accuracy_of(tiny_bundle) - 0.05


def accuracy_of(bundle: Path) -> float:
    model = Sentiment(bundle)
    rows = make_reviews(60, 1)
    return float(np.mean([model(text)[0]["label"] == label for text, label in rows]))


def test_a_bundle_without_int8_or_with_a_wrong_byte_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    from edge_imdb.train.base import load_classifier

    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    edit_manifest(copy, graphs={"fp32": "onnx/model.onnx"})
    with pytest.raises(BaseModelError, match="has no int8 graph: give the run"):
        load_classifier(str(copy), ["neg", "pos"], 64, 0.1, 0.0, 0.2)
    shutil.rmtree(copy)
    shutil.copytree(tiny_bundle, copy)
    manifest = (copy / "edge.json").read_text()
    for wrong in ("{", "[]", "{}", '{"task": 1}'):
        (copy / "edge.json").write_text(wrong)
        with pytest.raises(BundleError, match=r"edge\.json is not valid"):
            load_classifier(str(copy), ["neg", "pos"], 64, 0.1, 0.0, 0.2)
    (copy / "edge.json").write_text(manifest)
    data = copy / "onnx" / "model_quantized.onnx_data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x07")
    with pytest.raises(BundleError, match="sha256"):
        load_classifier(str(copy), ["neg", "pos"], 64, 0.1, 0.0, 0.2)


# --- truncated copies


def test_longer_reviews_are_trained_on_cut_too(tiny_bert: Path, tmp_path: Path) -> None:
    from edge_imdb.data.datasets import Reviews
    from edge_imdb.data.text import ReviewEncoder, Truncation
    from edge_imdb.train.base import load_tokenizer
    from edge_imdb.train.sentiment import encode_reviews

    encoder = ReviewEncoder(load_tokenizer(str(tiny_bert), 64).backend_tokenizer, Truncation(64, 0.25))
    rows = make_reviews(40)
    reviews = Reviews([text for text, _ in rows], [int(label == "pos") for _, label in rows], ["neg", "pos"])
    short = Truncation(28, 0.25)
    whole, both = encode_reviews(reviews, encoder), encode_reviews(reviews, encoder, short)
    longer = sum(length > 28 for length in whole["length"])
    assert 0 < longer < len(rows) and len(both) == len(whole) + longer
    at = 0
    for ids, label, length in zip(whole["input_ids"], whole["labels"], whole["length"], strict=True):
        assert (both[at]["input_ids"], both[at]["labels"]) == (ids, label)
        at += 1
        if length > 28:
            # Head and tail of the same review, with its label.
            assert both[at]["labels"] == label and both[at]["length"] == 28
            assert both[at]["input_ids"] == [*ids[:7], *ids[-21:]]
            at += 1


@pytest.mark.parametrize("length", [-1, 2, 64, 100])
def test_truncated_copies_out_of_range_are_refused(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path, length: int
) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    with pytest.raises(UsageError, match="--truncated-copies is"):
        train_sentiment(tiny_options(tiny_bert, reviews_csv, tmp_path, truncated_copies=length))  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_embedded_bundle_can_be_trained_on(tmp_path: Path, command: Callable[..., object]) -> None:
    """A person with the package, their own reviews, and no network."""
    import edge_imdb

    embedded = Path(edge_imdb.__file__).parent / "models" / "sentiment"
    train = write_csv(tmp_path / "train.csv", make_reviews(40))
    done = command(
        "train", "sentiment", "--base", embedded, "--data", train, "--epochs", 1, "--validation", 0.2,
        "--max-length", 64, "--truncated-copies", 16,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "runs" / "sentiment" / "metrics.json").read_text())
    assert metrics["validation"]["accuracy"] >= 0.75
