"""write_edge: the graph that runs on the device, written from a run's weights node by node.

It computes what the standard graph computes, with less work:

- A text comes by itself and unpadded, so there is no attention mask and no arithmetic for one.
- Of the last layer only the rows are computed that the head reads: ``[CLS]`` for sentiment, the ``[MASK]`` positions,
  which the graph finds itself, for fill-mask. With few rows their queries can be multiplied into the keys' weights and
  the weighted mean of the hidden states into the values' weights, so that this layer has no keys and no values:
  ``q . (W h + b) = (q W) . h + q . b``, where ``q . b`` is the same for every position and cancels in the softmax, and
  ``sum p (V h + c) = V (sum p h) + c``.
- Attention is written out, so that it gives the same bits on any x86 CPU with AVX2. ONNX Runtime's fused operator and
  its Softmax add up a row in another order with AVX-512 than with AVX2, and what comes of that falls now and then on
  the other side of a step when it is quantized. Its matrix products, Exp and ReduceSum give the same bits on both.
- A softmax subtracts the largest score of each row, which takes two more passes over all scores. Here a bias of the
  keys does its work: in ``q . (k + b)`` any ``b`` adds the same to a whole row of scores, which cancels. So ``b`` is
  what brings the largest scores of calibration texts nearest to 0, by least squares. Where one of them stays far from
  0, the layer subtracts the largest after all. Should a text be so unlike those that the sum of a row leaves fp32's
  range, the graph gives no number, and the runtime refuses that.
- Residual addition and layer norm are two operators, for the fused one of ONNX Runtime's CPU provider takes seven times
  as long as both; a session on this graph must leave its optimiser off, which would fuse them again.
- Queries, keys and values share one quantization of their input. The embedding matrix is stored once, in int8 with a
  scale for each row; in fill-mask it serves the lookup at the bottom and the projection at the top.

One channel or two of what the feed-forward layers read reach ten times as far as the others, and would take most of the
256 levels for themselves. Where calibration texts show such channels they are divided by what brings them to three
times the median channel, and their weights multiplied by it (the migration of Xiao et al. 2023, "SmoothQuant", section
4, for outliers alone): that halves the error of the logits.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from .. import __version__
from ..bundle import DATA_SUFFIX
from ..defaults import TARGETS
from ..errors import GateError, UsageError

Floats = NDArray[np.float32]

_CONTRIB = "com.microsoft"
_OPSET, _IR = 20, 9
_EPSILON = 1e-12
# Of the vocabulary head's activations, whose weights keep eight bits: seven bits, from 1 to 127 around 64.
_LEVELS = 63
# A channel that reaches over so many times the median channel is an outlier. Chosen on validation among 1.5, 2, 3 and
# 4, as were the two inputs of the feed-forward layers among all inputs.
_OUTLIER = 3.0
_WITH_OUTLIERS = ("attended", "active")
# A row's largest score, in nats, may lie so far from 0 on calibration texts that it need not be brought there.
_REACH = 20.0
# fp32 holds e to the 88th: a row whose sum times this, or its inverse times this, leaves fp32 is refused, which is at
# about 61 nats. The values that the row is multiplied by have the room up to 88.
_HEADROOM = 1e12


def resolve_target(target: str) -> str:
    """One of TARGETS; ``auto`` is what this machine's CPU can do. Raises UsageError for an unknown name."""
    if target == "auto":
        if platform.machine().lower() in ("aarch64", "arm64"):
            return "arm64"
        try:
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
        except OSError:
            return "portable"
        return "avx512-vnni" if "avx512_vnni" in flags else "portable"
    if target not in TARGETS:
        raise UsageError(f"There is no target {target!r}: use auto, {', '.join(TARGETS)}.")
    return target


def recipe_of(task: str, target: str) -> dict[str, Any]:
    """What edge.json records of the quantization."""
    recipe: dict[str, Any] = {
        "method": "dynamic",
        "target": target,
        "weights": "int8",
        "weight_bits": TARGETS[target],
        "activations": "uint8",
        "per_channel": True,
        "reduce_range": TARGETS[target] < 8,
        "embeddings": {"weights": "int8", "per_row": True},
        "outliers": {"scaled_to": _OUTLIER, "of": "the median channel", "inputs": ["ffn.lin1", "ffn.lin2"]},
        "attention": {"weights": "fp32", "order": "fixed", "largest_scores": f"within {_REACH:g} by the keys' bias"},
    }
    if task == "fill-mask":
        recipe["head"] = {"rows": "[MASK]", "activations": "uint8 of 7 bits, a scale a row", "transform": "fp32"}
    return recipe


