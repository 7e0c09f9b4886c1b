"""with_batch: the graph for the Hub's libraries, which takes a batch of padded texts and an attention mask.

It is a loop over the batch around the edge graph. Each text is computed by itself and without its padding, so it gets
the bits that it gets alone. That is not slower, because a CPU gains little from a batch. The nodes and the weights are
those of the edge graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import GateError
from ..runtime.bundle import KEPT_SHARES

_PREFIX = "batch."
# The condition of the loop over the texts, which is always true.
_ON = _PREFIX + "on"
# The names within the loop of the edge graph's input and output, and of a constant that is replaced.
_TEXT, _LOGITS = _PREFIX + "text", _PREFIX + "logits"
_AXES = ("batch_axis", "length_axis")
_RENAMED = {"input_ids": _TEXT, "logits": _LOGITS, "unity": _PREFIX + "unity"}


def write_batch(source: Path, target: Path) -> None:
    """Write ``with_batch`` of the edge graph in the file ``source`` to ``target``, which must be in the same folder.

    The weights stay in their file. Raises GateError as ``with_batch`` does.
    """
    onnx.save(with_batch(onnx.load(source, load_external_data=False)), target)


def with_batch(edge: onnx.ModelProto) -> onnx.ModelProto:
    """An edge graph for batches.

    Inputs ``input_ids`` and ``attention_mask``, int64, *shape:* ``(batch, length)``. Output ``logits``, *shape:*
    ``(batch, labels)`` for sentiment; ``(batch, length, vocabulary)`` for fill-mask, with the logits at every position
    that the attention mask selects and 0 at padding. A row whose attention mask is 0 everywhere is read as if the mask
    were 1 everywhere.

    A text gets the logits of the edge graph bit for bit: for sentiment all of them, for fill-mask those at ``[MASK]``.

    Raises GateError if ``write_edge`` did not make the graph.
    """
    if edge.graph.input[0].name != "input_ids" or {node.name for node in edge.graph.input[1:]} - {KEPT_SHARES}:
        raise GateError("This is not an edge graph: export one with --quantize.")
    columns = edge.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    fill_mask = any(tensor.name == "mask_id" for tensor in edge.graph.initializer)
    constants = _Constants([tensor for tensor in edge.graph.initializer if tensor.name != "unity"])
    body = _text(edge, constants)
    if fill_mask:
        shape = [body.node("Shape", [_PREFIX + "row"], "length"), constants("words", [columns])]
        empty = body.node("ConstantOfShape", [body.node("Concat", shape, "shape", axis=0)], "empty")
        result = _every_position(edge, body, constants, empty)
    else:
        body.add(edge.graph.node)
        result = _LOGITS
    body.node("Identity", [_ON], "goes_on")
    inner = helper.make_graph(
        body.nodes,
        "text",
        [
            helper.make_tensor_value_info(_PREFIX + "number", TensorProto.INT64, []),
            helper.make_tensor_value_info(_ON, TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info(_PREFIX + "goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info(result, TensorProto.FLOAT, [None, columns]),
        ],
    )
    outer = _Nodes()
    size = outer.node("Shape", ["input_ids"], "shape_of_batch")
    # Nothing runs for texts of no tokens, which would end the process.
    texts, length = (outer.node("Gather", [size, constants(name, n)], f"{name}.size") for n, name in enumerate(_AXES))
    count = outer.node("Mul", [texts, outer.node("Min", [length, _PREFIX + "length_axis"], "some")], "count")
    outer.nodes.append(helper.make_node("Loop", [count, ""], [_PREFIX + "all"], name=_PREFIX + "loop", body=inner))
    if fill_mask:
        last = helper.make_node("Identity", [_PREFIX + "all"], ["logits"], name="logits")
    else:
        last = helper.make_node("Squeeze", [_PREFIX + "all", constants("axis_1", [1])], ["logits"], name="logits")
    outer.nodes.append(last)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    output = ["batch", "length", columns] if fill_mask else ["batch", columns]
    model = onnx.ModelProto()
    model.CopyFrom(edge)
    graph = helper.make_graph(
        outer.nodes,
        "batch",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output)],
        constants.tensors,
    )
    model.graph.CopyFrom(graph)
    return model


class _Constants:
    """The constants of the graph. A call adds one and returns its name."""

    def __init__(self, tensors: list[onnx.TensorProto]) -> None:
        self.tensors = tensors

    def __call__(self, name: str, value: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype=np.int64), _PREFIX + name))
        return _PREFIX + name


class _Nodes:
    """The nodes of one body, in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output and return the name of the output, which gets the prefix of this module."""
        output = _PREFIX + output
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def add(self, nodes: Iterable[onnx.NodeProto], renamed: Mapping[str, str] = MappingProxyType({})) -> None:
        """Copy nodes of the edge graph, and rename values: those in _RENAMED and those in ``renamed``."""
        names = {**_RENAMED, **renamed}
        for original in nodes:
            copied = onnx.NodeProto()
            copied.CopyFrom(original)
            copied.name = names.get(original.output[-1], original.name)
            copied.input[:] = [names.get(name, name) for name in original.input]
            copied.output[:] = [names.get(name, name) for name in original.output]
            self.nodes.append(copied)


def _text(edge: onnx.ModelProto, constants: _Constants) -> _Nodes:
    """The nodes that take one text without its padding out of the batch, as the edge graph's input."""
    body = _Nodes()
    row = body.node("Gather", ["input_ids", _PREFIX + "number"], "row", axis=0)
    mask = body.node("Gather", ["attention_mask", _PREFIX + "number"], "mask", axis=0)
    attended = body.node("Cast", [mask], "attended", to=TensorProto.BOOL)
    ones = body.node("Cast", [attended], "attended.ones", to=TensorProto.INT64)
    total = body.node("ReduceSum", [ones], "attended.total", keepdims=1)
    nothing = body.node("Equal", [total, constants("nothing", [0])], "attended.nothing")
    read = body.node("Or", [attended, nothing], "read")
    ids = body.node("Compress", [row, read], "ids", axis=0)
    body.node("Unsqueeze", [ids, constants("axis", [0])], "text")
    # The 1 that sums of attention are inverted with. If it were a constant, ONNX Runtime's optimiser, which the Hub's
    # libraries leave on, would merge the inverse and the product with it into a division, which rounds differently
    # (DivMulFusion). The loop condition is always true, so it is 1.
    body.node("Cast", [_ON], "unity", to=TensorProto.FLOAT)
    return body


