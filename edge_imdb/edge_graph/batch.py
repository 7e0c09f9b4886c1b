"""with_batch: the edge graph in the shape that the Hub's libraries open: a batch of padded texts and an attention mask.

A loop over the batch around the edge graph, so each text is computed by itself and without its padding, with the same
bits and no slower than one by one: on a CPU a batch of texts gains little. The nodes and weights are the edge graph's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import GateError
from ..runtime.bundle import KEPT_SHARES

_PREFIX = "batch."
# What the edge graph's input is called within the loop.
_TEXT = _PREFIX + "text"


def write_batch(source: Path, target: Path) -> None:
    """Write the edge graph in the file ``source``, in a loop, to ``target`` in the same folder.

    The weights stay in the file where they are. Raises GateError as ``with_batch``.
    """
    onnx.save(with_batch(onnx.load(source, load_external_data=False)), target)


def with_batch(edge: onnx.ModelProto) -> onnx.ModelProto:
    """An edge graph for batches.

    Inputs ``input_ids`` and ``attention_mask``, int64, *shape:* ``(batch, length)``, of which each row has a 1 at
    least. Output ``logits``, *shape:* ``(batch, labels)`` for sentiment; ``(batch, length, vocabulary)`` for fill-mask,
    with the logits at ``[MASK]`` and 0 elsewhere, where each row has a ``[MASK]``.

    Raises GateError if ``write_edge`` did not make the graph.
    """
    if edge.graph.input[0].name != "input_ids" or {node.name for node in edge.graph.input[1:]} - {KEPT_SHARES}:
        raise GateError("This is not an edge graph: export one with --quantize.")
    columns = edge.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    fill_mask = any(tensor.name == "mask_id" for tensor in edge.graph.initializer)
    constants = [tensor for tensor in edge.graph.initializer if tensor.name != "unity"]
    inner: list[onnx.NodeProto] = []
    outer: list[onnx.NodeProto] = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), _PREFIX + name))
        return _PREFIX + name

    def node(nodes: list[onnx.NodeProto], operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    row = node(inner, "Gather", ["input_ids", _PREFIX + "number"], _PREFIX + "row", axis=0)
    mask = node(inner, "Gather", ["attention_mask", _PREFIX + "number"], _PREFIX + "mask", axis=0)
    read = node(inner, "Cast", [mask], _PREFIX + "read", to=TensorProto.BOOL)
    ids = node(inner, "Compress", [row, read], _PREFIX + "ids", axis=0)
    node(inner, "Unsqueeze", [ids, constant("axis", np.array([0]))], _TEXT)
    # The 1 that sums of attention are inverted with. As a constant, ONNX Runtime's optimizer, which the Hub's libraries
    # leave on, would make one division of the inverse and a product with it, and that rounds differently
    # (DivMulFusion). Each pass of the loop is told that it goes on, which is 1.
    unity = node(inner, "Cast", [_PREFIX + "on"], _PREFIX + "unity", to=TensorProto.FLOAT)
    renamed = {"input_ids": _TEXT, "unity": unity}
    for original in edge.graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(original)
        for index, name in enumerate(original.input):
            copied.input[index] = renamed.get(name, name)
        for index, name in enumerate(original.output):
            copied.output[index] = _PREFIX + "one" if name == "logits" else name
        inner.append(copied)
    result = _PREFIX + "one"
    if fill_mask:
        shape = node(inner, "Shape", [row], _PREFIX + "length")
        shape = node(inner, "Concat", [shape, constant("words", np.array([columns]))], _PREFIX + "shape", axis=0)
        empty = node(inner, "ConstantOfShape", [shape], _PREFIX + "empty")
        found = node(inner, "Equal", [row, "mask_id"], _PREFIX + "is_mask")
        found = node(inner, "And", [found, read], _PREFIX + "is_read_mask")
        places = node(inner, "Transpose", [node(inner, "NonZero", [found], _PREFIX + "found")], _PREFIX + "places")
        result = node(inner, "ScatterND", [empty, places, result], _PREFIX + "scattered")
    node(inner, "Identity", [_PREFIX + "on"], _PREFIX + "goes_on")
    body = helper.make_graph(
        inner,
        "text",
        [
            helper.make_tensor_value_info(_PREFIX + "number", TensorProto.INT64, []),
            helper.make_tensor_value_info(_PREFIX + "on", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info(_PREFIX + "goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info(result, TensorProto.FLOAT, [None, columns]),
        ],
    )
    size = node(outer, "Shape", ["input_ids"], _PREFIX + "shape_of_batch", start=0, end=1)
    count = node(outer, "Squeeze", [size], _PREFIX + "count")
    loop = helper.make_node("Loop", [count, ""], [_PREFIX + "all"], name=_PREFIX + "loop", body=body)
    outer.append(loop)
    if fill_mask:
        node(outer, "Identity", [_PREFIX + "all"], "logits")
    else:
        node(outer, "Squeeze", [_PREFIX + "all", constant("axis_1", np.array([1]))], "logits")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    output = ["batch", "length", columns] if fill_mask else ["batch", columns]
    model = onnx.ModelProto()
    model.CopyFrom(edge)
    graph = helper.make_graph(
        outer, "batch", inputs, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output)], constants
    )
    model.graph.CopyFrom(graph)
    return model
