"""Training that starts from an int8 bundle: its weights read back, for both tasks, and short copies of long reviews."""

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
from edge_imdb.bundle import open_bundle
from edge_imdb.errors import BaseModelError, BundleError, UsageError


def weights_of(bundle: Path, task: str) -> dict[str, np.ndarray]:
    from edge_imdb.train.bundles import weights_of

    return weights_of(open_bundle(bundle, task))


@pytest.mark.parametrize(("task", "run", "bundle"), [
    ("sentiment", "tiny_run", "tiny_bundle"), ("fill-mask", "fill_run", "fill_bundle"),
])  # fmt: skip
def test_weights_come_back_within_a_step(task: str, run: str, bundle: str, request: pytest.FixtureRequest) -> None:
    before = load_file(request.getfixturevalue(run) / "model.safetensors")
    folder = request.getfixturevalue(bundle)
    after = weights_of(folder, task)
    graph = onnx.load(folder / "onnx" / "model_edge.onnx").graph
    outliers = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith(".outliers")}
    assert set(before) <= set(after)
    for name, value in before.items():
        if name.endswith("k_lin.bias"):
            assert not after[name].any()
            continue
        assert after[name].shape == value.shape
        allowed = 1e-6
        if value.ndim == 2 and "classifier" not in name and "vocab_transform" not in name:
            # Half a step of 7 bits of what was quantized: outlier channels were widened.
            layer = name.removeprefix("distilbert.transformer.layer.").split(".")[0]
            kind = "attended" if ".lin1" in name else "active" if ".lin2" in name else None
            divisor = outliers.get(f"{layer}.{kind}.outliers", np.ones(value.shape[1]))
            allowed = 0.501 / 63 * np.abs(value / divisor).max()
        np.testing.assert_allclose(after[name], value, atol=allowed, rtol=0)


def test_outlier_channels_are_divided_out(tiny_run: Path, tmp_path: Path) -> None:
    """Where the export scaled channels, the weights come back without that scale."""
    from edge_imdb.export.edge import write_edge

    checkpoint = load_file(tiny_run / "model.safetensors")
    name = "distilbert.transformer.layer.0.ffn."
    checkpoint[f"{name}lin1.bias"][3] += 60
    checkpoint[f"{name}lin2.weight"][:, 3] /= 50
    from safetensors.numpy import save_file

    shutil.copy(tiny_run / "config.json", tmp_path)
    save_file(checkpoint, tmp_path / "model.safetensors")
    write_edge(tmp_path, tmp_path / "edge.onnx", "sentiment", calibration=[[2, 9, 11, 3]] * 4)
    from edge_imdb.train.bundles import _weights

    constants = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "edge.onnx").graph.initializer}
    assert constants["0.active.outliers"].min() < 0.5
    back = _weights(constants, json.loads((tmp_path / "config.json").read_text()))[f"{name}lin2.weight"]
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
    np.testing.assert_allclose(logits, ours._loaded.run(ids)[0], atol=0.5)


def test_training_goes_on_from_a_bundle(tiny_bundle: Path, reviews_csv: tuple[Path, Path], tmp_path: Path) -> None:
    """A step at rate nearly 0 leaves a model as good as the bundle: it did not begin anew."""
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
    data = copy / "onnx" / "model_edge.onnx_data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x07")
    with pytest.raises(BundleError, match="sha256"):
        load_classifier(str(copy), ["neg", "pos"], 64, 0.1, 0.0, 0.2)


# --- short copies


def test_longer_reviews_are_trained_on_cut_too(tiny_bert: Path, tmp_path: Path) -> None:
    from edge_imdb.reading import Reviews
    from edge_imdb.text import ReviewEncoder, Truncation
    from edge_imdb.train.base import load_tokenizer
    from edge_imdb.train.sentiment import _encode

    encoder = ReviewEncoder(load_tokenizer(str(tiny_bert), 64).backend_tokenizer, Truncation(64, 0.25))
    rows = make_reviews(40)
    reviews = Reviews([text for text, _ in rows], [int(label == "pos") for _, label in rows], ["neg", "pos"])
    short = Truncation(28, 0.25)
    whole, both = _encode(reviews, encoder), _encode(reviews, encoder, short)
    longer = sum(length > 28 for length in whole["length"])
    assert 0 < longer < len(rows) and len(both) == len(whole) + longer
    at = 0
    for ids, label, length in zip(whole["input_ids"], whole["labels"], whole["length"], strict=True):
        assert (both[at]["input_ids"], both[at]["labels"]) == (ids, label)
        at += 1
        if length > 28:
            # Head and tail of the same review, with the label of the same review.
            assert both[at]["labels"] == label and both[at]["length"] == 28
            assert both[at]["input_ids"] == [*ids[:7], *ids[-21:]]
            at += 1


@pytest.mark.parametrize("length", [-1, 2, 64, 100])
def test_short_copies_out_of_range_are_refused(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path, length: int
) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    with pytest.raises(UsageError, match="--short-copies is"):
        train_sentiment(tiny_options(tiny_bert, reviews_csv, tmp_path, short_copies=length))  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_embedded_bundle_can_be_trained_on(tmp_path: Path, command: Callable[..., object]) -> None:
    """What a person does who has the package, reviews of their own, and no network."""
    import edge_imdb

    embedded = Path(edge_imdb.__file__).parent / "models" / "sentiment"
    train = write_csv(tmp_path / "train.csv", make_reviews(40))
    done = command(
        "train", "sentiment", "--base", embedded, "--data", train, "--epochs", 1, "--validation", 0.2,
        "--max-length", 64, "--short-copies", 16,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "runs" / "sentiment" / "metrics.json").read_text())
    assert metrics["validation"]["accuracy"] >= 0.75