def write_edge(
    source: Path,
    target: Path,
    task: str,
    *,
    mask_id: int | None = None,
    bits: int | None = TARGETS["portable"],
    calibration: Iterable[Sequence[int]] = (),
) -> None:
    """Write the edge graph of the DistilBERT in the folder ``source`` (config.json, model.safetensors) to ``target``.

    Its weights go to a file beside it, named like ``target`` with ``_data`` at the end.

    Input ``input_ids``, *shape:* ``(1, length)``, one text. Output ``logits``, *shape:* ``(1, labels)`` for sentiment;
    for fill-mask ``(masks, vocabulary)``, the positions that hold ``mask_id``, at least one.
    ``bits`` is the width of the int8 weights; None writes everything in fp32, which is what tests compare with.
    ``calibration`` are texts, as token ids, that show which channels are outliers and how far scores of attention
    reach; without them no channel is one, and every layer finds its largest scores.

    Raises GateError where the checkpoint is no DistilBERT of ``task``, or one that this graph can't express.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    weights = {name: tensor.astype(np.float32) for name, tensor in load_file(source / "model.safetensors").items()}
    if config.get("model_type") != "distilbert" or config.get("activation") not in ("gelu", "relu"):
        raise GateError(
            f"{source} is a {config.get('model_type')} with activation {config.get('activation')!r}: the int8 graph is "
            "made for a DistilBERT with gelu or relu; export without --quantize."
        )
    graph = _Graph(weights, bits)
    texts = list(calibration)
    if texts:
        exact = _build(_Graph(weights, None), config, task, mask_id)
        graph = _Graph(weights, bits, *_calibrate(exact, texts, config))
    _save(_build(graph, config, task, mask_id), target)


def _save(model: onnx.ModelProto, target: Path) -> None:
    """Write the graph, and its weights to a file beside it, which ONNX Runtime maps into memory and doesn't copy."""
    data = target.with_name(target.name + DATA_SUFFIX)
    # onnx appends to a file that is there.
    data.unlink(missing_ok=True)
    onnx.save(model, target, save_as_external_data=True, location=data.name, size_threshold=1024)
    # Which onnx leaves to its owner alone.
    data.chmod(target.stat().st_mode)


def _build(graph: _Graph, config: dict[str, Any], task: str, mask_id: int | None) -> onnx.ModelProto:
    hidden = _embeddings(graph)
    last = config["n_layers"] - 1
    for number in range(last):
        hidden = _layer(graph, number, hidden, config)
    if task == "sentiment":
        span = [graph.constant(name, np.array([n])) for name, n in (("zero", 0), ("one", 1), ("axis_1", 1))]
        rows = graph.node("Slice", [hidden, *span], "cls")
        return graph.model(*_classifier(graph, _layer_at(graph, last, hidden, rows, config)))
    if mask_id is None:
        raise UsageError("A fill-mask graph needs mask_id, the token id of [MASK].")
    rows = _mask_rows(graph, hidden, mask_id, config)
    return graph.model(*_vocabulary(graph, _layer_at(graph, last, hidden, rows, config), config))


