"""with_subsets: the sentiment graph that also computes its logits for subsets of the tokens.

In the last layer only the row of ``[CLS]`` is computed, and its attention is a weighted mean over the tokens. So the
attention over a subset follows from the run that gives the logits: it is the weighted sum of the tokens in the subset,
divided by the sum of their weights. The rest of the layer and the classifier then run with one row per subset. Leaving
out each word in turn costs as many rows as there are words, and no run of the other layers. This is leave-one-out (Li
et al. 2016, "Understanding Neural Networks through Representation Erasure", section 3) within the last layer.

The graph has the nodes of the edge graph, under the same names, but drops no tokens. So ``logits`` are those of the
edge graph bit for bit when that keeps all tokens. The nodes after the attention are copied; the copies use the same
weights, in the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import GateError
from ..runtime.bundle import KEPT_SHARES

# The least divisor. The attention weights of a subset may all be 0.
_TINY = np.float32(1e-30)
_PREFIX = "subset."


def write_subsets(source: Path, target: Path) -> None:
    """Write ``with_subsets`` of the edge graph in the file ``source`` to ``target``, which must be in the same folder.

    The weights stay in their file. Raises GateError as ``with_subsets`` does.
    """
    onnx.save(with_subsets(onnx.load(source, load_external_data=False)), target)


def with_subsets(edge: onnx.ModelProto) -> onnx.ModelProto:
    """A sentiment edge graph with a further input and a further output.

    Input ``kept``, fp32, *shape:* ``(subsets, length)``: 1 at the tokens that ``[CLS]`` reads in the last layer, 0 at
    the others. Output ``subset_logits``, *shape:* ``(subsets, labels)``.

    Raises GateError if ``write_edge`` did not make the graph, or not for sentiment.
    """
    model = onnx.ModelProto()
    model.CopyFrom(edge)
    graph = model.graph
    _keep_all(graph)
    sought = [name.partition(".")[0] for node in graph.node for name in node.output if name.endswith(".sought")]
    parts = [list(tensor.dims) for tensor in graph.initializer if tensor.name == "heads"]
    labels = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if len(sought) != 1 or len(parts) != 1 or not any(node.name == "cls" for node in graph.node):
        raise GateError("This is not an edge graph of a sentiment model: export one with --quantize.")
    last = int(sought[0])
    heads, width = parts[0]

    def reshape(value: str, shape: list[int], output: str) -> str:
        return node("Reshape", [value, constant(f"{output}.shape", np.array(shape))], output)

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), _PREFIX + name))
        return _PREFIX + name

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(operator, inputs, [_PREFIX + output], name=_PREFIX + output, **attributes))
        return _PREFIX + output

    # The values of each token times the attention of [CLS] to it, for each head its own part.
    values = _copy(graph, f"{last}.mean", f"{last - 1}.hidden", f"{last}.value")
    values = reshape(values, [-1, heads, width // heads], "values")
    shares = node("Transpose", [f"{last}.shares"], "shares", perm=[2, 1, 0])
    weighted = reshape(node("Mul", [values, shares], "weighted"), [-1, width], "weighted.rows")
    shares = reshape(shares, [-1, heads], "shares.rows")
    # Sums over each subset, (subsets, width) and (subsets, heads).
    sums = reshape(node("MatMul", ["kept", weighted], "sums"), [-1, heads, width // heads], "sums.heads")
    totals = node("Max", [node("MatMul", ["kept", shares], "totals"), constant("tiny", _TINY)], "totals.some")
    totals = reshape(totals, [-1, heads, 1], "totals.heads")
    # A batch with a row for each subset, so that the following nodes can be copied as they are.
    means = reshape(node("Div", [sums, totals], "means"), [-1, 1, width], "means.rows")
    bias = f"distilbert.transformer.layer.{last}.attention.v_lin.bias"
    context = node("Add", [means, bias], "context")
    logits = _copy(graph, f"{last}.context", context, "logits")
    graph.node.append(helper.make_node("Identity", [logits], ["subset_logits"], name="subset_logits"))
    graph.input.append(helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["subsets", "length"]))
    graph.output.append(helper.make_tensor_value_info("subset_logits", TensorProto.FLOAT, ["subsets", labels]))
    return model


def _keep_all(graph: onnx.GraphProto) -> None:
    """If the graph drops tokens, make it keep all of them, because any token may be in a subset."""
    for tensor in graph.initializer:
        if tensor.name == KEPT_SHARES:
            tensor.CopyFrom(numpy_helper.from_array(np.ones(tensor.dims, dtype=np.float32), KEPT_SHARES))
    for extra in [node for node in graph.input if node.name == KEPT_SHARES]:
        graph.input.remove(extra)


def _copy(graph: onnx.GraphProto, start: str, replacement: str, end: str) -> str:
    """Copy the nodes between the values ``start`` and ``end``, with ``replacement`` in place of ``start``.

    Returns the name of the copy of ``end``.
    """
    names = {start: replacement}
    for node in list(graph.node):
        if node.name.startswith(_PREFIX) or not any(name in names for name in node.input):
            continue
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = f"{_PREFIX}{node.name}"
        for index, name in enumerate(node.input):
            copied.input[index] = names.get(name, name)
        for index, name in enumerate(node.output):
            names[name] = copied.output[index] = f"{_PREFIX}copy.{name}"
        graph.node.append(copied)
        if end in node.output:
            break
    return names[end]
