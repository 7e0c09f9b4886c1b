"""calibrate: find outlier channels and the range of attention scores on calibration texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from .quantize import OUTLIER, REACH, Floats

_WITH_OUTLIERS = ("attended", "active")


def calibrate(
    model: onnx.ModelProto, texts: list[Sequence[int]], config: dict[str, Any]
) -> tuple[dict[str, Floats], dict[int, Floats]]:
    """Run the fp32 graph on ``texts`` and return two dictionaries.

    The first has, for each value with outlier channels, the divisors of its channels. The second has, for each layer
    whose attention need not subtract its largest scores, the bias of its keys.
    """
    layers = range(config["n_layers"] - 1)
    made = [name for node in model.graph.node for name in node.output]
    wide = [name for name in made if name.partition(".")[2] in _WITH_OUTLIERS and name[0].isdigit()]
    names = wide + [f"{layer}.{part}" for layer in layers for part in ("q.heads", "largest")]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    reach: dict[str, Floats] = {}
    rows: dict[int, list[tuple[Floats, Floats]]] = {layer: [] for layer in layers}
    for ids in texts:
        values = dict(zip(names, session.run(names, {"input_ids": np.array([ids])}), strict=True))
        for name in wide:
            largest = np.abs(values[name]).max(axis=(0, 1))
            reach[name] = np.maximum(reach.get(name, largest), largest)
        for layer in layers:
            rows[layer].append((values[f"{layer}.q.heads"].swapaxes(0, 1), values[f"{layer}.largest"][..., 0]))
    scales = {name: np.maximum(1, largest / (OUTLIER * np.median(largest))) for name, largest in reach.items()}
    outliers = {name: scale.astype(np.float32) for name, scale in scales.items() if scale.max() > 1}
    found = {layer: key_bias(rows[layer]) for layer in layers}
    return outliers, {layer: bias for layer, bias in found.items() if bias is not None}


def key_bias(rows: list[tuple[Floats, Floats]]) -> Floats | None:
    """The bias that brings the largest score of each row nearest to 0; None if a score stays further away than REACH.

    ``rows`` has, for each text, the queries, *shape:* ``(heads, length, size)``, and their largest scores,
    ``(heads, length)``, in nats. Returns *shape:* ``(heads * size,)``.
    """
    queries, largest = (np.concatenate(part, axis=1).astype(np.float64) for part in zip(*rows, strict=True))
    biases = []
    for query, score in zip(queries * queries.shape[-1] ** -0.5, largest, strict=True):
        bias = np.linalg.lstsq(query, -score, rcond=None)[0]
        if np.abs(query @ bias + score).max() > REACH:
            return None
        biases.append(bias)
    return np.concatenate(biases).astype(np.float32)