def _calibrate(
    model: onnx.ModelProto, texts: list[Sequence[int]], config: dict[str, Any]
) -> tuple[dict[str, Floats], dict[int, Floats]]:
    """What the fp32 graph's run on ``texts`` shows.

    For each value with outlier channels what to divide its channels by, and for each layer whose attention needn't find
    its largest scores the bias of its keys.
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
    scales = {name: np.maximum(1, largest / (_OUTLIER * np.median(largest))) for name, largest in reach.items()}
    outliers = {name: scale.astype(np.float32) for name, scale in scales.items() if scale.max() > 1}
    found = {layer: _key_bias(rows[layer]) for layer in layers}
    return outliers, {layer: bias for layer, bias in found.items() if bias is not None}


def _key_bias(rows: list[tuple[Floats, Floats]]) -> Floats | None:
    """The bias that brings each row's largest score nearest to 0. None where one stays further than _REACH from it.

    For each text the queries, *shape:* ``(heads, length, size)``, and their largest scores, ``(heads, length)``, in
    nats. Returns *shape:* ``(heads * size,)``.
    """
    queries, largest = (np.concatenate(part, axis=1).astype(np.float64) for part in zip(*rows, strict=True))
    biases = []
    for query, score in zip(queries * queries.shape[-1] ** -0.5, largest, strict=True):
        bias = np.linalg.lstsq(query, -score, rcond=None)[0]
        if np.abs(query @ bias + score).max() > _REACH:
            return None
        biases.append(bias)
    return np.concatenate(biases).astype(np.float32)


class _Graph:
    """Nodes and weights as they are added; each method returns the name of what it made."""

    def __init__(
        self,
        checkpoint: dict[str, Floats],
        bits: int | None,
        outliers: dict[str, Floats] | None = None,
        key_biases: dict[int, Floats] | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self.bits = bits
        self._outliers = outliers or {}
        self.key_biases = key_biases or {}
        # Sums of rows of attention that may leave the range of fp32, and their inverses.
        self.watched: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._quantized: dict[str, list[str]] = {}

    def weight(self, name: str) -> Floats:
        """A tensor of the checkpoint. Raises GateError where it is missing."""
        if name not in self._checkpoint:
            raise GateError(
                f"The checkpoint has no weights named {name!r}, as a DistilBERT of this task has: train it with "
                "edge-imdb, or export without --quantize."
            )
        return self._checkpoint[name]

    def constant(self, name: str, value: Any) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, operator: str, inputs: list[str], output: str, contrib: bool = False, **attributes: Any) -> str:
        domain = _CONTRIB if contrib else ""
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def quantize(self, value: str) -> list[str]:
        """Levels, scale and zero point of a value, uint8 with one scale, made once however many read them."""
        if value not in self._quantized:
            outputs = [f"{value}.{part}" for part in ("levels", "scale", "zero")]
            read = value
            if value in self._outliers:
                divisor = self.constant(f"{value}.outliers", 1 / self._outliers[value])
                read = self.node("Mul", [value, divisor], f"{value}.even")
            self._nodes.append(helper.make_node("DynamicQuantizeLinear", [read], outputs, name=f"{value}.quantize"))
            self._quantized[value] = outputs
        return self._quantized[value]

    def matmul(self, value: str, name: str, matrix: Floats, bias: Floats | None, output: str) -> str:
        """``value`` times a weight matrix, plus a bias. *Shape:* ``(..., rows)`` by ``(rows, columns)``."""
        added = [] if bias is None else [self.constant(f"{name}.bias", bias)]
        if self.bits is None:
            product = output if bias is None else f"{output}.product"
            self.node("MatMul", [value, self.constant(name, matrix)], product)
            return self.node("Add", [product, *added], output) if added else product
        if value in self._outliers:
            matrix = matrix * self._outliers[value][:, None]
        columns, scale = quantize_rows(matrix.T, self.bits)
        levels, unit, zero = self.quantize(value)
        inputs = [
            levels,
            self.constant(f"{name}.int8", columns.T),
            unit,
            self.constant(f"{name}.scale", scale[:, 0]),
            zero,
            self.constant(f"zero.{matrix.shape[1]}", np.zeros(matrix.shape[1], dtype=np.int8)),
        ]
        return self.node("MatMulIntegerToFloat", inputs + added, output, contrib=True)

    def linear(self, value: str, name: str, output: str) -> str:
        """A torch Linear of the checkpoint."""
        return self.matmul(value, name, self.weight(f"{name}.weight").T, self.weight(f"{name}.bias"), output)

    def norm(self, value: str, name: str, output: str) -> str:
        parameters = [self.constant(f"{name}.{part}", self.weight(f"{name}.{part}")) for part in ("weight", "bias")]
        return self.node("LayerNormalization", [value, *parameters], output, axis=-1, epsilon=_EPSILON)

    def add_norm(self, value: str, residual: str, name: str, output: str) -> str:
        return self.norm(self.node("Add", [value, residual], f"{output}.sum"), name, output)

    def embedding(self, name: str) -> list[str]:
        """The rows of an embedding matrix, and in int8 their scales."""
        matrix = self.weight(f"{name}.weight")
        if self.bits is None:
            return [self.constant(name, matrix)]
        # Looked up they are in no product that could overflow, so they keep eight bits.
        rows, scale = quantize_rows(matrix)
        return [self.constant(f"{name}.int8", rows), self.constant(f"{name}.scale", scale)]

    def model(self, rows: str | int, columns: int) -> onnx.ModelProto:
        """The graph so far, from ``input_ids`` to ``logits`` of this shape."""
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "length"])
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [rows, columns])
        return helper.make_model(
            helper.make_graph(self._nodes, "edge", [ids], [output], list(self._constants.values())),
            producer_name="edge-imdb",
            producer_version=__version__,
            ir_version=_IR,
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)],
        )


def quantize_rows(matrix: Floats, bits: int = 8) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 with a scale for each row. *Shape:* ``(rows, columns)`` to the same and ``(rows, 1)``."""
    top = 2 ** (bits - 1) - 1
    scale = np.abs(matrix).max(axis=1, keepdims=True) / top
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.clip(np.rint(matrix / scale), -top, top).astype(np.int8), scale


