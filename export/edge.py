"""write_edge: the int8 fill-mask graph for the edge, its head run at [MASK] alone and its embeddings stored once.

A masked language model spends a third of its arithmetic on logits that nobody reads. Here the graph finds the
``[MASK]`` positions itself, gathers their hidden states and runs the head on those rows. Its embedding matrix, int8
with a scale for each row, serves the lookup at the bottom and the projection at the top.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..errors import GateError
from .quantize import RECIPE, quantize

# What edge.json records. Embeddings keep eight bits: the lookup has no products to overflow, and in the projection the
# activations have seven bits instead, so that pairs of products fit into 16 bits on every CPU.
EDGE_RECIPE: dict[str, Any] = {
    **RECIPE,
    "operators": ["MatMul"],
    "embeddings": {"weights": "int8", "per_row": True, "shared_by": ["lookup", "projection"]},
    "head": {"rows": "[MASK]", "activations": "uint8 of 7 bits, a scale a row", "transform": "fp32"},
}
_LEVELS = 63
_CONTRIB = "com.microsoft"


def write_edge(standard: Path, target: Path, mask_id: int | None) -> dict[str, Any]:
    """Write the edge graph of the fp32 graph ``standard`` to ``target``; return the recipe.

    Inputs ``input_ids`` and ``attention_mask``, *shape:* ``(batch, length)``; output ``logits``, *shape:*
    ``(masks, vocabulary)``, the ``[MASK]`` positions in the order of the batch. With ``mask_id`` None every position
    counts for one, *shape:* ``(batch * length, vocabulary)``, which is what tests compare with. A batch must hold at
    least one ``[MASK]``: ONNX Runtime's QGemm takes no empty matrix.

    Raises GateError where ``standard`` is built otherwise than optimum builds a DistilBERT masked LM.
    """
    model = onnx.load(standard)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    head = _head(model)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".edge.") as scratch:
        encoder = Path(scratch, "encoder.onnx")
        extracted = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(
            ["input_ids", "attention_mask"], [head["hidden"]]
        )
        onnx.save(extracted, encoder)
        quantize(encoder, Path(scratch, "int8.onnx"), EDGE_RECIPE)
        graph = onnx.load(Path(scratch, "int8.onnx"))
    words = _share_embeddings(graph, head["words"], numpy_helper.to_array(weights[head["words"]]))
    for name in head["positions"]:
        _share_embeddings(graph, name, numpy_helper.to_array(weights[name]))
    _append_head(graph, {name: numpy_helper.to_array(weights[head[name]]) for name in _HEAD}, head, words, mask_id)
    if all(opset.domain != _CONTRIB for opset in graph.opset_import):
        graph.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    graph.producer_name = "edge-imdb"
    onnx.save(graph, target)
    return EDGE_RECIPE


_HEAD = ("transform", "transform_bias", "norm_weight", "norm_bias", "projection_bias")


def _head(model: onnx.ModelProto) -> dict[str, Any]:
    """The names of the head's input and weights in a graph, found from their PyTorch names."""
    makers = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    names: set[str] = {tensor.name for tensor in model.graph.initializer}

    def one(ending: str) -> str:
        found = [name for name in names if name.endswith(ending)]
        if len(found) != 1:
            raise GateError(
                f"The exported graph has {len(found)} weights named {ending!r} where a DistilBERT masked LM has one: "
                "export with the versions of constraints.txt."
            )
        return found[0]

    def matmul_before(bias: str) -> onnx.NodeProto:
        add = readers[bias][0]
        for name in add.input:
            maker: onnx.NodeProto | None = makers.get(name)
            if maker is not None and maker.op_type == "MatMul":
                return maker
        raise GateError(f"No MatMul feeds {bias} in the exported graph: export with the versions of constraints.txt.")

    biases = one("vocab_transform.bias"), one("vocab_projector.bias")
    transform = matmul_before(biases[0])
    gathers = [node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.input[0] in names]
    words = one("embeddings.word_embeddings.weight")
    return {
        "hidden": transform.input[0],
        "transform": transform.input[1],
        "transform_bias": biases[0],
        "norm_weight": one("vocab_layer_norm.weight"),
        "norm_bias": one("vocab_layer_norm.bias"),
        "projection_bias": biases[1],
        "words": words,
        "positions": [name for name in gathers if name != words and "position" in name],
    }


