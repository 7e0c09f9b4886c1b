"""Another executor than ONNX Runtime's runs a bundle through the same pipelines."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import make_reviews
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edge_imdb import FillMask, Sentiment
from edge_imdb.errors import BundleError, UsageError
from edge_imdb.runtime.executor import Executor, Feed, Signature
from edge_imdb.runtime.source import Graph

TEXTS = [text for text, _ in make_reviews(6, seed=11)]
MASKED = ["the film was [MASK] .", "a [MASK] story with a [MASK] ending ."]


class Reference(Executor):
    """Runs the fp32 graph in ONNX's own reference implementation, which is written in NumPy."""

    provider = "reference"

    def __init__(self) -> None:
        self.runs = 0
        self.closed = False
        self._models: dict[str, ReferenceEvaluator] = {}

    def signature(self, graph: Graph) -> Signature:
        if graph.name not in self._models:
            with graph.opening() as (path, _):
                self._models[graph.name] = ReferenceEvaluator(onnx.load(path))
        model = self._models[graph.name].proto_.graph
        inputs, outputs = (
            {value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim] for value in values}
            for values in (model.input, model.output)
        )
        return Signature(inputs, outputs)

    def run(self, graph: Graph, feed: Feed) -> dict[str, NDArray[np.float32]]:
        self.runs += 1
        model = self._models[graph.name]
        return dict(zip(model.output_names, model.run(None, dict(feed)), strict=True))

    def close(self) -> None:
        self.closed = True


def test_sentiment_runs_on_another_executor(tiny_bundle: Path) -> None:
    executor = Reference()
    model, usual = Sentiment(tiny_bundle, executor=executor), Sentiment(tiny_bundle, precision="fp32")
    np.testing.assert_allclose(model.probabilities(TEXTS), usual.probabilities(TEXTS), atol=1e-5)
    assert executor.runs >= len(TEXTS)
    assert (model.provider, model.precision, model.threads) == ("reference", "fp32", None)
    assert repr(model).endswith("fp32 on reference; neg, pos>")


def test_fill_mask_runs_on_another_executor(fill_bundle: Path) -> None:
    model, usual = FillMask(fill_bundle, executor=Reference()), FillMask(fill_bundle, precision="fp32")
    for text in MASKED:
        ids = model.tokenizer.encode(text).ids
        np.testing.assert_allclose(model.logits(ids), usual.logits(ids), atol=1e-4)
    assert model(MASKED[0])[0]["token_str"] == usual(MASKED[0])[0]["token_str"]


def test_a_pipeline_closes_its_executor(tiny_bundle: Path) -> None:
    executor = Reference()
    with Sentiment(tiny_bundle, executor=executor) as model:
        assert not executor.closed
    assert executor.closed
    with pytest.raises(UsageError, match="was closed"):
        model("a film")


def test_files_are_checked_whatever_executes_them(tiny_bundle: Path, altered: Path) -> None:
    with pytest.raises(BundleError, match="doesn't match its sha256"):
        Sentiment(altered, executor=Reference())


@pytest.fixture
def altered(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of a bundle whose fp32 graph differs in one bit."""
    import shutil

    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "altered"))
    graph = folder / "onnx" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    return folder


def test_what_a_bundle_cant_do_is_said_whatever_executes_it(tiny_bundle: Path) -> None:
    model = Sentiment(tiny_bundle, executor=Reference())
    with pytest.raises(UsageError, match="leave them out"):
        Sentiment(tiny_bundle, executor=Reference(), threads=1)
    with pytest.raises(UsageError, match="leave them out"):
        Sentiment(tiny_bundle, executor=Reference(), provider="cpu")
    assert model("a film")


def test_the_executor_is_pickled_with_its_pipeline(tiny_bundle: Path) -> None:
    model = Sentiment(tiny_bundle, executor=Constant(0.25))
    copy = pickle.loads(pickle.dumps(model))
    assert copy.logits("a film").tolist() == model.logits("a film").tolist() == [0.25, -0.25]


class Constant(Executor):
    """The same logits for every text."""

    def __init__(self, value: float) -> None:
        self.value = value

    def signature(self, graph: Graph) -> Signature:
        return Signature({"input_ids": [1, "length"]}, {"logits": [1, 2]})

    def run(self, graph: Graph, feed: Feed) -> dict[str, NDArray[np.float32]]:
        return {"logits": np.array([[self.value, -self.value]], dtype=np.float32)}