def _embeddings(graph: _Graph) -> str:
    """*Shape:* ``(1, length)`` to ``(1, length, width)``."""
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    first = [graph.constant("zero", np.array([0])), length, graph.constant("axis_0", np.array([0]))]
    found = []
    for kind, operator, places in (("word", "Gather", ["input_ids"]), ("position", "Slice", first)):
        tables = graph.embedding(f"distilbert.embeddings.{kind}_embeddings")
        looked_up = [graph.node(operator, [table, *places], f"{kind}.{n}") for n, table in enumerate(tables)]
        if graph.bits is not None:
            levels = graph.node("Cast", looked_up[:1], f"{kind}.levels", to=TensorProto.FLOAT)
            looked_up = [graph.node("Mul", [levels, looked_up[1]], kind)]
        found += looked_up
    return graph.norm(graph.node("Add", found, "embeddings.sum"), "distilbert.embeddings.LayerNorm", "embeddings")


def _layer(graph: _Graph, number: int, hidden: str, config: dict[str, Any]) -> str:
    """A whole layer. *Shape:* ``(1, length, width)`` to the same."""
    name = f"distilbert.transformer.layer.{number}"
    bias = graph.key_biases.get(number)
    keys = graph.weight(f"{name}.attention.k_lin.weight").T
    query = graph.linear(hidden, f"{name}.attention.q_lin", f"{number}.q")
    key = graph.matmul(hidden, f"{name}.attention.k_lin", keys, bias, f"{number}.k")
    value = graph.linear(hidden, f"{name}.attention.v_lin", f"{number}.v")
    context = _attention(graph, number, [query, key, value], config, near_zero=bias is not None)
    return _after_attention(graph, number, context, hidden, config)


def _attention(graph: _Graph, number: int, parts: list[str], config: dict[str, Any], *, near_zero: bool) -> str:
    """Of queries, keys and values. *Shape:* three times ``(1, length, width)`` to the same.

    ``near_zero`` says that scores may go into Exp as they are.
    """
    heads, width = config["n_heads"], config["dim"]
    size = width // heads
    shape = graph.constant("by_head", np.array([-1, heads, size]))
    query, key, value = (graph.node("Reshape", [part, shape], f"{part}.heads") for part in parts)
    # Strided through the heads, so nothing is copied.
    scores = graph.node(
        "FusedMatMul",
        [query, key],
        f"{number}.scores",
        contrib=True,
        transBatchA=1,
        transBatchB=1,
        transB=1,
        alpha=size**-0.5,
    )
    shares, total = _exponentials(graph, number, scores, near_zero=near_zero)
    inverse = graph.node("Div", [graph.constant("unity", np.float32(1)), total], f"{number}.inverse")
    if near_zero:
        graph.watched += [total, inverse]
    mixed = graph.node("FusedMatMul", [shares, value], f"{number}.mixed", contrib=True, transBatchB=1)
    mixed = graph.node("Mul", [mixed, inverse], f"{number}.weighted")
    mixed = graph.node("Transpose", [mixed], f"{number}.joined", perm=[1, 0, 2])
    return graph.node("Reshape", [mixed, graph.constant("flat", np.array([1, -1, width]))], f"{number}.context")


