"""checkpoint_of, write_checkpoint: turn an int8 bundle back into a checkpoint that training can start from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

from ..errors import BaseModelError
from ..runtime.bundle import MANIFEST, Bundle, open_bundle

Floats = NDArray[np.float32]

_LAYER = "distilbert.transformer.layer"
_EMBEDDINGS = "distilbert.embeddings"


@contextmanager
def checkpoint_of(base: str) -> Iterator[str]:
    """The folder of a checkpoint to load: ``base`` itself or, if that is a bundle, a temporary one made from it.

    Raises BundleError if the bundle is damaged, BaseModelError if it has no int8 graph.
    """
    if not Path(base, MANIFEST).is_file():
        yield base
        return
    try:
        task = json.loads(Path(base, MANIFEST).read_text(encoding="utf-8"))["task"]
    except (ValueError, TypeError, KeyError, RecursionError):
        task = None  # open_bundle raises the error about the manifest.
    bundle = open_bundle(Path(base), task)
    if "int8" not in bundle.graphs:
        raise BaseModelError(f"The bundle {base} has no int8 graph: give the run that it was exported from.")
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(bundle, Path(folder))
        yield folder


def write_checkpoint(bundle: Bundle, folder: Path) -> None:
    """Write the configuration and the weights of ``bundle``, as ``weights_of`` reads them, as transformers does."""
    (folder / "config.json").write_bytes(bundle.file("config.json").read_bytes())
    save_file(weights_of(bundle), folder / "model.safetensors", metadata={"format": "pt"})


def weights_of(bundle: Bundle) -> dict[str, Floats]:
    """The weights of a DistilBERT by their names in transformers, read from the int8 graph of ``bundle``.

    These are the values that the graph computes with. Each differs from the exported weight by at most half a step of
    7 or 8 bits. The bias of the keys is set to 0, because it cancels in the softmax, and the graph has none or its own.

    Raises BaseModelError if edge-imdb didn't write the int8 graph.
    """
    graph = bundle.graph("int8")
    name = bundle.weights("int8")
    if name is not None:
        bundle.file(name)
    model = onnx.load(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    config = json.loads(bundle.file("config.json").read_text(encoding="utf-8"))
    try:
        return weights_from(constants, config)
    except KeyError as error:
        raise BaseModelError(
            f"The int8 graph of {bundle.path} wasn't written by edge-imdb, because it has no {error}: give another "
            "--base."
        ) from None


def weights_from(constants: dict[str, NDArray[Any]], config: dict[str, Any]) -> dict[str, Floats]:
    found: dict[str, Floats] = {}

    def dense(name: str, divisor: str | None = None) -> Floats:
        # The graph stores (inputs, outputs) with a scale for each output, times the factors of outlier channels.
        matrix = constants[f"{name}.int8"] * constants[f"{name}.scale"]
        if divisor in constants:
            matrix = matrix * constants[divisor][:, None]
        return np.ascontiguousarray(matrix.T, dtype=np.float32)

    for kind in ("word", "position"):
        table = f"{_EMBEDDINGS}.{kind}_embeddings"
        found[f"{table}.weight"] = (constants[f"{table}.int8"] * constants[f"{table}.scale"]).astype(np.float32)
    norms = [f"{_EMBEDDINGS}.LayerNorm"]
    last = config["n_layers"] - 1
    size = config["dim"] // config["n_heads"]
    for number in range(last + 1):
        layer = f"{_LAYER}.{number}"
        norms += [f"{layer}.sa_layer_norm", f"{layer}.output_layer_norm"]
        for part, divisor in (
            ("attention.q_lin", None),
            ("attention.k_lin", None),
            ("attention.v_lin", None),
            ("attention.out_lin", None),
            ("ffn.lin1", f"{number}.attended.outliers"),
            ("ffn.lin2", f"{number}.active.outliers"),
        ):
            found[f"{layer}.{part}.weight"] = dense(f"{layer}.{part}", divisor)
            if part != "attention.k_lin":
                found[f"{layer}.{part}.bias"] = constants[f"{layer}.{part}.bias"]
        found[f"{layer}.attention.k_lin.bias"] = np.zeros(config["dim"], dtype=np.float32)
    # In the last layer the queries include the attention's scale, and the keys' weights multiply queries.
    layer = f"{_LAYER}.{last}.attention"
    for part in ("weight", "bias"):
        found[f"{layer}.q_lin.{part}"] = found[f"{layer}.q_lin.{part}"] * np.float32(size**0.5)
    found[f"{layer}.k_lin.weight"] = np.ascontiguousarray(found[f"{layer}.k_lin.weight"].T)
    if "classifier" in constants:
        heads = ["pre_classifier", "classifier"]
    else:
        heads = ["vocab_transform"]
        norms.append("vocab_layer_norm")
        found["vocab_projector.bias"] = constants["vocab_projector.bias"]
        found["vocab_projector.weight"] = found[f"{_EMBEDDINGS}.word_embeddings.weight"].copy()
    for head in heads:
        found[f"{head}.weight"], found[f"{head}.bias"] = constants[head], constants[f"{head}.bias"]
    for norm in norms:
        found[f"{norm}.weight"], found[f"{norm}.bias"] = constants[f"{norm}.weight"], constants[f"{norm}.bias"]
    return {name: np.array(value, dtype=np.float32) for name, value in found.items()}