def _every_position(edge: onnx.ModelProto, body: _Nodes, constants: _Constants, empty: str) -> str:
    """Add the nodes of a fill-mask graph so that they compute every position, and write the logits into ``empty``.

    *Shape:* ``empty`` and the result are ``(length, vocabulary)``, including the padding.

    The last layer is there twice, for the ``[MASK]`` positions and for the others. It quantizes its activations with
    one scale for all positions that it computes, so ``[MASK]`` gets the bits of the edge graph only apart from the
    others. No group may be empty, because ONNX Runtime 1.31 can't multiply empty matrices; so the first position joins
    an empty group. The head has a scale for each position and is there once.
    """
    before, layer, head = _split(edge)
    body.add(before)
    length = body.node("Squeeze", [body.node("Shape", [_TEXT], "text.shape", start=1, end=2)], "text.length")
    zero, one = constants("zero", 0), constants("step", 1)
    first = body.node("Equal", [body.node("Range", [zero, length, one], "text.positions"), zero], "is_first")
    is_mask = body.node("Equal", [_TEXT, "mask_id"], "is_mask")
    is_other = body.node("Not", [is_mask], "is_other")
    # The hidden states before the last layer are replaced, group by group.
    states = next(node.input[0] for node in layer if node.name == "mask_states")
    for group, chosen in (("other", is_other), ("mask", is_mask)):
        ones = body.node("Cast", [chosen], f"{group}.ones", to=TensorProto.INT64)
        count = body.node("ReduceSum", [ones], f"{group}.count", keepdims=0)
        joins = body.node("And", [first, body.node("Equal", [count, zero], f"{group}.empty")], f"{group}.first")
        renamed = {"is_mask": body.node("Or", [chosen, joins], f"{group}.chosen")}
        renamed |= {name: f"{_PREFIX}{group}.{name}" for node in layer for name in node.output}
        body.add(layer, renamed)
        rows = body.node("Reshape", [renamed[head[0].input[0]], head[0].input[1]], f"{group}.rows")
        states = body.node("ScatterND", [states, renamed["mask_index"], rows], f"{group}.states")
    body.add(head, {head[0].input[0]: states})
    padded = body.node("Transpose", [body.node("NonZero", [_PREFIX + "read"], "read.found")], "read.positions")
    return body.node("ScatterND", [empty, padded, _LOGITS], "every")


def _split(edge: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes that don't depend on which positions are chosen; those of the last layer that do; and the head."""
    before, chosen = [], []
    names = {"is_mask"}
    for node in edge.graph.node:
        if names & set(node.input):
            names |= set(node.output)
            chosen.append(node)
        elif "is_mask" not in node.output:
            before.append(node)
    start = next(index for index, node in enumerate(chosen) if node.name == "head_rows")
    return before, chosen[:start], chosen[start:]