def _exponentials(graph: _Graph, number: int, scores: str, *, near_zero: bool) -> tuple[str, str]:
    """A softmax but for its division. *Shape:* ``(..., length)`` to the same, and ``(..., 1)``, the sum of each row."""
    last = graph.constant("last_axis", np.array([-1]))
    if not near_zero:
        largest = graph.node("ReduceMax", [scores, last], f"{number}.largest", keepdims=1)
        scores = graph.node("Sub", [scores, largest], f"{number}.scores.below")
    shares = graph.node("Exp", [scores], f"{number}.shares")
    return shares, graph.node("ReduceSum", [shares, last], f"{number}.total", keepdims=1)


def _guarded(graph: _Graph, value: str, output: str) -> str:
    """``value``, or no number where the sum of a row of attention left the range of fp32."""
    if not graph.watched:
        return graph.node("Identity", [value], output)
    total = graph.node("ReduceSum", [graph.node("Sum", graph.watched, "watched")], "watched.total", keepdims=0)
    wide = graph.node("Mul", [total, graph.constant("headroom", np.float32(_HEADROOM))], "watched.wide")
    # 0, or, of an infinite one, no number.
    nothing = graph.node("Sub", [wide, wide], "watched.nothing")
    return graph.node("Add", [value, nothing], output)


def _layer_at(graph: _Graph, number: int, hidden: str, rows: str, config: dict[str, Any]) -> str:
    """A layer at some rows of ``hidden`` alone, without keys and values. *Shape:* ``(1, rows, width)``."""
    name = f"distilbert.transformer.layer.{number}.attention"
    heads, width = config["n_heads"], config["dim"]
    size = width // heads
    # For each head a copy of the row that is 0 outside of that head's part.
    part_of = np.kron(np.eye(heads, dtype=np.float32), np.ones((1, size), dtype=np.float32))
    parts = graph.constant("heads", part_of)
    scale = np.float32(size**-0.5)
    query = graph.matmul(
        rows,
        f"{name}.q_lin",
        scale * graph.weight(f"{name}.q_lin.weight").T,
        scale * graph.weight(f"{name}.q_lin.bias"),
        f"{number}.query",
    )
    query = graph.node("Unsqueeze", [query, graph.constant("axis_2", np.array([2]))], f"{number}.query.wide")
    query = graph.node("Mul", [query, parts], f"{number}.query.apart")
    query = graph.node("Reshape", [query, graph.constant("flat", np.array([1, -1, width]))], f"{number}.query.heads")
    # (1, rows * heads, width): what each head of each row looks for among the hidden states themselves.
    sought = graph.matmul(query, f"{name}.k_lin", graph.weight(f"{name}.k_lin.weight"), None, f"{number}.sought")
    scores = graph.node("FusedMatMul", [sought, hidden], f"{number}.scores", contrib=True, transB=1)
    shares, total = _exponentials(graph, number, scores, near_zero=False)
    mean = graph.node("Div", [graph.node("MatMul", [shares, hidden], f"{number}.mixed"), total], f"{number}.mean")
    value = graph.matmul(mean, f"{name}.v_lin", graph.weight(f"{name}.v_lin.weight").T, None, f"{number}.value")
    value = graph.node(
        "Reshape", [value, graph.constant("rows_by_head", np.array([1, -1, heads, width]))], f"{number}.value.heads"
    )
    value = graph.node("Mul", [value, parts], f"{number}.value.apart")
    value = graph.node("ReduceSum", [value, "axis_2"], f"{number}.value.joined", keepdims=0)
    bias = graph.constant(f"{name}.v_lin.bias", graph.weight(f"{name}.v_lin.bias"))
    context = graph.node("Add", [value, bias], f"{number}.context")
    return _after_attention(graph, number, context, rows, config)


def _after_attention(graph: _Graph, number: int, context: str, residual: str, config: dict[str, Any]) -> str:
    name = f"distilbert.transformer.layer.{number}"
    inner = graph.linear(context, f"{name}.attention.out_lin", f"{number}.out")
    attended = graph.add_norm(inner, residual, f"{name}.sa_layer_norm", f"{number}.attended")
    inner = graph.linear(attended, f"{name}.ffn.lin1", f"{number}.inner")
    inner = graph.node("Gelu" if config["activation"] == "gelu" else "Relu", [inner], f"{number}.active")
    inner = graph.linear(inner, f"{name}.ffn.lin2", f"{number}.outer")
    return graph.add_norm(inner, attended, f"{name}.output_layer_norm", f"{number}.hidden")