def quantize_rows(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with a scale for each row. *Shape:* ``(rows, columns)`` to the same and ``(rows, 1)``."""
    scale = np.abs(matrix).max(axis=1, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8), scale


def _share_embeddings(graph: onnx.ModelProto, name: str, matrix: NDArray[np.float32]) -> tuple[str, str]:
    """Store an embedding matrix as int8 rows and look those up; return the names of the rows and of their scales."""
    rows, scale = quantize_rows(matrix)
    body = graph.graph
    kept = [tensor for tensor in body.initializer if tensor.name != name]
    del body.initializer[:]
    names = (f"{name}.int8", f"{name}.scale")
    body.initializer.extend([*kept, numpy_helper.from_array(rows, names[0]), numpy_helper.from_array(scale, names[1])])
    nodes: list[onnx.NodeProto] = []
    for node in body.node:
        if node.op_type != "Gather" or node.input[0] != name:
            nodes.append(node)
            continue
        place = node.output[0]
        nodes += [
            helper.make_node("Gather", [names[0], node.input[1]], [f"{place}.int8"], axis=0),
            helper.make_node("Gather", [names[1], node.input[1]], [f"{place}.scale"], axis=0),
            helper.make_node("Cast", [f"{place}.int8"], [f"{place}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{place}.float", f"{place}.scale"], [place]),
        ]
    del body.node[:]
    body.node.extend(nodes)
    return names


def _append_head(
    graph: onnx.ModelProto,
    weights: dict[str, NDArray[np.float32]],
    head: dict[str, Any],
    words: tuple[str, str],
    mask_id: int | None,
) -> None:
    body = graph.graph

    def constant(name: str, value: Any) -> str:
        body.initializer.append(numpy_helper.from_array(np.asarray(value), f"head.{name}"))
        return f"head.{name}"

    def node(operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        body.node.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    # The rows to run, (masks, width).
    if mask_id is None:
        rows = node("Reshape", [head["hidden"], constant("flat", np.array([-1, len(weights["transform"])]))], "rows")
    else:
        found = node("Equal", ["input_ids", constant("mask_id", np.int64(mask_id))], "is_mask")
        places = node("Transpose", [node("NonZero", [found], "mask_places")], "mask_index", perm=[1, 0])
        rows = node("GatherND", [head["hidden"], places], "rows")

    # transform, GELU with the error function, layer norm: in fp32, for these rows are few.
    inner = node("MatMul", [rows, constant("transform", weights["transform"])], "transform_product")
    inner = node("Add", [inner, constant("transform_bias", weights["transform_bias"])], "transform")
    scaled = node("Mul", [inner, constant("sqrt_half", np.float32(0.5**0.5))], "gelu_scaled")
    error = node("Add", [node("Erf", [scaled], "gelu_erf"), constant("one", np.float32(1))], "gelu_erf_1")
    half = node("Mul", [inner, constant("half", np.float32(0.5))], "gelu_half")
    inner = node("Mul", [half, error], "gelu")
    norms = [constant(name, weights[name]) for name in ("norm_weight", "norm_bias")]
    inner = node("LayerNormalization", [inner, *norms], "normed", axis=-1, epsilon=1e-12)

    # Each row to whole numbers from 1 to 127 with a scale of its own, so that no row depends on the others.
    largest = node("Abs", [inner], "normed_abs")
    largest = node("ReduceMax", [largest, constant("last_axis", np.array([-1]))], "largest", keepdims=1)
    largest = node("Max", [largest, constant("tiny", np.float32(1e-12))], "row_largest")
    unit = node("Div", [inner, largest], "unit")
    step, zero = constant("step", np.float32(1 / _LEVELS)), constant("zero", np.uint8(_LEVELS + 1))
    levels = node("QuantizeLinear", [unit, step, zero], "levels")
    scale = node("Reshape", [words[1], constant("vector", np.array([-1]))], "word_scale")
    # QGemm wants as many zero points as scales.
    word_zero = constant("word_zero", np.zeros(len(weights["projection_bias"]), dtype=np.int8))
    product = node(
        "QGemm",
        [levels, step, zero, words[0], scale, word_zero],
        "product",
        domain=_CONTRIB,
        transA=0,
        transB=1,
        alpha=1.0,
    )
    logits = node("Mul", [product, largest], "unbiased")
    node("Add", [logits, constant("projection_bias", weights["projection_bias"])], "logits")
    del body.output[:]
    body.output.append(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["masks", len(weights["projection_bias"])])
    )
