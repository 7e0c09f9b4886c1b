"""with_subsets: the sentiment graph that also tells what its logits would be, had ``[CLS]`` read fewer tokens.

In the last layer only the row of ``[CLS]`` is computed, and its attention is a weighted mean over the tokens. So what
it would be over some of them alone follows from the very run that gives the logits: for each subset the weighted sum of
the tokens in it, divided by the sum of their weights, then the rest of the layer and the classifier, with one row per
subset. Leaving out each word in turn costs as many rows as there are words, and no run of the other layers. It is
leave-one-out (Li et al. 2016, "Understanding Neural Networks through Representation Erasure", section 3) within the
last layer.

The nodes are those of the edge graph, under their names, so ``logits`` are the same bits as the edge graph's when it
keeps all tokens: here none is dropped. What follows the attention is copied, with the same weights, in the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import GateError
from ..runtime.bundle import KEPT_SHARES

# A sum of attention weights is divided by, and may be 0 where a subset leaves out all that count.
_TINY = np.float32(1e-30)
_PREFIX = "subset."


def write_subsets(source: Path, target: Path) -> None:
    """Write the sentiment edge graph in the file ``source``, with subsets, to ``target`` in the same folder.

    The weights stay in the file where they are. Raises GateError as ``with_subsets``.
    """
    onnx.save(with_subsets(onnx.load(source, load_external_data=False)), target)


def with_subsets(edge: onnx.ModelProto) -> onnx.ModelProto:
    """A sentiment edge graph with one input and one output more.

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

    # Each token's values, times how much [CLS] attends to it, for each head its part of them.
    values = _copy(graph, f"{last}.mean", f"{last - 1}.hidden", f"{last}.value")
    values = reshape(values, [-1, heads, width // heads], "values")
    shares = node("Transpose", [f"{last}.shares"], "shares", perm=[2, 1, 0])
    weighted = reshape(node("Mul", [values, shares], "weighted"), [-1, width], "weighted.rows")
    shares = reshape(shares, [-1, heads], "shares.rows")
    # Their sums over each subset, (subsets, width) and (subsets, heads).
    sums = reshape(node("MatMul", ["kept", weighted], "sums"), [-1, heads, width // heads], "sums.heads")
    totals = node("Max", [node("MatMul", ["kept", shares], "totals"), constant("tiny", _TINY)], "totals.some")
    totals = reshape(totals, [-1, heads, 1], "totals.heads")
    # A batch of subsets with a row each, so that what follows is the graph's own.
    means = reshape(node("Div", [sums, totals], "means"), [-1, 1, width], "means.rows")
    bias = f"distilbert.transformer.layer.{last}.attention.v_lin.bias"
    context = node("Add", [means, bias], "context")
    logits = _copy(graph, f"{last}.context", context, "logits")
    graph.node.append(helper.make_node("Identity", [logits], ["subset_logits"], name="subset_logits"))
    graph.input.append(helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["subsets", "length"]))
    graph.output.append(helper.make_tensor_value_info("subset_logits", TensorProto.FLOAT, ["subsets", labels]))
    return model


def _keep_all(graph: onnx.GraphProto) -> None:
    """Where the graph drops tokens, let it keep them all, for any of them may be asked about."""
    for tensor in graph.initializer:
        if tensor.name == KEPT_SHARES:
            tensor.CopyFrom(numpy_helper.from_array(np.ones(tensor.dims, dtype=np.float32), KEPT_SHARES))
    for extra in [node for node in graph.input if node.name == KEPT_SHARES]:
        graph.input.remove(extra)


def _copy(graph: onnx.GraphProto, start: str, replacement: str, end: str) -> str:
    """Copy the nodes that lead from the value ``start`` to ``end``, and give them ``replacement`` to start from.

    Returns what stands for ``end`` in the copy.
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