def _classifier(graph: _Graph, rows: str) -> tuple[int, int]:
    """*Shape:* ``(1, 1, width)`` to ``(1, labels)``. In fp32: it is a row a text."""
    value = graph.node("Squeeze", [rows, graph.constant("axis_1", np.array([1]))], "first")
    for name, output in (("pre_classifier", "pooled"), ("classifier", "classes")):
        matrix = graph.constant(name, graph.weight(f"{name}.weight"))
        bias = graph.constant(f"{name}.bias", graph.weight(f"{name}.bias"))
        value = graph.node("Gemm", [value, matrix, bias], output, transB=1)
        if name == "pre_classifier":
            value = graph.node("Relu", [value], "pooled.active")
    _guarded(graph, value, "logits")
    return 1, len(graph.weight("classifier.bias"))


def _mask_rows(graph: _Graph, hidden: str, mask_id: int, config: dict[str, Any]) -> str:
    """The hidden states at ``[MASK]``. *Shape:* ``(1, length, width)`` to ``(1, masks, width)``."""
    found = graph.node("Equal", ["input_ids", graph.constant("mask_id", np.int64(mask_id))], "is_mask")
    places = graph.node("NonZero", [found], "mask_places")
    places = graph.node("Transpose", [places], "mask_index", perm=[1, 0])
    rows = graph.node("GatherND", [hidden, places], "mask_states")
    return graph.node("Reshape", [rows, graph.constant("flat", np.array([1, -1, config["dim"]]))], "mask_rows")


def _vocabulary(graph: _Graph, rows: str, config: dict[str, Any]) -> tuple[str, int]:
    """The masked-LM head. *Shape:* ``(1, masks, width)`` to ``(masks, vocabulary)``."""
    inner = graph.node("Reshape", [rows, graph.constant("rows", np.array([-1, config["dim"]]))], "head_rows")
    # In fp32, for these rows are few.
    matrix = graph.constant("vocab_transform", graph.weight("vocab_transform.weight"))
    bias = graph.constant("vocab_transform.bias", graph.weight("vocab_transform.bias"))
    inner = graph.node("Gemm", [inner, matrix, bias], "transform", transB=1)
    inner = graph.node("Gelu" if config["activation"] == "gelu" else "Relu", [inner], "transform.active")
    inner = graph.norm(inner, "vocab_layer_norm", "normed")
    words = graph.embedding("distilbert.embeddings.word_embeddings")
    bias = graph.constant("vocab_projector.bias", graph.weight("vocab_projector.bias"))
    size = len(graph.weight("vocab_projector.bias"))
    if graph.bits is None:
        _guarded(graph, graph.node("Gemm", [inner, words[0], bias], "words", transB=1), "logits")
        return "masks", size
    # Each row to whole numbers from 1 to 127 with a scale of its own, so that no row depends on the others.
    largest = graph.node("Abs", [inner], "normed.abs")
    largest = graph.node("ReduceMax", [largest, graph.constant("last_axis", np.array([-1]))], "normed.max", keepdims=1)
    largest = graph.node("Max", [largest, graph.constant("tiny", np.float32(1e-12))], "row_reach")
    largest = _guarded(graph, largest, "row_largest")
    unit = graph.node("Div", [inner, largest], "unit")
    step = graph.constant("step", np.float32(1 / _LEVELS))
    middle = graph.constant("middle", np.uint8(_LEVELS + 1))
    levels = graph.node("QuantizeLinear", [unit, step, middle], "levels")
    scale = graph.node("Reshape", [words[1], graph.constant("vector", np.array([-1]))], "word_scale")
    # QGemm wants as many zero points as scales.
    zeros = graph.constant(f"zero.{size}", np.zeros(size, dtype=np.int8))
    product = graph.node(
        "QGemm", [levels, step, middle, words[0], scale, zeros], "product", contrib=True, transA=0, transB=1, alpha=1.0
    )
    graph.node("Add", [graph.node("Mul", [product, largest], "unbiased"), bias], "logits")
    return "masks", size
